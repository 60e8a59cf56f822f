"""Feature values as they are: no privacy, for comparison."""

from fedws.core.registry import register
from fedws.split_learning.feature_encoding import FeatureEncoding
from fedws.split_learning.real_valued import FloatEncoding


@register("encoding", "floats")
def floats() -> FeatureEncoding:
    """Float32."""
    return FloatEncoding()
