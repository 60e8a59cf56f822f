"""Unchanged feature values without privacy, for comparison."""

from fedws.core.registry import register
from fedws.split_learning.feature_encoding import FeatureEncoding
from fedws.split_learning.real_valued import FloatEncoding


@register("encoding", "floats")
def floats() -> FeatureEncoding:
    """Return the encoding of values as float32, unchanged."""
    return FloatEncoding()
