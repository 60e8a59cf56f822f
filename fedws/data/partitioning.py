"""The splitting of a data set into shares, and helper functions for partitions."""

import inspect
import re

import numpy as np
import torch

from fedws.core import registry
from fedws.core.errors import UsageError
from fedws.core.spec import Spec
from fedws.data.base import Dataset
from fedws.data.loading import require_labels
from fedws.data.samples import select_samples


def parse_share(text: str) -> tuple[int, int]:
    """Parse ``K/N`` and return K and N, where shares are counted from 0.

    Raises UsageError for another form, or if K is not below N.

    >>> parse_share("0/3")
    (0, 3)
    """
    matched = re.fullmatch(r"([0-9]{1,9})/([0-9]{1,9})", text.strip())
    if matched is None:
        raise UsageError(f"--share {text}: not of the form K/N; use 0/3, for example, for the first of three")
    share, shares = int(matched[1]), int(matched[2])
    if share >= shares:
        raise UsageError(f"--share {text}: share {share} must be below {shares}; the first share is 0")
    return share, shares


def build_generator(seed: int) -> np.random.Generator:
    """Return a random number generator that only depends on the seed. Raises UsageError for a negative seed."""
    if seed < 0:
        raise UsageError(f"the seed of a partition must not be negative, got {seed}")
    return np.random.default_rng(seed)


def check_share_sizes(num_examples: int, num_shares: int, min_per_share: int = 1) -> None:
    """Raise UsageError if there are not enough samples for ``num_shares`` shares of at least ``min_per_share`` each."""
    if num_shares < 1 or min_per_share < 1:
        raise UsageError(f"cannot split samples into {min(num_shares, min_per_share)} parts; use at least 1")
    if num_examples < num_shares * min_per_share:
        raise UsageError(f"{num_examples} samples are too few for {num_shares} shares of at least {min_per_share}")


def select_share(data: Dataset, dataset: str, partition: str, share_index: int, num_shares: int) -> Dataset:
    """Return the samples of one share of ``num_shares``, which is counted from 0, by a registered partition.

    Raises UsageError, as ``split_into_shares`` does.
    """
    return select_samples(data, torch.from_numpy(split_into_shares(data, dataset, partition, num_shares)[share_index]))


def split_into_shares(data: Dataset, dataset: str, partition: str, num_shares: int) -> list[np.ndarray]:
    """Return the indices of the samples in each share, by a registered partition.

    Raises UsageError if the partition rejects its options or the number of samples, or if it needs class labels and the
    data set has none.
    """
    by_label = getattr(registry.find_piece("partition", Spec.parse(partition).name), "by_label", True)
    known = require_labels(data, dataset).numpy() if by_label else np.zeros(len(data), dtype=np.int64)
    parts = registry.build_piece("partition", partition, known, num_shares)
    return [np.asarray(part, dtype=np.int64) for part in parts]


def with_seed(partition: str, seed: int) -> str:
    """Return the spec of the partition with ``seed`` added, if it has this option and the spec does not set it."""
    spec = Spec.parse(partition)
    parameters = inspect.signature(registry.find_piece("partition", spec.name)).parameters
    return f"{partition},seed={seed}" if "seed" in parameters and "seed" not in spec.options else partition
