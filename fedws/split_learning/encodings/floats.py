"""Feature values as they are: no privacy, for comparison."""

from fedws.core.registry import register
from fedws.split_learning.encoding import Encoding
from fedws.split_learning.real_valued import Reals


@register("encoding", "floats")
def floats() -> Encoding:
    """Float32."""
    return Reals()
