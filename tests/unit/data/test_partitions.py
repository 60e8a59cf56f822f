from collections.abc import Callable

import numpy as np
import pytest

from fedws.core.errors import UsageError
from fedws.data.partitions.dirichlet import dirichlet
from fedws.data.partitions.iid import iid
from fedws.data.partitions.shards import shards

TARGETS = np.repeat(np.arange(10), 60)[np.random.default_rng(0).permutation(600)]


def skew(parts: list[np.ndarray]) -> float:
    """How far the shares' mixtures of labels are from the whole's, 0 to 1."""
    whole = np.bincount(TARGETS, minlength=10) / len(TARGETS)
    mixtures = [np.bincount(TARGETS[part], minlength=10) / len(part) for part in parts]
    return float(np.mean([np.abs(mixture - whole).sum() / 2 for mixture in mixtures]))


def test_iid_shares_are_equal_in_size() -> None:
    assert sorted(len(part) for part in iid(TARGETS, 7)) == [85, 85, 86, 86, 86, 86, 86]


def test_a_small_alpha_skews_more() -> None:
    skews = [skew(dirichlet(TARGETS, 5, alpha=alpha)) for alpha in (0.05, 0.5, 5, 500)]
    assert skews == sorted(skews, reverse=True) and skews[0] > 0.5 and skews[-1] < 0.1


@pytest.mark.parametrize("alpha", [0.0, -1.0, float("nan"), float("inf")])
def test_alpha_must_be_above_zero(alpha: float) -> None:
    with pytest.raises(UsageError, match=f"alpha must be a finite number above 0, got {alpha}"):
        dirichlet(TARGETS, 3, alpha=alpha)


def test_dirichlet_gives_up_on_shares_that_stay_empty() -> None:
    with pytest.raises(UsageError, match=r"each of 1000 draws left one of 3 shares empty; raise alpha above 1e-09"):
        dirichlet(np.zeros(50, dtype=np.int64), 3, alpha=1e-9)  # one label, all of it to one worker


def test_shards_hold_few_labels() -> None:
    parts = shards(TARGETS, 10, per_worker=2)
    assert [len(part) for part in parts] == [60] * 10
    assert max(len(np.unique(TARGETS[part])) for part in parts) <= 2
    assert all(len(np.unique(TARGETS[part])) == 1 for part in shards(TARGETS, 10, per_worker=1))


def test_shards_must_have_samples() -> None:
    with pytest.raises(UsageError, match="600 samples are too few for 10 shares of at least 61"):
        shards(TARGETS, 10, per_worker=61)
    with pytest.raises(UsageError, match="use at least 1"):
        shards(TARGETS, 10, per_worker=0)


@pytest.mark.parametrize("partition", [iid, dirichlet, shards])
def test_another_seed_is_another_partition(partition: Callable[..., list[np.ndarray]]) -> None:
    one, other = partition(TARGETS, 4, seed=1), partition(TARGETS, 4, seed=2)
    assert any(not np.array_equal(a, b) for a, b in zip(one, other, strict=True))
