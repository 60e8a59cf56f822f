"""Seeded noise, and bounds of statistical tests that are almost never crossed by chance."""

import math
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from scipy.stats import chi2, norm

from fedws.privacy.secure_noise import SecureRandom

SURE = 1e-9
"""Probability that a statistical test fails by chance; with seeded noise, it always gives the same result."""


def seeded(seed: int = 1) -> SecureRandom:
    """Return noise that is the same in every run."""
    return SecureRandom(np.random.default_rng(seed).bytes)


def assert_mean(found: torch.Tensor, mean: float | torch.Tensor, deviation: float | torch.Tensor) -> None:
    """Check that draws [n, ...] with this deviation have the mean, by the normal bound at 1 - SURE for each."""
    bound = norm.isf(SURE / 2) * deviation / math.sqrt(len(found))
    off = (found.to(torch.float64).mean(0) - mean).abs()
    assert bool((off <= torch.as_tensor(bound) + 1e-12).all()), f"{off} is above {bound}"


def assert_shares(found: torch.Tensor, shares: Sequence[float]) -> None:
    """Check that counts [k] fit draws with these probabilities, by the chi-square bound at 1 - SURE."""
    assert sum(shares) == pytest.approx(1)
    expected = torch.tensor(shares, dtype=torch.float64) * found.sum()
    assert float(expected.min()) > 100, "so that the bound holds"
    assert float(((found - expected) ** 2 / expected).sum()) <= chi2.isf(SURE, len(shares) - 1)
