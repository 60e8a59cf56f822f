"""Feature values as they are: no privacy, for comparison."""

from fedws.encoding import Encoding
from fedws.reals import Reals
from fedws.registry import register


@register("encoding", "floats")
def floats() -> Encoding:
    """Float32."""
    return Reals()
