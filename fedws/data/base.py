"""Protocols of data sets and partitions."""

from typing import Any, Protocol

import numpy as np


class Dataset(Protocol):
    """Samples with labels, as a torch map-style dataset: ``data[i]`` is ``(input, target)``.

    Factory: ``(root: Path, train: bool, *, options)``, registered as ``dataset``. Two attributes are used when they
    are there: ``batch(indices: Tensor) -> (inputs, targets)``, a faster way than one sample at a time, and ``targets``.
    Partitions by label and printed counts need class labels in it: a list, tuple, array or tensor with a whole number
    from 0 to 2**20 - 1, or a boolean, for each sample. Text must be numbered first, in the same way on every node."""

    def __len__(self) -> int:
        """How many samples."""

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        """One sample: input and target."""


class Partition(Protocol):
    """Splits samples among workers; factory and function in one, ``(targets, shares, *, options)``, as ``partition``.

    ``targets`` is int64 of shape [n]; all are 0 for a partition whose attribute ``by_label`` is False. The result is
    ``num_shares`` disjoint index arrays that together hold every sample once.
    """

    def __call__(self, targets: np.ndarray, num_shares: int) -> list[np.ndarray]:
        """Split."""
