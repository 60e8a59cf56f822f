"""Every registered partition: disjoint, covering, deterministic, and no empty share."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedws.core import registry
from fedws.core.errors import UsageError

NAMES = registry.list_pieces("partition")


@pytest.mark.parametrize("name", NAMES)
@settings(deadline=None)
@given(
    targets=st.lists(st.integers(0, 9), min_size=1, max_size=120).map(lambda labels: np.array(labels, dtype=np.int64)),
    shares=st.integers(1, 8),
)
def test_every_sample_is_in_one_share(name: str, targets: np.ndarray, shares: int) -> None:
    before = targets.copy()
    try:
        parts = registry.build_piece("partition", name, targets, shares)
    except UsageError as error:  # too few samples: said, in one line, but never a wrong partition
        assert "\n" not in str(error) and len(targets) < 10 * shares
        return
    assert len(parts) == shares and all(len(part) for part in parts)
    assert all(part.dtype == np.int64 and part.ndim == 1 for part in parts)
    assert sorted(np.concatenate(parts).tolist()) == list(range(len(targets)))
    assert np.array_equal(targets, before)
    again = registry.build_piece("partition", name, targets, shares)
    assert all(np.array_equal(one, other) for one, other in zip(parts, again, strict=True))


@pytest.mark.parametrize("name", NAMES)
def test_it_works_with_samples_enough(name: str) -> None:
    targets = np.arange(6000) % 10
    for shares in (1, 3, 10):
        assert sum(len(part) for part in registry.build_piece("partition", name, targets, shares)) == 6000


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("samples", "shares"), [(0, 1), (2, 3), (5, 0), (5, -1)])
def test_too_little_is_said(name: str, samples: int, shares: int) -> None:
    with pytest.raises(UsageError):
        registry.build_piece("partition", name, np.zeros(samples, dtype=np.int64), shares)


@pytest.mark.parametrize("name", NAMES)
def test_the_global_generator_does_not_show(name: str) -> None:
    targets = np.arange(100) % 10
    np.random.seed(1)
    one = registry.build_piece("partition", name, targets, 4)
    np.random.seed(2)
    other = registry.build_piece("partition", name, targets, 4)
    assert all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))
