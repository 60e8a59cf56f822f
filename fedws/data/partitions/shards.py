"""The shards partition, which gives each share samples of only a few labels.

It is the "pathological non-IID partition" of MNIST by McMahan, Moore, Ramage, Hampson and Agüera y Arcas,
"Communication-Efficient Learning of Deep Networks from Decentralized Data", 2017 (arXiv:1602.05629), section 3.
"""

import numpy as np

from fedws.core.registry import register
from fedws.data.partitioning import build_generator, check_share_sizes


@register("partition", "shards")
def shards(targets: np.ndarray, num_shares: int, *, per_worker: int = 2, seed: int = 1) -> list[np.ndarray]:
    """Sort the samples by label, split them into shards of equal size, and deal ``per_worker`` random shards to each.

    There are ``num_shares * per_worker`` shards, whose sizes differ by at most one sample. Raises UsageError if there
    are fewer samples than shards.
    """
    check_share_sizes(len(targets), num_shares, per_worker)
    all_shards = np.array_split(np.argsort(targets, kind="stable"), num_shares * per_worker)
    dealt = build_generator(seed).permutation(len(all_shards)).reshape(num_shares, per_worker)
    return [np.sort(np.concatenate([all_shards[index] for index in share])) for share in dealt]
