"""The classic Pareto distribution of slowdowns, with which few devices are very slow.

It is the Pareto distribution of type I with scale 1: ``P(slowdown > x) = x ** -alpha`` for every x above 1.
"""

from typing import Annotated

import numpy as np
from pydantic import Field

from fedws.core.registry import register


@register("slowdown", "pareto")
def pareto(
    num_devices: int, rng: np.random.Generator, *, alpha: Annotated[float, Field(ge=0.1, allow_inf_nan=False)] = 1.5
) -> np.ndarray:
    """Draw slowdowns [num_devices]. A smaller ``alpha`` gives a longer tail.

    The mean is alpha / (alpha - 1), and it is infinite for alpha <= 1.
    """
    return 1 + rng.pareto(alpha, num_devices)  # numpy draws from the Lomax distribution, which starts at 0
