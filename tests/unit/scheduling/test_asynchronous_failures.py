"""Failures and results that do not fit, without rounds: new requests, exclusions and the end of a run."""

import math
from dataclasses import replace
from typing import Any

import pytest
import torch

from tests.helpers.asynchronous_run import AsynchronousRun
from tests.helpers.scheduled_run import THREE, Kind, task_result

# --------------------------------------------------------------------------- failures


@pytest.mark.parametrize("kind", ["refused", "failed", "rejected"])
def test_what_failed_is_asked_again_at_once_until_the_third_time(kind: Kind) -> None:
    run = AsynchronousRun()
    first = run.open["bob"]
    assert run.fails("bob", kind=kind) == ["1/bob/2"]
    assert replace(run.open["bob"], request_id=first.request_id) == first
    run.reports("alice")
    assert run.fails("bob", kind=kind) == ["1/bob/3"]
    again = run.open["bob"]
    assert again.seed == first.seed and again.tensors is run.state.model, "the same work on the newest model"
    assert run.fails("bob", kind=kind) == []
    (line,) = run.strategy.log_lines(run.state)
    assert line.startswith("bob is excluded: it ") and line.endswith(": no power, three times in a row")
    run.reports("alice")
    assert list(run.record["excluded"]) == ["bob"]
    assert run.joins("bob") == []
    record = run.record
    assert (record["num_results"], record["num_failures"]) == (1, 2), "one was before the version before"


def test_a_report_that_counts_ends_the_row() -> None:
    run = AsynchronousRun()
    for number in range(1, 4):
        assert run.fails("bob") == [f"{number}/bob/2"] and run.fails("bob") == [f"{number}/bob/3"]
        assert run.reports("bob") == [f"{number + 1}/bob"]


def test_when_too_few_are_left_the_run_ends_and_names_them() -> None:
    run = AsynchronousRun(quorum=2)
    for worker in ("bob", "charlie"):
        for _ in range(3):
            assert not run.failure
            run.fails(worker)
    why = "failed: no power, three times in a row"
    few = "too few workers are left for min_results 2"
    assert run.failure == f"version 1: {few}: bob: {why}; charlie: {why}"
    assert run.drops(task_result(run.open["alice"])) and run.awaited == []
    state, orders = run.strategy.resume(run.state, THREE)
    assert not orders and run.strategy.failure(state)


def test_who_is_lost_is_asked_again_when_it_has_joined() -> None:
    run = AsynchronousRun()
    first = run.open["bob"]
    assert run.fails("bob", kind="lost") == [] and run.leaves("bob") == []
    assert run.awaited == []
    run.reports("alice")
    assert run.joins("bob") == ["1/bob/2"]
    again = run.open["bob"]
    assert (again.seed, again.state_round) == (first.seed, 0) and again.tensors is run.state.model
    run.reports("bob")
    assert run.updates == [("bob", 0)], "its order is new"


def test_below_its_quorum_nobody_is_asked_and_those_away_are_awaited() -> None:
    run = AsynchronousRun(quorum=2)
    assert run.leaves("bob") == [] and run.awaited == []
    assert run.leaves("charlie") == [] and run.awaited == ["bob", "charlie"]
    assert run.reports("alice") == [] and run.version == 1, "what was under way still counts"
    assert run.joins("charlie") == ["2/alice", "1/charlie/2"] and run.awaited == []


def test_a_run_begins_when_its_quorum_is_there() -> None:
    run = AsynchronousRun(quorum=2, here=["alice"])
    assert not run.open and run.awaited == ["bob", "charlie"]
    assert run.joins("bob") == ["1/alice", "1/bob"]
    assert run.joins("charlie") == ["1/charlie"]


def test_with_nobody_there_all_are_awaited() -> None:
    run = AsynchronousRun()
    for worker in THREE:
        run.leaves(worker)
    assert run.awaited == [*THREE]
    assert run.joins("bob") == ["1/bob/2"] and run.awaited == []


