"""What each chooser promises beyond the contract."""

import math
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import permutations
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedws.core.errors import UsageError
from fedws.core.registry import build_piece, list_pieces
from fedws.scheduling.base import WorkerInfo
from fedws.scheduling.samplers.data_size import DataSizeSampler
from fedws.scheduling.samplers.random import UniformSampler
from fedws.scheduling.samplers.speed import SpeedSampler

CHI_SQUARE_5, CHI_SQUARE_23 = 20.5, 49.7
"""Values that chi-square with 5 and 23 degrees of freedom passes once in a thousand."""


def chi_square(found: Counter[tuple[str, ...]], wanted: dict[tuple[str, ...], float]) -> float:
    assert set(found) <= set(wanted)
    return sum((found[key] - count) ** 2 / count for key, count in wanted.items())


def test_these_are_all() -> None:
    assert list_pieces("sampler") == ["all", "data_size", "random", "speed"]


def test_all_are_asked_in_the_order_of_the_plan() -> None:
    every = build_piece("sampler", "all")
    assert (
        every.rank([WorkerInfo("b"), WorkerInfo("a", response_seconds=1.0)], Random(1)) == ["b", "a"]
        and every.cohort_size(7) == 7
    )
    with pytest.raises(UsageError, match="sampler all does not accept a value"):
        build_piece("sampler", "all:3")


# ------------------------------------------------------------------ random


def test_random_gives_every_order_the_same_chance() -> None:
    candidates = [WorkerInfo(name, samples, rounds_since_selected=samples) for samples, name in enumerate("abcd")]
    found = Counter(
        tuple(UniformSampler().rank(candidates, Random(f"1/{round_number}"))) for round_number in range(12_000)
    )
    assert chi_square(found, dict.fromkeys(permutations("abcd"), 500.0)) < CHI_SQUARE_23


# ------------------------------------------------------------------ data_size


def chance(order: Sequence[str], weights: dict[str, float]) -> float:
    """Of drawing one after the other, each in proportion to its weight among those left."""
    left, product = sum(weights.values()), 1.0
    for name in order:
        product *= weights[name] / left
        left -= weights[name]
    return product


@pytest.mark.parametrize(
    ("samples", "weights"),
    [
        ({"a": 100, "b": 200, "c": 700}, {"a": 1.0, "b": 2.0, "c": 7.0}),
        ({"a": 0, "b": 10, "c": 30}, {"a": 2.0, "b": 1.0, "c": 3.0}),
        ({"a": 0, "b": 0, "c": 0}, {"a": 1.0, "b": 1.0, "c": 1.0}),
        ({"a": 2**40, "b": 2**90, "c": -1}, {"a": 1.0, "b": 1.0, "c": 1.0}),
    ],
    ids=["known", "one unknown counts as the mean", "none known", "not believed"],
)
def test_data_size_draws_in_proportion(samples: dict[str, int], weights: dict[str, float]) -> None:
    candidates = [WorkerInfo(name, count) for name, count in samples.items()]
    found = Counter(
        tuple(DataSizeSampler().rank(candidates, Random(f"1/{round_number}"))) for round_number in range(20_000)
    )
    wanted = {order: 20_000 * chance(order, weights) for order in permutations(weights)}
    assert chi_square(found, wanted) < CHI_SQUARE_5


# ------------------------------------------------------------------ speed


def rounds_asked(
    chooser: SpeedSampler, workers: int, seconds: Callable[[int, int], float], rounds: int, spare: int = 0
) -> list[list[int]]:
    """The rounds in which each was asked, first 0; it then took ``seconds(worker, round)``, 0 if it did not answer."""
    asked: list[list[int]] = [[0] for _ in range(workers)]
    measured = [0.0] * workers
    for round_number in range(1, rounds + 1):
        candidates = [WorkerInfo(str(i), 0, measured[i], round_number - 1 - asked[i][-1]) for i in range(workers)]
        for name in chooser.rank(candidates, Random(f"1/{round_number}"))[: chooser.cohort_size(workers) + spare]:
            asked[int(name)].append(round_number)
            measured[int(name)] = seconds(int(name), round_number) or measured[int(name)]
    return asked


def longest(asked: Sequence[int], rounds: int) -> int:
    return max(after - before for before, after in zip(asked, [*asked[1:], rounds], strict=True))


def bound(ratio: float, workers: int, chooser: SpeedSampler) -> int:
    lap = workers / chooser.per_round
    return math.floor((min(ratio, chooser.max_slowdown) - 1) * lap) + math.ceil(lap)


