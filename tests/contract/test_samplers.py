"""Every registered chooser: all candidates, in an order that only they and the generator decide; nobody is starved."""

import inspect
import random as standard
from collections.abc import Sequence
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedws.core import registry
from fedws.core.errors import UsageError
from fedws.scheduling.base import Sampler, WorkerInfo

NAMES = registry.list_pieces("sampler")


def takes_a_number(name: str) -> bool:
    return "per_round" in inspect.signature(registry.find_piece("sampler", name)).parameters


SOME = [name for name in NAMES if takes_a_number(name)]
every = pytest.mark.parametrize("spec", [*NAMES, *(f"{name}:{number}" for name in SOME for number in (1, 3))])

huge = 10**30
facts = st.tuples(
    st.integers(0, 5000) | st.sampled_from([huge]),
    st.floats(0, 100) | st.sampled_from([1e-300, 1e300]),
    st.integers(0, 1000) | st.sampled_from([huge]),
)
cohorts = st.lists(facts, max_size=50).map(
    lambda found: [WorkerInfo(f"w{number}", *values) for number, values in enumerate(found)]
)


def chooser(spec: str) -> Sampler:
    built: Sampler = registry.build_piece("sampler", spec)
    return built


@every
@settings(deadline=None)
@given(candidates=cohorts, seed=st.integers(0, 2**32))
def test_all_are_ranked_once_whatever_is_known_of_them(spec: str, candidates: list[WorkerInfo], seed: int) -> None:
    before, state = list(candidates), standard.getstate()
    ranked = chooser(spec).rank(candidates, Random(seed))
    assert sorted(ranked) == sorted(candidate.name for candidate in candidates)
    assert chooser(spec).rank(tuple(candidates), Random(seed)) == ranked, "the same seed gives the same rank"
    assert candidates == before and standard.getstate() == state, "nothing else is touched"


@every
@settings(deadline=None)
@given(workers=st.integers(1, 10_000))
def test_a_cohort_is_one_of_those_there_are(spec: str, workers: int) -> None:
    assert 1 <= chooser(spec).cohort_size(workers) <= workers


@pytest.mark.parametrize("name", SOME)
@given(number=st.integers(1, 100), workers=st.integers(1, 100))
def test_the_cohort_is_as_large_as_was_said(name: str, number: int, workers: int) -> None:
    assert chooser(f"{name}:per_round={number}").cohort_size(workers) == min(number, workers)


@pytest.mark.parametrize("name", SOME)
@pytest.mark.parametrize("number", ["0", "-1", "1.5", "some", ""])
def test_a_cohort_that_cannot_be_is_said_in_one_line(name: str, number: str) -> None:
    with pytest.raises(UsageError, match=f"sampler {name}: per_round: ") as caught:
        chooser(f"{name}:{number}")
    assert "\n" not in str(caught.value)


def waits(chooser: Sampler, seconds: Sequence[float], rounds: int) -> list[int]:
    """The most rounds from one order to the next, or to the end, of every worker; told what a coordinator tells."""
    asked, measured, longest = [0] * len(seconds), [0.0] * len(seconds), [0] * len(seconds)
    for round_number in range(1, rounds + 1):
        candidates = [
            WorkerInfo(str(worker), 10 * (worker + 1), measured[worker], round_number - 1 - asked[worker])
            for worker in range(len(seconds))
        ]
        for name in chooser.rank(candidates, Random(f"1/{round_number}"))[: chooser.cohort_size(len(seconds))]:
            worker = int(name)
            longest[worker] = max(longest[worker], round_number - asked[worker])
            asked[worker], measured[worker] = round_number, seconds[worker]
    return [max(one, rounds - last) for one, last in zip(longest, asked, strict=True)]


@every
@pytest.mark.parametrize("seconds", [[1.0] * 9 + [10.0], [1.0, 2.0, 3.0], [0.1] + [1000.0] * 5], ids=len)
def test_nobody_is_starved(spec: str, seconds: list[float]) -> None:
    # 10 times its turn for the slowest, and luck: a worker that holds 10 of 550 samples is asked every 55th time.
    assert max(waits(chooser(spec), seconds, 3000)) <= 600
