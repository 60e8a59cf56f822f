"""The uniform distribution of slowdowns between two bounds. With equal bounds, all devices are equal."""

import numpy as np

from fedws.core.errors import UsageError
from fedws.core.registry import register
from fedws.core.validation import Positive


@register("slowdown", "uniform")
def uniform(num_devices: int, rng: np.random.Generator, *, low: Positive = 1.0, high: Positive = 4.0) -> np.ndarray:
    """Draw slowdowns [num_devices] from [low, high). Raise UsageError if ``high`` is less than ``low``."""
    if high < low:
        raise UsageError(f"uniform: high={high:g} is less than low={low:g}")
    return rng.uniform(low, high, num_devices)
