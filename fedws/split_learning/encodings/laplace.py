"""The Laplace mechanism.

Dwork, McSherry, Nissim, Smith, "Calibrating noise to sensitivity in private data analysis" (TCC 2006).
"""

import math

from fedws.core.registry import register
from fedws.core.validation import Positive
from fedws.split_learning.feature_encoding import FeatureEncoding
from fedws.split_learning.real_valued import NoisyFloatEncoding


@register("encoding", "laplace")
def laplace(*, epsilon: Positive = 2.0, bound: Positive = 1.0) -> FeatureEncoding:
    """Return the encoding with each value clipped to [0, bound], plus Laplace noise, as float32.

    The scale of the noise is ``bound / epsilon``. ``epsilon`` applies to one value; a record of r values spends r times
    as much.
    """
    scale = bound / epsilon
    return NoisyFloatEncoding(
        bound,
        scale,
        lambda noise, shape: noise.laplace(scale, shape),
        lambda distance: distance.abs() / scale + math.log(2 * scale),
        epsilon=epsilon,
    )
