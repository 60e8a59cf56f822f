"""The shipped encodings against their formulas: what the contract tests cannot know of them."""

import math
import struct

import mpmath
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from fedws.core import registry
from fedws.core.errors import UsageError
from fedws.split_learning.encodings.gaussian import calibrate_sigma
from fedws.split_learning.feature_encoding import FeatureEncoding
from fedws.split_learning.one_bit import OneBitEncoding
from tests.helpers.statistics import assert_mean, seeded

MANY = 500_000


def build(spec: str) -> FeatureEncoding:
    found: FeatureEncoding = registry.build_piece("encoding", spec)
    return found


def one_bit(spec: str) -> OneBitEncoding:
    found = build(spec)
    assert isinstance(found, OneBitEncoding)
    return found


# --------------------------------------------------------------------------- settings


NAMES = ["bits", "sue", "oue", "laplace", "gaussian"]


@pytest.mark.parametrize("name", NAMES)
def test_epsilon_is_read_as_what_it_is(name: str) -> None:
    """Sedna's "100" runs as 4."""
    assert [build(f"{name}{text}").epsilon for text in ("", ":100", ":epsilon=0.5", ":1e1")] == [2, 100, 0.5, 10]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("text", ["0", "-1", "nan", "inf", "-inf", "none", "", "two", "1e-300", "true"])
def test_an_epsilon_that_cannot_be_is_said(name: str, text: str) -> None:
    with pytest.raises(UsageError) as caught:
        build(f"{name}:{text}")
    assert str(caught.value).startswith(f"encoding {name}:") and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "spec",
    [
        "bits_without_noise:1",
        "floats:epsilon=1",
        "int8:2",
        "laplace:bound=0",
        "laplace:1,bound=inf",
        "gaussian:delta=0",
        "gaussian:1,delta=1",
        "gaussian:delta=nan",
        "bits:delta=0.1",
        "laplace:1e9",
        "gaussian:1,bound=1e38",
        "bit",
        "gaussian:1e-300,delta=1e-300",
        "gaussian:1e300",
    ],
)
def test_options_that_cannot_be_are_said(spec: str) -> None:
    with pytest.raises(UsageError):
        build(spec)


# --------------------------------------------------------------------------- one bit


def test_symmetric_unary_encoding_is_randomised_response_on_half_of_the_papers_epsilon() -> None:
    for whole in (1.0, 4.0, 6.0):
        channel = one_bit(f"sue:{whole / 2}").channel
        p = math.exp(whole / 2) / (math.exp(whole / 2) + 1)
        assert channel.p10 == channel.p01 == pytest.approx(1 - p, abs=2**-31)
        ones, zeros = (1 - channel.p10) / channel.p01, (1 - channel.p01) / channel.p10
        assert math.log(ones) + math.log(zeros) == pytest.approx(whole, rel=1e-6), "two bits differ in the paper"
        assert channel == one_bit(f"bits:{whole / 2}").channel


@pytest.mark.parametrize("epsilon", [0.1, 0.5, 1.0, 2.0, 5.0])
def test_optimised_unary_encoding_is_the_papers(epsilon: float) -> None:
    channel = one_bit(f"oue:{epsilon}").channel
    whole = math.log(2 * math.exp(epsilon) - 1)
    assert channel.p10 == pytest.approx(1 / 2, abs=2**-31)
    assert channel.p01 == pytest.approx(1 / (math.exp(whole) + 1), abs=2**-31)
    one, zero = (1 - channel.p10) / channel.p01, (1 - channel.p01) / channel.p10
    assert math.log(one) == pytest.approx(math.log((math.exp(whole) + 1) / 2), rel=1e-6)
    assert math.log(zero) == pytest.approx(math.log(2 * math.exp(whole) / (math.exp(whole) + 1)), rel=1e-6)
    assert channel.epsilon == math.log(one) == pytest.approx(epsilon, rel=1e-6)
    assert math.log(zero) < epsilon
    assert math.log(one) + math.log(zero) == pytest.approx(whole, rel=1e-6), "two bits differ in the paper"


@pytest.mark.parametrize("name", ["bits", "sue", "oue"])
@example(1e300)
@example(800.0)
@given(epsilon=st.floats(1e-6, 50))
def test_a_bit_never_tells_more_than_epsilon(name: str, epsilon: float) -> None:
    channel = one_bit(f"{name}:{epsilon!r}").channel
    ratios = (1 - channel.p10) / channel.p01, (1 - channel.p01) / channel.p10
    with mpmath.workdps(50):
        assert mpmath.log(max(mpmath.mpf(1 - channel.p10) / channel.p01, ratios[1])) <= epsilon + 1e-15 * epsilon


# --------------------------------------------------------------------------- noise on floats


