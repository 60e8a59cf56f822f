"""Slowness in whole steps, each rarer than the one before: Zipf's law, ``P(slowness = k)`` proportional to k ** -a."""

from typing import Annotated

import numpy as np
from pydantic import Field

from fedws.core.registry import register


@register("slowdown", "zipf")
def zipf(
    num_devices: int, rng: np.random.Generator, *, a: Annotated[float, Field(ge=1.05, le=100)] = 2.0
) -> np.ndarray:
    """Draw from 1, 2, 3, ...; the smaller ``a``, the longer the tail."""
    return rng.zipf(a, num_devices).astype(np.float64)
