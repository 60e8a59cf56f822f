"""Optimised unary encoding: Wang, Blocki, Li, Jha, "Locally differentially private protocols for frequency

estimation" (USENIX Security 2017), section 4.3.
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
    """1 where the value is above 0, kept with probability 1 / 2; a 0 becomes a 1 with probability 1 / (e^E + 1).

    The paper's E is of a vector with a single 1. ``epsilon`` is of one bit, as everywhere here: the greater of the log
    ratios of its two answers, ln((e^E + 1) / 2) of a 1 and ln(2 e^E / (e^E + 1)) of a 0. The first is never less, since
    (x + 1)^2 >= 4 x; so E = ln(2 e^epsilon - 1), and a 0 becomes a 1 with probability e^-epsilon / 2.
    """
    return OneBitEncoding(
        BinaryChannel(p10=representable_probability(0.5), p01=representable_probability(math.exp(-epsilon) / 2)),
        epsilon,
    )
