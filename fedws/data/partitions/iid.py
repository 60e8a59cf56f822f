"""Everyone gets the same mixture: samples dealt at random, in shares of equal size."""

import numpy as np

from fedws.core.registry import register
from fedws.data.partitioning import build_generator, check_share_sizes


@register("partition", "iid")
def iid(targets: np.ndarray, num_shares: int, *, seed: int = 1) -> list[np.ndarray]:
    """Shuffle, then cut: the IID split of McMahan et al. 2017, section 3. Sizes differ by one sample at most."""
    check_share_sizes(len(targets), num_shares)
    dealt = np.array_split(build_generator(seed).permutation(len(targets)), num_shares)
    return [np.sort(part) for part in dealt]


iid.by_label = False  # type: ignore[attr-defined]
