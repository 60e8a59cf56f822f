"""Shares of a data set: which one is a worker's, and what every partition of samples into shares needs."""

import re

import numpy as np

from fedws.core.errors import UsageError


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
