"""The binary channel: what it tells at most, how often it flips, and what is made of what arrives."""

import math
from decimal import Decimal, localcontext

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from fedws.privacy.binary_channel import BinaryChannel, randomised_response
from tests.helpers.statistics import assert_mean, seeded

MANY = 1_000_000
CHANNELS = [BinaryChannel(0.2, 0.2), BinaryChannel(0.5, 0.05), BinaryChannel(0.3, 0.0), randomised_response(2.0)]
each = pytest.mark.parametrize("channel", CHANNELS, ids=str)


@example(22.18)
@example(100.0)
@example(1e300)
@example(1e-8)
@given(st.floats(1e-8, 50))
def test_randomised_response_never_tells_more_than_epsilon(epsilon: float) -> None:
    channel = randomised_response(epsilon)
    assert channel.p10 == channel.p01 >= 2**-32
    with localcontext(prec=60):
        flip = Decimal(channel.p10)
        assert ((1 - flip) / flip).ln() <= Decimal(epsilon)


@given(st.floats(1e-3, 15))
def test_randomised_response_tells_epsilon_nearly(epsilon: float) -> None:
    assert randomised_response(epsilon).epsilon == pytest.approx(epsilon, rel=1e-3)


def test_flips_have_the_papers_probability() -> None:
    for epsilon in (0.5, 1.0, 2.0, 5.0):
        p = math.exp(epsilon) / (1 + math.exp(epsilon))
        assert randomised_response(epsilon).p10 == pytest.approx(1 - p, abs=2**-31)


@pytest.mark.parametrize("epsilon", [1e-10, 1e-300])
def test_an_epsilon_that_is_too_small_to_be_drawn_is_said(epsilon: float) -> None:
    with pytest.raises(ValueError, match="epsilon is too small for 32 random bits: a received bit"):
        randomised_response(epsilon)


def test_epsilon_is_the_worse_of_both_answers() -> None:
    assert BinaryChannel(0.5, 0.1).epsilon == pytest.approx(math.log(5))
    assert BinaryChannel(0.1, 0.5).epsilon == pytest.approx(math.log(5))
    assert (
        BinaryChannel(0.2, 0.0).epsilon
        == BinaryChannel(0.0, 0.2).epsilon
        == BinaryChannel(0.0, 0.0).epsilon
        == math.inf
    )


@each
def test_bits_flip_as_often_as_it_says(channel: BinaryChannel) -> None:
    ones = channel.send(torch.ones(MANY, dtype=torch.bool), seeded())
    zeros = channel.send(torch.zeros(MANY, dtype=torch.bool), seeded(2))
    assert_mean(~ones, channel.p10, math.sqrt(channel.p10 * (1 - channel.p10)))
    assert_mean(zeros, channel.p01, math.sqrt(channel.p01 * (1 - channel.p01)))


@each
def test_a_bit_does_not_depend_on_its_neighbours(channel: BinaryChannel) -> None:
    bits = torch.arange(MANY) % 2 == 0
    flipped = channel.send(bits, seeded()) ^ bits
    for chosen, chance in ((flipped[::2], channel.p10), (flipped[1::2], channel.p01)):
        both, product = chosen[1:] & chosen[:-1], chance * chance
        assert_mean(both[::2], product, math.sqrt(product * (1 - product)))


@each
def test_the_estimate_has_the_bit_for_its_mean(channel: BinaryChannel) -> None:
    zero, one = channel.estimate(torch.tensor([False, True])).tolist()
    assert (1 - channel.p10) * one + channel.p10 * zero == pytest.approx(1, abs=1e-6)
    assert channel.p01 * one + (1 - channel.p01) * zero == pytest.approx(0, abs=1e-6)
    bits = torch.rand(MANY, generator=torch.Generator().manual_seed(1)) < 0.3
    off = channel.estimate(channel.send(bits, seeded())) - bits.to(torch.float32)
    assert_mean(off, 0, one - zero)


@each
def test_the_likelihood_is_bayes_rule(channel: BinaryChannel) -> None:
    logits = torch.linspace(-8, 8, 33, dtype=torch.float64)
    sent = torch.sigmoid(logits)
    one = (1 - channel.p10) * sent + channel.p01 * (1 - sent)
    for arrived, chance in ((True, one), (False, 1 - one)):
        found = channel.negative_log_likelihood(logits, torch.full(logits.shape, arrived))
        torch.testing.assert_close(found, -chance.log())


def test_what_cannot_arrive_is_as_unlikely_as_what_was_sent() -> None:
    found = BinaryChannel(0.0, 0.0).negative_log_likelihood(torch.tensor([-1e4, 1e4]), torch.tensor([True, False]))
    assert found.tolist() == [1e4, 1e4]


@pytest.mark.parametrize("channel", [*CHANNELS, BinaryChannel(0.0, 0.0)], ids=str)
@pytest.mark.parametrize("arrived", [True, False])
def test_the_likelihood_has_a_gradient_everywhere(channel: BinaryChannel, arrived: bool) -> None:
    logits = torch.tensor([-1e4, -200.0, 0.0, 200.0, 1e4], requires_grad=True)
    found = channel.negative_log_likelihood(logits, torch.full(logits.shape, arrived))
    found.sum().backward()
    assert logits.grad is not None and bool(torch.isfinite(found).all() and torch.isfinite(logits.grad).all())
    assert float(logits.grad[2]) < 0 if arrived else float(logits.grad[2]) > 0
