"""Everyone gets the same mixture: samples dealt at random, in shares of equal size."""

import numpy as np

from fedws.core.registry import register
from fedws.data.partitioning import check, generator


@register("partition", "iid")
def iid(targets: np.ndarray, shares: int, *, seed: int = 1) -> list[np.ndarray]:
    """Shuffle, then cut: the IID split of McMahan et al. 2017, section 3. Sizes differ by one sample at most."""
    check(len(targets), shares)
    dealt = np.array_split(generator(seed).permutation(len(targets)), shares)
    return [np.sort(part) for part in dealt]


iid.by_label = False  # type: ignore[attr-defined]