# --------------------------------------------------------------------------- reports that do not fit


UNFIT: list[Any] = [
    ({"x": torch.ones(1)}, "unexpected tensor 'x'"),
    ({"w": torch.ones(3)}, "w has shape [3], expected [2]"),
    ({"w": torch.ones(2).double()}, "w is float64, expected float32"),
    ({"w": torch.tensor([1, math.nan])}, "w contains NaN"),
    ({"w": torch.tensor([math.inf, 1])}, "w contains Inf"),
    ({"w": torch.full((2,), 13.0)}, "13 is bad luck"),
]


@pytest.mark.parametrize(("tensors", "text"), UNFIT, ids=[text for _, text in UNFIT])
@pytest.mark.parametrize("k", [1, 2])
def test_a_report_that_does_not_fit_is_rejected(tensors: dict[str, Any], text: str, k: int) -> None:
    run = AsynchronousRun(k)
    run.reports("alice", value=2)
    unfit = task_result(run.open["bob"], **tensors)
    assert run.strategy.worker_model(run.state, unfit) is None or "luck" in text
    before = run.version
    assert run.take(unfit) == ["1/bob/2"] and run.version == before
    assert run.said == [f"bob sent a result that was rejected: {text}"]
    run.reports("charlie", value=2)
    assert run.model == [4, 4]
    run.reports("bob", **tensors)
    run.reports("bob", **tensors)
    run.reports("alice", "alice")
    assert list(run.record["excluded"]) == ["bob"]


SPOILT = pytest.mark.parametrize(("values", "text"), [((0.0, 1000.0), "it is full"), ((3e38, 3e38), "w contains Inf")])
"""Two reports that fit the model each, and make no version together."""


@SPOILT
def test_reports_that_make_no_version_are_dropped_and_the_last_is_rejected(
    values: tuple[float, float], text: str
) -> None:
    run = AsynchronousRun(k=2)
    run.reports("alice", value=values[0])
    assert run.reports("bob", value=values[1]) == ["1/bob/2"]
    assert run.said == [f"bob sent a result that was rejected: {text}"]
    assert (run.version, run.model, run.failure) == (0, [0, 0], "")
    run.reports("bob", "charlie", value=3)
    assert run.model == [6, 6], "nothing of what was dropped is in it"
    assert run.updates == [("bob", 0), ("charlie", 0)]


def test_who_alone_spoils_every_version_is_excluded() -> None:
    run = AsynchronousRun(k=1)
    for _ in range(3):
        run.reports("bob", value=1000)
    assert "bob" not in run.open and not run.failure
    run.reports("alice")
    assert list(run.record["excluded"]) == ["bob"] and run.model == [1, 1]


@SPOILT
def test_a_run_that_never_makes_a_version_ends(values: tuple[float, float], text: str) -> None:
    """Alice's first report is taken each time, so her strikes are never three in a row."""
    run = AsynchronousRun(k=2)
    for number in range(9):
        assert not run.failure, number
        run.reports("alice", value=values[0])
        run.reports("alice", value=values[1])
    assert run.failure == f"version 1: the results do not fit the model: {text}"
    assert run.version == 0 and run.model == [0, 0] and run.awaited == []


def test_a_version_ends_the_row_of_those_that_could_not_be_made() -> None:
    run = AsynchronousRun(k=2)
    for _ in range(4):
        for _ in range(8):
            run.reports("alice", value=3e38)
            run.reports("alice", value=3e38)
        run.reports("bob", "bob")
    assert not run.failure and run.version == 4


def test_a_workers_own_model_is_asked_of_the_algorithm_once() -> None:
    run = AsynchronousRun()
    run.reports("alice", value=2)
    order = run.open["bob"]
    found = run.strategy.worker_model(run.state, task_result(order, 5))
    assert found is not None and found["w"].tolist() == [7, 7]
    run.reports("bob")
    assert run.strategy.worker_model(run.state, task_result(order, 5)) is None, "it was answered"
