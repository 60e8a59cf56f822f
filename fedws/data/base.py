"""The protocols of data sets and partitions."""

from typing import Any, Protocol

import numpy as np


class Dataset(Protocol):
    """A torch map-style data set, in which ``data[i]`` is a pair ``(input, target)``.

    Its factory is registered as ``dataset`` and has the parameters ``(root: Path, train: bool, *, options)``.

    A data set may have two more attributes:

    * ``batch(indices: Tensor) -> (inputs, targets)`` reads several samples faster than one at a time.
    * ``targets`` is a list, tuple, array or tensor with the target of each sample. Partitions by label and printed
      counts require class labels here. A class label is a whole number from 0 to 2**20 - 1, or a boolean. Text labels
      must be replaced by numbers, in the same way on every node.
    """

    def __len__(self) -> int:
        """Return the number of samples."""

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        """Return the input and the target of a sample."""


class Partition(Protocol):
    """A function that splits samples into shares.

    It is registered as ``partition`` and has the parameters ``(targets, num_shares, *, options)``. It is not created by
    a factory, but called directly.

    ``targets`` is int64 of shape [n]. If the function has an attribute ``by_label`` that is False, all targets are 0.
    """

    def __call__(self, targets: np.ndarray, num_shares: int) -> list[np.ndarray]:
        """Return ``num_shares`` disjoint index arrays, which together contain every sample once."""
