"""Few devices are very slow: the classic Pareto distribution, from 1 on.

Also known as Pareto's type I with scale 1: ``P(slowness > x) = x ** -alpha`` for every x above 1.
"""

from typing import Annotated

import numpy as np
from pydantic import Field

from fedws.core.registry import register


@register("slowdown", "pareto")
def pareto(
    num_devices: int, rng: np.random.Generator, *, alpha: Annotated[float, Field(ge=0.1, allow_inf_nan=False)] = 1.5
) -> np.ndarray:
    """Draw; the smaller ``alpha``, the longer the tail. Its mean is alpha / (alpha - 1), infinite for alpha <= 1."""
    return 1 + rng.pareto(alpha, num_devices)  # numpy's own is the Lomax distribution, which begins at 0
