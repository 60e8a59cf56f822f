"""Everyone gets a mixture of their own, from nearly equal to nearly one label each.

Hsu, Qi and Brown, "Measuring the Effects of Non-Identical Data Distribution for Federated Visual Classification",
2019 (arXiv:1909.06335), section 3, draw each worker's mixture of labels from a Dirichlet distribution. The form here
is that of Yurochkin et al., "Bayesian Nonparametric Federated Learning of Neural Networks", 2019 (arXiv:1905.12022):
the proportions are drawn for each label, among the workers, so that no sample is left over; shares differ in size too.
"""

import math

import numpy as np

from fedws.core.errors import UsageError
from fedws.core.registry import register
from fedws.data.partitioning import build_generator, check_share_sizes

MAX_DRAWS = 1000


@register("partition", "dirichlet")
def dirichlet(targets: np.ndarray, num_shares: int, *, alpha: float = 0.5, seed: int = 1) -> list[np.ndarray]:
    """Deal every label's samples in proportions from Dirichlet(alpha); draw again while a share is empty.

    The smaller ``alpha``, the more the mixtures differ. Raises UsageError when no draw leaves every share a sample.
    """
    check_share_sizes(len(targets), num_shares)
    if not (alpha > 0 and math.isfinite(alpha)):
        raise UsageError(f"dirichlet: alpha must be a finite number above 0, not {alpha}")
    random = build_generator(seed)
    labels, sizes = np.unique(targets, return_counts=True)
    for _ in range(MAX_DRAWS):
        proportions = random.dirichlet([alpha] * num_shares, len(labels))
        ends = np.rint(np.cumsum(proportions, axis=1)[:, :-1] * sizes[:, np.newaxis])
        if not np.isfinite(ends).all():  # an alpha so small that its draws underflow
            continue
        cuts = ends.astype(np.int64)
        counts = np.diff(cuts, axis=1, prepend=0, append=sizes[:, np.newaxis])
        if (counts.sum(axis=0) > 0).all():
            break
    else:
        raise UsageError(f"dirichlet: {MAX_DRAWS} draws left a share of {num_shares} empty; raise alpha above {alpha}")
    parts: list[list[np.ndarray]] = [[] for _ in range(num_shares)]
    for label, row in zip(labels, cuts, strict=True):
        of_label = random.permutation(np.flatnonzero(targets == label))
        for part, piece in zip(parts, np.split(of_label, row), strict=True):
            part.append(piece)
    return [np.sort(np.concatenate(part)) for part in parts]
