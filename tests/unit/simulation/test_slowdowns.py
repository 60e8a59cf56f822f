"""The shipped speeds against what is known of their distributions."""

import math

import numpy as np
import pytest

from fedws.core import registry
from fedws.core.errors import UsageError

MANY = 200_000
WRONG = ["uniform:2,high=1", "uniform:0", "uniform:1,high=inf", "normal:-1", "normal:nan", "normal:1,sd=-1"]
WRONG += ["pareto:0", "pareto:inf", "pareto:1.5,beta=1", "zipf:1", "zipf:x", "paretto"]


def draw(spec: str, devices: int = MANY, seed: int = 1) -> np.ndarray:
    found: np.ndarray = registry.build_piece("slowdown", spec, devices, np.random.default_rng(seed))
    return found


@pytest.mark.parametrize("name", registry.list_pieces("slowdown"))
def test_every_speed_is_seeded_positive_and_finite(name: str) -> None:
    one, again, other = draw(name, 1000), draw(name, 1000), draw(name, 1000, seed=2)
    assert one.shape == (1000,) and one.dtype == np.float64
    assert np.array_equal(one, again)
    assert not np.array_equal(one, other)
    assert (one > 0).all() and np.isfinite(one).all()


@pytest.mark.parametrize("name", registry.list_pieces("slowdown"))
def test_the_global_generator_does_not_show(name: str) -> None:
    np.random.seed(1)
    one = draw(name, 10)
    np.random.seed(2)
    assert np.array_equal(one, draw(name, 10))


def test_uniform() -> None:
    found = draw("uniform:2,high=6")
    assert found.min() >= 2 and found.max() <= 6
    assert found.mean() == pytest.approx(4, abs=0.02)
    assert found.var() == pytest.approx(16 / 12, rel=0.02)


def test_uniform_with_equal_bounds_makes_all_equal() -> None:
    assert set(draw("uniform:1,high=1", 100)) == {1.0}


def test_normal() -> None:
    found = draw("normal:10,sd=2")
    assert found.mean() == pytest.approx(10, abs=0.03)
    assert found.std() == pytest.approx(2, rel=0.02)


def test_normal_is_cut_at_zero() -> None:
    """The mean of N(1, 1) above 0 is 1 + phi(1) / Phi(1), of the half that is left of its bell."""
    density, share = math.exp(-0.5) / math.sqrt(2 * math.pi), (1 + math.erf(math.sqrt(0.5))) / 2
    found = draw("normal:1,sd=1")
    assert found.min() > 0
    assert found.mean() == pytest.approx(1 + density / share, abs=0.01)


@pytest.mark.parametrize("alpha", [1.5, 3.0])
def test_pareto(alpha: float) -> None:
    found = draw(f"pareto:{alpha}")
    assert found.min() >= 1
    for bound in (1.5, 2.0, 4.0):
        assert (found > bound).mean() == pytest.approx(bound**-alpha, abs=0.005)


def test_zipf() -> None:
    found = draw("zipf:3")
    zeta = sum(k**-3.0 for k in range(1, 10_000))
    assert np.array_equal(found, np.rint(found)) and found.min() == 1
    for step in (1, 2, 3):
        assert (found == step).mean() == pytest.approx(step**-3 / zeta, abs=0.005)


@pytest.mark.parametrize("spec", WRONG)
def test_what_cannot_be_is_told_in_one_line(spec: str) -> None:
    with pytest.raises(UsageError) as caught:
        draw(spec, 5)
    assert "\n" not in str(caught.value)
