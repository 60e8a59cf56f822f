"""Shares of a data set: which one is a worker's, and what every partition of samples into shares needs."""

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
    """``K/N``: the share K of N, counted from 0. Raises UsageError.

    >>> parse_share("0/3")
    (0, 3)
    """
    matched = re.fullmatch(r"([0-9]{1,9})/([0-9]{1,9})", text.strip())
    if matched is None:
        raise UsageError(f"--share {text}: the form is K/N, as 0/3 for the first of three")
    share, shares = int(matched[1]), int(matched[2])
    if share >= shares:
        raise UsageError(f"--share {text}: shares are counted from 0, so that {share} must be below {shares}")
    return share, shares


def build_generator(seed: int) -> np.random.Generator:
    """Randomness that depends on the seed alone. Raises UsageError for a negative one."""
    if seed < 0:
        raise UsageError(f"a partition's seed must not be negative, as {seed} is")
    return np.random.default_rng(seed)


def check_share_sizes(num_examples: int, num_shares: int, min_per_share: int = 1) -> None:
    """Raise UsageError unless so many samples can be cut into ``num_shares`` with at least ``min_per_share`` in every
    one."""
    if num_shares < 1 or min_per_share < 1:
        raise UsageError(f"samples cannot be cut into {min(num_shares, min_per_share)} parts; it takes at least 1")
    if num_examples < num_shares * min_per_share:
        raise UsageError(f"{num_examples} samples are too few for {num_shares} shares of at least {min_per_share}")


def select_share(data: Dataset, dataset: str, partition: str, share_index: int, num_shares: int) -> Dataset:
    """The samples of share ``share_index`` (from 0) of ``num_shares``, dealt by a registered partition."""
    return select_samples(data, torch.from_numpy(split_into_shares(data, dataset, partition, num_shares)[share_index]))


def split_into_shares(data: Dataset, dataset: str, partition: str, num_shares: int) -> list[np.ndarray]:
    """Return the indices of each share, as a registered partition deals the samples.

    Raises UsageError for a partition by label of a data set without class labels.
    """
    by_label = getattr(registry.find_piece("partition", Spec.parse(partition).name), "by_label", True)
    known = require_labels(data, dataset).numpy() if by_label else np.zeros(len(data), dtype=np.int64)
    parts = registry.build_piece("partition", partition, known, num_shares)
    return [np.asarray(part, dtype=np.int64) for part in parts]


def with_seed(partition: str, seed: int) -> str:
    """Return the partition with ``seed``, where it takes a seed and none is given in its own settings."""
    wanted = Spec.parse(partition)
    takes = inspect.signature(registry.find_piece("partition", wanted.name)).parameters
    return f"{partition},seed={seed}" if "seed" in takes and "seed" not in wanted.options else partition