def test_laplace_has_the_range_over_epsilon_for_scale() -> None:
    noise = sent("laplace:0.5,bound=3", 3.0) - 3
    assert_mean(noise, 0, math.sqrt(2) * 6)
    assert_mean(noise.abs(), 6, 6)


def test_gaussian_has_the_calibrated_deviation_times_the_range() -> None:
    sigma = 3 * calibrate_sigma(0.5, 1e-5)
    noise = sent("gaussian:0.5,bound=3,delta=1e-5", 0.0)
    assert_mean(noise, 0, sigma)
    assert_mean(noise**2, sigma**2, math.sqrt(2) * sigma**2)


def sent(spec: str, value: float) -> torch.Tensor:
    encoding = build(spec)
    packed = encoding.encode(torch.full((MANY, 1), value), seeded())
    return encoding.decode(packed, ()).to(torch.float64)


@pytest.mark.parametrize("delta", [1e-15, 1e-9, 1e-5, 0.01, 0.9])
@pytest.mark.parametrize("epsilon", [1e-6, 0.01, 0.5, 1.0, 2.0, 10.0, 1e4])
def test_the_deviation_is_the_least_that_keeps_delta(epsilon: float, delta: float) -> None:
    """Theorem 8 in 60 digits, of values that differ by 1."""
    sigma = calibrate_sigma(epsilon, delta)
    assert theorem_8(sigma, epsilon) <= delta < theorem_8(sigma * (1 - 3e-6), epsilon)


def theorem_8(sigma: float, epsilon: float) -> mpmath.mpf:
    with mpmath.workdps(60):
        s, e = mpmath.mpf(sigma), mpmath.mpf(epsilon)
        return mpmath.ncdf(1 / (2 * s) - e * s) - mpmath.exp(e) * mpmath.ncdf(-1 / (2 * s) - e * s)


def test_the_textbooks_deviation_would_not_do_above_1() -> None:
    """What makes the calibration worth its lines; below 1 it is the greater by a fifth or more."""
    classical = {epsilon: math.sqrt(2 * math.log(1.25 / 1e-5)) / epsilon for epsilon in (0.5, 30.0)}
    assert theorem_8(classical[30.0], 30.0) > 1e-5
    assert calibrate_sigma(0.5, 1e-5) < 0.85 * classical[0.5]


@pytest.mark.parametrize("epsilon", [0.5, 2.0])
def test_the_density_of_the_noise_is_the_likelihood(epsilon: float) -> None:
    """exp(-likelihood) of one value integrates to 1 over all that may arrive."""
    arrived = torch.linspace(-60, 60, 240_001, dtype=torch.float64)
    packed = build("floats").encode(arrived[:, None], None)
    for name in ("laplace", "gaussian"):
        density = (
            -build(f"{name}:{epsilon}").negative_log_likelihood(torch.full((len(arrived), 1), 0.25), packed)
        ).exp()
        area = torch.trapezoid(density.to(torch.float64), arrived)
        assert float(area) == pytest.approx(1, abs=1e-3)
        assert float(arrived[density.argmax()]) == pytest.approx(0.25, abs=0.01)


# --------------------------------------------------------------------------- int8


@given(st.lists(st.floats(-(2.0**100), 2.0**100, width=32), min_size=1, max_size=20))
def test_a_value_is_off_by_half_a_step_at_most(values: list[float]) -> None:
    encoding, features = build("int8"), torch.tensor([values])
    found = encoding.decode(encoding.encode(features, None), (len(values),)).to(torch.float64)
    step = (max(values) - min(values)) / 255
    rounding = 1e-6 * max(map(abs, values)) + 1e-44
    assert float((found - features).abs().max()) <= step / 2 + rounding


def test_a_record_has_steps_of_its_own() -> None:
    packed = build("int8").encode(torch.tensor([[0.0, 1.0, 255.0], [-5.0, -5.0, -5.0]]), None)
    assert [bytes(record.tolist()) for record in packed] == [
        struct.pack("<2f3B", 0.0, 1.0, 0, 1, 255), struct.pack("<2f3B", -5.0, 0.0, 0, 0, 0),
    ]  # fmt: skip


def test_steps_that_float32_rounds_do_not_run_over() -> None:
    encoding, features = build("int8"), torch.tensor([[0.0, 5e-43]])  # a step of 1.4 times the least float32
    packed = encoding.encode(features, None)
    assert packed[0, -2:].tolist() == [0, 255]


@pytest.mark.parametrize("head", [(math.nan, 1.0), (0.0, math.inf), (3e38, 3e38)])
def test_int8_that_gives_no_number_is_refused(head: tuple[float, float]) -> None:
    packed = torch.tensor(list(struct.pack("<2f2B", *head, 1, 255)), dtype=torch.uint8)[None]
    with pytest.raises(ValueError, match=r"a record contains (NaN|Inf)"):
        build("int8").decode(packed, (2,))
