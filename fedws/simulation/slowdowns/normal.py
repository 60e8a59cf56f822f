"""Most devices are about equally slow: the bell curve, without its part that is not above 0."""

import numpy as np

from fedws.core.registry import register
from fedws.core.validation import NonNegative, Positive


@register("slowdown", "normal")
def normal(num_devices: int, rng: np.random.Generator, *, mean: Positive = 2.0, sd: NonNegative = 0.5) -> np.ndarray:
    """Draw from N(mean, sd^2), and again whatever is not above 0."""
    found = rng.normal(mean, sd, num_devices)
    while (low := found <= 0).any():  # at most half of the curve, since its mean is above 0
        found[low] = rng.normal(mean, sd, int(low.sum()))
    return found
