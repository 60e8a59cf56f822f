"""Noise against its formulas, and the bits that decide a draw one by one."""

import math
import tracemalloc
from collections.abc import Callable
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import laplace, norm

from fedws.privacy.secure_noise import SecureRandom, representable_probability
from tests.helpers.statistics import SURE, assert_mean, assert_shares, seeded

MANY = 2_500_000  # more than two blocks
STEP = Fraction(1, 2**32)
DRAWS: dict[str, Callable[[SecureRandom, int], torch.Tensor]] = {
    "bernoulli": lambda noise, count: noise.bernoulli(0.3, (count,)),
    "integers": lambda noise, count: noise.integers(1000, (count,)),
    "laplace": lambda noise, count: noise.laplace(2.0, (count,)),
    "normal": lambda noise, count: noise.normal(2.0, (count,)),
}
each = pytest.mark.parametrize("draw", DRAWS.values(), ids=DRAWS)


def scripted(*answers: bytes) -> SecureRandom:
    """Noise from a source that gives these answers one after the other, each as long as it is asked for."""
    left = list(answers)

    def source(count: int) -> bytes:
        answer = left.pop(0)
        assert len(answer) == count
        return answer

    return SecureRandom(source)


def seed() -> None:
    torch.manual_seed(1)
    np.random.seed(1)


def word(value: int, kind: type = np.uint32) -> bytes:
    return np.array([value], kind).tobytes()


# --------------------------------------------------------------------------- any draw


@each
def test_the_operating_system_is_asked_and_no_generator(draw: Callable[[SecureRandom, int], torch.Tensor]) -> None:
    seed()
    fresh = torch.rand(1), np.random.random()
    seed()
    one = draw(SecureRandom(), 1000)
    assert (torch.rand(1), np.random.random()) == fresh
    seed()
    assert not torch.equal(one, draw(SecureRandom(), 1000))
    assert torch.equal(draw(seeded(), 1000), draw(seeded(), 1000))


@each
@pytest.mark.parametrize("count", [0, 1, 1000, MANY])
def test_every_shape_is_filled(draw: Callable[[SecureRandom, int], torch.Tensor], count: int) -> None:
    assert draw(seeded(), count).shape == (count,)
    assert seeded().bernoulli(0.5, (2, 0, 3)).shape == (2, 0, 3)
    assert seeded().normal(1.0, ()).shape == ()


@each
def test_draws_of_two_blocks_do_not_agree(draw: Callable[[SecureRandom, int], torch.Tensor]) -> None:
    found = draw(seeded(), MANY).to(torch.float64)
    for lag in (1, 2, 2**20):
        pairs = torch.corrcoef(torch.stack([found[:-lag], found[lag:]]))[0, 1]
        assert abs(float(pairs)) <= norm.isf(SURE / 2) / math.sqrt(MANY - lag)


@each
def test_memory_is_flat(draw: Callable[[SecureRandom, int], torch.Tensor]) -> None:
    """A block is 1,048,576 draws of 8 bytes, a few times; all draws at once would be more than 200 MB."""
    tracemalloc.start()
    try:
        draw(SecureRandom(), 20 * 2**20)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 80e6


# --------------------------------------------------------------------------- bernoulli


@given(st.floats(0, 1))
def test_a_chance_is_rounded_up_and_never_0(chance: float) -> None:
    found = Fraction(representable_probability(chance))
    assert found % STEP == 0
    assert STEP <= found <= 1
    assert found == 1 or STEP / 2**16 <= found - Fraction(chance) <= STEP * (1 + Fraction(1, 2**15))


@pytest.mark.parametrize("chance", [-1e-9, 1.1, math.nan, math.inf])
def test_what_is_no_probability_is_refused(chance: float) -> None:
    with pytest.raises(ValueError, match="is not a valid probability"):
        representable_probability(chance)


@given(steps=st.integers(0, 2**32), drawn=st.integers(0, 2**32 - 1), near=st.booleans())
def test_a_draw_is_decided_by_32_bits(steps: int, drawn: int, near: bool) -> None:
    if near:  # or a tie of the first byte would be rare
        drawn = min(max(steps + drawn % 5 - 2, 0), 2**32 - 1)
    first, rest = divmod(drawn, 2**24)
    tie = first == steps // 2**24
    noise = scripted(bytes([first]), word(rest << 8 | 0xA5) if tie else b"")
    assert bool(noise.bernoulli(steps / 2**32, (1,))) == (drawn < steps)


@pytest.mark.parametrize("chance", [0.0, 2**-32, 0.001, 0.1, 1 / 256, 0.5, 0.75, 0.9999, 1.0])
def test_the_rate_is_the_chance(chance: float) -> None:
    assert_mean(seeded().bernoulli(chance, (MANY,)), chance, math.sqrt(chance * (1 - chance)))


# --------------------------------------------------------------------------- integers


@pytest.mark.parametrize("k", [2, 3, 9, 10, 256, 1000])
def test_integers_are_equally_likely(k: int) -> None:
    found = seeded().integers(k, (MANY,))
    assert found.dtype == torch.int64
    assert_shares(found.bincount(minlength=k), [1 / k] * k)


def test_a_word_beyond_the_last_multiple_is_drawn_again() -> None:
    k = 3 * 2**30  # a remainder would make its lowest third twice as likely
    assert seeded().integers(1, (3,)).tolist() == [0, 0, 0]
    assert int(scripted(word(2**32 - 1), word(k), word(k - 1)).integers(k, (1,))) == k - 1


# --------------------------------------------------------------------------- laplace and normal


@pytest.mark.parametrize("scale", [0.25, 1.0, 30.0])
def test_laplace_is_distributed_as_it_says(scale: float) -> None:
    found = seeded().laplace(scale, (MANY,))
    assert_mean(found, 0, math.sqrt(2) * scale)
    assert_mean(found.abs(), scale, scale)
    assert_mean(found**2, 2 * scale**2, math.sqrt(20) * scale**2)
    assert_shares(bins(laplace(scale=scale).cdf(found.numpy())), [1 / 64] * 64)


@pytest.mark.parametrize("sigma", [0.25, 1.0, 30.0])
def test_normal_is_distributed_as_it_says(sigma: float) -> None:
    found = seeded().normal(sigma, (MANY,))
    assert_mean(found, 0, sigma)
    assert_mean(found**2, sigma**2, math.sqrt(2) * sigma**2)
    assert_shares(bins(norm(scale=sigma).cdf(found.numpy())), [1 / 64] * 64)


def bins(uniform: np.ndarray) -> torch.Tensor:
    """Counts [64] of what is uniform from 0 to 1, if the distribution is right."""
    return torch.from_numpy(np.bincount((uniform * 64).astype(np.int64).clip(0, 63), minlength=64))


def test_the_rarest_draws_are_finite() -> None:
    last = 2**64 - 1
    for value, size in ((0, 36.74), (1, -36.74), (last, 0), (last - 1, 0)):
        assert float(scripted(word(value, np.uint64)).laplace(1.0, (1,))) == pytest.approx(size, abs=0.01)
    for value, size in ((0, 8.29), (1, -8.29), (last, 0), (last - 1, 0)):
        assert float(scripted(word(value, np.uint64)).normal(1.0, (1,))) == pytest.approx(size, abs=0.01)
