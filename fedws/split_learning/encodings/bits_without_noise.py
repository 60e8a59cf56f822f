"""One bit per feature value without noise, and therefore without a privacy mechanism."""

from fedws.core.registry import register
from fedws.privacy.binary_channel import BinaryChannel
from fedws.split_learning.feature_encoding import FeatureEncoding
from fedws.split_learning.one_bit import OneBitEncoding


@register("encoding", "bits_without_noise")
def bits_without_noise() -> FeatureEncoding:
    """Return the encoding with a 1 for a value above 0, without noise."""
    return OneBitEncoding(BinaryChannel(p10=0.0, p01=0.0), None)
