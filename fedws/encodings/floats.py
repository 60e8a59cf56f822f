"""Feature values as they are: no privacy, for comparison."""

from fedws.core.registry import register
from fedws.encoding import Encoding
from fedws.reals import Reals


@register("encoding", "floats")
def floats() -> Encoding:
    """Float32."""
    return Reals()
