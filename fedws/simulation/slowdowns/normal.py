"""The normal distribution of slowdowns, truncated to values above 0, with which most devices are similar."""

import numpy as np

from fedws.core.registry import register
from fedws.core.validation import NonNegative, Positive


@register("slowdown", "normal")
def normal(num_devices: int, rng: np.random.Generator, *, mean: Positive = 2.0, sd: NonNegative = 0.5) -> np.ndarray:
    """Draw slowdowns [num_devices] from N(mean, sd^2), and redraw values that are not above 0."""
    slowdowns = rng.normal(mean, sd, num_devices)
    while (invalid := slowdowns <= 0).any():  # at most half of the values on average, because the mean is above 0
        slowdowns[invalid] = rng.normal(mean, sd, int(invalid.sum()))
    return slowdowns
