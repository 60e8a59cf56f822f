"""One bit per feature value, flipped at random: MistNet's encoding."""

from fedws.core.registry import register
from fedws.core.validation import Positive
from fedws.privacy.binary_channel import randomised_response
from fedws.split_learning.feature_encoding import FeatureEncoding
from fedws.split_learning.one_bit import OneBitEncoding


@register("encoding", "bits")
def bits(*, epsilon: Positive = 2.0) -> FeatureEncoding:
    """Return the encoding whose bits are 1 for a value above 0, and are flipped with probability 1 / (1 + e^epsilon).

    ``epsilon`` applies to one bit; a record of r values spends r times as much. Flips are drawn from 32 random bits. A
    bit therefore never reveals more than ``epsilon``, and for an ``epsilon`` above 22.1 no more than 22.2.
    """
    return OneBitEncoding(randomised_response(epsilon), epsilon)
