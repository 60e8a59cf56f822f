"""One bit for each feature value, flipped at random: MistNet's encoding."""

from fedws.core.registry import register
from fedws.core.validation import Positive
from fedws.privacy.binary_channel import randomised_response
from fedws.split_learning.feature_encoding import FeatureEncoding
from fedws.split_learning.one_bit import OneBitEncoding


@register("encoding", "bits")
def bits(*, epsilon: Positive = 2.0) -> FeatureEncoding:
    """1 where the value is above 0, kept with probability e^epsilon / (1 + e^epsilon), else flipped.

    ``epsilon`` is of one bit; a record of r values spends r times as much. What is drawn has 32 random bits, so a bit
    never tells more than ``epsilon``, and above 22.1 no more than 22.2.
    """
    return OneBitEncoding(randomised_response(epsilon), epsilon)
