"""Everyone gets a few labels only.

McMahan, Moore, Ramage, Hampson and Agüera y Arcas, "Communication-Efficient Learning of Deep Networks from
Decentralized Data", 2017 (arXiv:1602.05629), section 3: the "pathological non-IID partition" of MNIST.
"""

import numpy as np

from fedws.core.registry import register
from fedws.data.partitioning import build_generator, check_share_sizes


@register("partition", "shards")
def shards(targets: np.ndarray, num_shares: int, *, per_worker: int = 2, seed: int = 1) -> list[np.ndarray]:
    """Sort by label, cut into ``shares * per_worker`` shards of equal size, deal ``per_worker`` to each at random."""
    check_share_sizes(len(targets), num_shares, per_worker)
    cut = np.array_split(np.argsort(targets, kind="stable"), num_shares * per_worker)
    dealt = build_generator(seed).permutation(len(cut)).reshape(num_shares, per_worker)
    return [np.sort(np.concatenate([cut[shard] for shard in hand])) for hand in dealt]