@settings(deadline=None, max_examples=50)
@given(
    seconds=st.lists(st.integers(1, 40), min_size=1, max_size=12),
    per_round=st.integers(1, 5),
    patience=st.integers(1, 12),
    spare=st.integers(0, 2),
)
def test_everybody_is_asked_within_the_bound(seconds: list[int], per_round: int, patience: int, spare: int) -> None:
    chooser, workers = SpeedSampler(per_round=per_round, max_slowdown=patience), len(seconds)
    asked = rounds_asked(chooser, workers, lambda worker, _: float(seconds[worker]), 400, spare)
    for its, own in zip(asked, seconds, strict=True):
        assert longest(its, 400) <= bound(own / min(seconds), workers, chooser)


@settings(deadline=None, max_examples=50)
@given(workers=st.integers(1, 10), per_round=st.integers(1, 4), seed=st.integers(0, 999))
def test_the_bound_of_the_slowest_holds_whatever_is_measured(workers: int, per_round: int, seed: int) -> None:
    random = Random(seed)
    chooser = SpeedSampler(per_round=per_round, max_slowdown=5)
    asked = rounds_asked(chooser, workers, lambda *_: random.choice([0.0, 0.001, 1.0, 7.0, 1e9]), 300)
    assert max(longest(its, 300) for its in asked) <= bound(math.inf, workers, chooser)


def test_fast_workers_are_asked_in_a_clear_majority() -> None:
    asked = [
        len(its) - 1 for its in rounds_asked(SpeedSampler(per_round=2), 10, lambda i, _: 1.0 if i < 5 else 5.0, 1000)
    ]
    assert sum(asked) == 2000
    assert sum(asked[:5]) > 4 * sum(asked[5:])
    assert min(asked[5:]) >= 1000 / bound(5, 10, SpeedSampler(per_round=2)) - 1
    assert max(asked[:5]) <= min(asked[:5]) * 1.1, "as fast, as often"


def test_one_ten_times_slower_is_asked_every_fiftieth_round() -> None:
    slow = rounds_asked(SpeedSampler(per_round=2), 10, lambda i, _: 10.0 if i == 9 else 1.0, 1000)[9]
    assert longest(slow, 1000) == 50 and len(slow) - 1 >= 20


def test_without_patience_everybody_takes_turns() -> None:
    asked = rounds_asked(SpeedSampler(per_round=2, max_slowdown=1), 6, lambda i, _: 1.0 + i, 300)
    assert [len(its) - 1 for its in asked] == [100] * 6


def test_who_was_never_asked_comes_first() -> None:
    fast, slow, new = WorkerInfo("fast", 0, 1.0, 3), WorkerInfo("slow", 0, 9.0, 5), WorkerInfo("new", 0, 0.0, 6)
    assert SpeedSampler(per_round=1).rank([fast, slow, new], Random(1)) == ["new", "fast", "slow"]


def test_one_that_never_answers_takes_its_turn_only() -> None:
    asked = rounds_asked(SpeedSampler(per_round=1), 3, lambda i, _: 0.0 if i == 0 else 1.0, 300)
    assert [len(its) - 1 for its in asked] == [100, 100, 100]


def test_equals_are_asked_in_a_random_order() -> None:
    candidates = [WorkerInfo(name, 0, 2.0, 1) for name in "abcd"]
    found = Counter(
        tuple(SpeedSampler().rank(candidates, Random(f"1/{round_number}"))) for round_number in range(12_000)
    )
    assert chi_square(found, dict.fromkeys(permutations("abcd"), 500.0)) < CHI_SQUARE_23


@pytest.mark.parametrize("seconds", [math.inf, math.nan, -1.0])
def test_seconds_that_are_none_do_no_harm(seconds: float) -> None:
    candidates = [WorkerInfo("a", 0, seconds, 2), WorkerInfo("b", 0, 1.0, 2), WorkerInfo("c", 0, 2.0, 5)]
    assert sorted(SpeedSampler(per_round=1).rank(candidates, Random(1))) == ["a", "b", "c"]


@pytest.mark.parametrize("patience", ["0.5", "inf", "nan", "long"])
def test_patience_is_at_least_one(patience: str) -> None:
    with pytest.raises(UsageError, match="sampler speed: max_slowdown: "):
        build_piece("sampler", f"speed:2,max_slowdown={patience}")
