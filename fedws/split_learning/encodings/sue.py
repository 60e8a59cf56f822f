"""Symmetric unary encoding.

Wang, Blocki, Li, Jha, "Locally differentially private protocols for frequency estimation" (USENIX Security 2017),
section 4.3.
"""

from fedws.core.registry import register
from fedws.core.validation import Positive
from fedws.privacy.binary_channel import randomised_response
from fedws.split_learning.feature_encoding import FeatureEncoding
from fedws.split_learning.one_bit import OneBitEncoding


@register("encoding", "sue")
def sue(*, epsilon: Positive = 2.0) -> FeatureEncoding:
    """Return the encoding whose bits are 1 for a value above 0, and are flipped at random.

    A bit is kept with probability e^(E / 2) / (1 + e^(E / 2)). The paper's E applies to a vector with a single 1, and
    two such vectors differ in two bits. ``epsilon`` applies to one bit, as in all encodings of fedws, and features have
    any number of ones. Therefore E = 2 ``epsilon``, and this is the encoding ``bits`` under its name in the literature.
    """
    return OneBitEncoding(randomised_response(epsilon), epsilon)
