"""The Dirichlet partition, which gives each share its own distribution of labels, from nearly equal to a single label.

Hsu, Qi and Brown, "Measuring the Effects of Non-Identical Data Distribution for Federated Visual Classification",
2019 (arXiv:1909.06335), section 3, draw the label distribution of each worker from a Dirichlet distribution. This
module follows Yurochkin et al., "Bayesian Nonparametric Federated Learning of Neural Networks", 2019
(arXiv:1905.12022): the proportions of the workers are drawn for each label. All samples are therefore used, and the
shares differ in size too.
"""

import math

import numpy as np

from fedws.core.errors import UsageError
from fedws.core.registry import register
from fedws.data.partitioning import build_generator, check_share_sizes

MAX_DRAWS = 1000
"""Maximum number of draws before the partition fails."""


@register("partition", "dirichlet")
def dirichlet(targets: np.ndarray, num_shares: int, *, alpha: float = 0.5, seed: int = 1) -> list[np.ndarray]:
    """Split the samples of each label in proportions from Dirichlet(alpha), and draw again while a share is empty.

    A smaller ``alpha`` makes the label distributions differ more. Raises UsageError for an invalid ``alpha``, if there
    are fewer samples than shares, or if a share is empty in all ``MAX_DRAWS`` draws.
    """
    check_share_sizes(len(targets), num_shares)
    if not (alpha > 0 and math.isfinite(alpha)):
        raise UsageError(f"dirichlet: alpha must be a finite number above 0, got {alpha}")
    random = build_generator(seed)
    labels, sizes = np.unique(targets, return_counts=True)
    for _ in range(MAX_DRAWS):
        proportions = random.dirichlet([alpha] * num_shares, len(labels))
        ends = np.rint(np.cumsum(proportions, axis=1)[:, :-1] * sizes[:, np.newaxis])
        if not np.isfinite(ends).all():  # the draws underflow if alpha is very small
            continue
        cuts = ends.astype(np.int64)
        counts = np.diff(cuts, axis=1, prepend=0, append=sizes[:, np.newaxis])
        if (counts.sum(axis=0) > 0).all():
            break
    else:
        raise UsageError(
            f"dirichlet: each of {MAX_DRAWS} draws left one of {num_shares} shares empty; raise alpha above {alpha}"
        )
    parts: list[list[np.ndarray]] = [[] for _ in range(num_shares)]
    for label, row in zip(labels, cuts, strict=True):
        shuffled = random.permutation(np.flatnonzero(targets == label))
        for part, samples in zip(parts, np.split(shuffled, row), strict=True):
            part.append(samples)
    return [np.sort(np.concatenate(part)) for part in parts]
