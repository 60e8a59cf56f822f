"""Optimised unary encoding.

Wang, Blocki, Li, Jha, "Locally differentially private protocols for frequency estimation" (USENIX Security 2017),
section 4.3.
"""

import math

from fedws.core.registry import register
from fedws.core.validation import Positive
from fedws.privacy.binary_channel import BinaryChannel
from fedws.privacy.secure_noise import representable_probability
from fedws.split_learning.feature_encoding import FeatureEncoding
from fedws.split_learning.one_bit import OneBitEncoding


@register("encoding", "oue")
def oue(*, epsilon: Positive = 2.0) -> FeatureEncoding:
    """Return the encoding with a 1 for a value above 0, kept with probability 1 / 2.

    A 0 becomes a 1 with probability 1 / (e^E + 1). The paper's E applies to a vector with a single 1. ``epsilon``
    applies to one bit, as in all encodings of fedws: it is the greater of the log ratios of the two outcomes,
    ln((e^E + 1) / 2) of a 1 and ln(2 e^E / (e^E + 1)) of a 0. The first is never less, since (x + 1)^2 >= 4 x.
    Therefore E = ln(2 e^epsilon - 1), and a 0 becomes a 1 with probability e^-epsilon / 2.
    """
    return OneBitEncoding(
        BinaryChannel(p10=representable_probability(0.5), p01=representable_probability(math.exp(-epsilon) / 2)),
        epsilon,
    )
