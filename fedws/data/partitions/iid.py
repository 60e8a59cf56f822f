"""The IID partition, which deals samples at random in equal shares, so all shares have the same distribution."""

import numpy as np

from fedws.core.registry import register
from fedws.data.partitioning import build_generator, check_share_sizes


@register("partition", "iid")
def iid(targets: np.ndarray, num_shares: int, *, seed: int = 1) -> list[np.ndarray]:
    """Shuffle the samples and split them into shares whose sizes differ by at most one sample.

    This is the IID partition of McMahan et al., 2017 (arXiv:1602.05629), section 3. Raises UsageError if there are
    fewer samples than shares.
    """
    check_share_sizes(len(targets), num_shares)
    dealt = np.array_split(build_generator(seed).permutation(len(targets)), num_shares)
    return [np.sort(part) for part in dealt]


iid.by_label = False  # type: ignore[attr-defined]
