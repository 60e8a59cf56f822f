"""Results that do not fit the model."""

import math
from typing import Any

import pytest
import torch

from fedws.core.tensors import Tensors
from fedws.protocol.messages import TaskResult
from tests.helpers.scheduled_run import TWO, task_result
from tests.helpers.synchronous_run import Adding, SynchronousRun

UNFIT: list[Any] = [
    ({"x": torch.ones(1)}, "unexpected tensor 'x'"),
    ({"w": torch.ones(2, 2)}, "w has shape [2, 2], expected [2]"),
    ({"w": torch.ones(2).double()}, "w is float64, expected float32"),
    ({"w": torch.tensor([1, math.nan])}, "w contains NaN"),
    ({"w": torch.tensor([math.inf, 1])}, "w contains Inf"),
    ({"w": torch.full((2,), 13.0)}, "13 is bad luck"),
]
unfit = pytest.mark.parametrize(("tensors", "text"), UNFIT, ids=[text for _, text in UNFIT])


@unfit
@pytest.mark.parametrize("place", [0, 1, 2])
def test_a_report_that_does_not_fit_is_rejected_whoever_comes_first(
    tensors: dict[str, Any], text: str, place: int
) -> None:
    run = SynchronousRun(quorum=2)
    for number, worker in enumerate(["alice", "charlie"]):
        if number == place:
            run.reports("bob", **tensors)
            assert run.said == [f"bob sent a result that was rejected: {text}"]
        run.reports(worker, value=2)
    if place == 2:
        assert run.strategy.worker_model(run.state, task_result(run.open["bob"], **tensors)) is None
        run.reports("bob", **tensors)
        assert run.said[0] == f"bob sent a result that was rejected: {text}"
    assert run.version == 1 and run.model == [2, 2] and run.record["missing_workers"] == ["bob"]
    assert run.open["bob"].state_round == 0


def test_whose_reports_never_fit_is_excluded() -> None:
    run = SynchronousRun(quorum=3)
    run.reports("alice", "charlie")
    nan = torch.full((2,), math.nan)
    assert run.reports("bob", w=nan) == ["1/bob/2"] and run.reports("bob", w=nan) == ["1/bob/3"]
    run.reports("bob", w=nan)
    why = "bob: sent a result that was rejected: w contains NaN, three times in a row"
    assert run.failure == f"round 1: too few workers are left for min_results 3: {why}"


def test_a_report_whose_step_overflows_is_rejected() -> None:
    class Squaring(Adding):
        def worker_model(self, model: Tensors, report: TaskResult) -> Tensors | None:
            return {"w": report.tensors["w"] ** 2}

    run = SynchronousRun(TWO, algorithm=Squaring())
    run.reports("bob", value=3e38)
    assert run.said == ["bob sent a result that was rejected: w contains Inf"]


@unfit
def test_an_algorithm_without_models_of_workers_has_its_result_checked(tensors: dict[str, Any], text: str) -> None:
    class Silent(Adding):
        def worker_model(self, model: Tensors, report: TaskResult) -> None:
            return None

    run = SynchronousRun(TWO, algorithm=Silent())
    if "contains" in text:
        assert run.reports("bob") == [] and run.reports("alice", **tensors) == ["1/alice/2"], "seen by itself"
        return
    assert run.reports(*TWO, **tensors) == []
    assert run.failure == f"round 1: the results do not fit the model: {text}"
    assert run.version == 0 and run.model == [0, 0] and run.awaited == []


def test_a_result_that_is_no_number_ends_the_run() -> None:
    class Bursting(Adding):
        def server_update(self, model: Tensors, aggregated: Tensors, round_number: int) -> Tensors:
            return {"w": aggregated["w"] * math.inf}

        def worker_model(self, model: Tensors, report: TaskResult) -> None:
            return None

    run = SynchronousRun(TWO, algorithm=Bursting())
    run.reports(*TWO)
    assert run.failure == "round 1: the results do not fit the model: w contains Inf"
    state, orders = run.strategy.resume(run.state, TWO)
    assert not orders and run.strategy.failure(state) == run.failure, "and so it stays"


def test_a_workers_own_model_is_of_the_model_it_was_sent() -> None:
    run = SynchronousRun(TWO)
    run.reports(*TWO)
    found = run.strategy.worker_model(run.state, task_result(run.open["alice"], 5))
    assert found is not None and found["w"].tolist() == [6, 6]
    order = run.open["alice"]
    run.reports("alice")
    assert run.strategy.worker_model(run.state, task_result(order, 5)) is None, "it was answered"
