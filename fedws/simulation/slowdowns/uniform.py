"""Every slowness between two bounds has the same chance; with equal bounds, all devices are equal."""

import numpy as np

from fedws.core.errors import UsageError
from fedws.core.registry import register
from fedws.core.validation import Positive


@register("slowdown", "uniform")
def uniform(num_devices: int, rng: np.random.Generator, *, low: Positive = 1.0, high: Positive = 4.0) -> np.ndarray:
    """Draw from [low, high). Raises UsageError when ``high`` is below ``low``."""
    if high < low:
        raise UsageError(f"uniform: high must not be below low, {low:g}, as {high:g} is")
    return rng.uniform(low, high, num_devices)
