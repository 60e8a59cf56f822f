"""The Gaussian mechanism with analytical calibration.

Balle and Wang, "Improving the Gaussian mechanism for differential privacy: analytical calibration and optimal
denoising" (ICML 2018). The formula of the textbook is wrong for an epsilon above 1.
"""

import math
from typing import Annotated

from pydantic import Field
from scipy.optimize import brentq
from scipy.special import log_ndtr

from fedws.core.registry import register
from fedws.core.validation import Positive
from fedws.split_learning.feature_encoding import FeatureEncoding
from fedws.split_learning.real_valued import NoisyFloatEncoding


@register("encoding", "gaussian")
def gaussian(
    *, epsilon: Positive = 2.0, bound: Positive = 1.0, delta: Annotated[float, Field(gt=0, lt=1)] = 1e-9
) -> FeatureEncoding:
    """Return the encoding with each value clipped to [0, bound], plus noise from N(0, sigma^2), as float32.

    ``epsilon`` and ``delta`` apply to one value; a record of r values spends r times as much of both.
    """
    sigma = bound * calibrate_sigma(epsilon, delta)
    return NoisyFloatEncoding(
        bound,
        sigma,
        lambda noise, shape: noise.normal(sigma, shape),
        lambda distance: (distance / sigma) ** 2 / 2 + math.log(sigma * math.sqrt(2 * math.pi)),
        epsilon=epsilon,
        delta=delta,
    )


def calibrate_sigma(epsilon: float, delta: float) -> float:
    """Return the least standard deviation that keeps (epsilon, delta) for values that differ by at most 1."""

    def beyond(log_sigma: float) -> float:
        return log_min_delta(math.exp(log_sigma), epsilon) - math.log(delta)

    low = high = 0.0
    while beyond(low) <= 0:
        low -= 1
    while beyond(high) > 0:
        high += 1
    return math.exp(float(brentq(beyond, low, high)) + 1e-6)  # a millionth more, since ``log_min_delta`` is rounded


def log_min_delta(sigma: float, epsilon: float) -> float:
    """Return the log of the least delta with which noise of ``sigma`` keeps epsilon, -inf if it is 0 (Theorem 8).

    delta = Phi(1 / (2 sigma) - epsilon sigma) - e^epsilon Phi(-1 / (2 sigma) - epsilon sigma), which falls in sigma.
    """
    half, shift = 1 / (2 * sigma), epsilon * sigma
    first, second = float(log_ndtr(half - shift)), epsilon + float(log_ndtr(-half - shift))
    return first + math.log1p(-math.exp(second - first)) if second < first else -math.inf
