"""The Zipf distribution of slowdowns, which are whole numbers: ``P(slowdown = k)`` is proportional to k ** -a."""

from typing import Annotated

import numpy as np
from pydantic import Field

from fedws.core.registry import register


@register("slowdown", "zipf")
def zipf(
    num_devices: int, rng: np.random.Generator, *, a: Annotated[float, Field(ge=1.05, le=100)] = 2.0
) -> np.ndarray:
    """Draw slowdowns [num_devices] from 1, 2, 3, ... A smaller ``a`` gives a longer tail."""
    return rng.zipf(a, num_devices).astype(np.float64)
