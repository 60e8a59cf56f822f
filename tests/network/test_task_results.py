"""Nodes that answer late, wrongly or not at all: what it costs, and what is said of it."""

import asyncio
import contextlib
import json
import logging
import re
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch

import fedws
from fedws.algorithms.fedavg import fit
from fedws.algorithms.fedsgd import send_gradient
from fedws.network.base import Limits
from fedws.node.evaluator import evaluate_request
from fedws.protocol.messages import TaskRequest, TaskResult
from fedws.training.base import Task
from tests.helpers.federation import PATIENCE, WORKERS, Gate, changed, evaluating, federation, happens, worker
from tests.helpers.support import recorded


def told(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What the coordinator said of rounds and scores, and in which order."""
    begin = ("Training round", "Evaluating", "Scores missing", "Model update", "Federated", "Waiting")
    return [text for text in caplog.messages if text.startswith(begin) and "Percentage" not in text]


def excluded(worker: str, what: str, quorum: int = 1, round_number: int = 1) -> str:
    """Why a run ends that cannot do without a worker: a pattern, as ``what`` is."""
    few = f"round {round_number}: too few workers are left for min_results {quorum}"
    return rf"^{few}: {worker}: {what}, three times in a row$"


SOON = Limits(peer_timeout=1.5)
"""So that tests need not wait long for who is gone."""


@pytest.fixture(autouse=True)
def _every_line(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "fedws")


# ------------------------------------------------------------------ the evaluator


async def test_an_absent_evaluator_costs_scores_only(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with federation("memory", nodes=WORKERS) as settings:
        settings = {**settings, "evaluator": {"testing": "memory://nowhere"}, "peer_timeout": 0.5}
        result = await fedws.run(run_dir=tmp_path / "run", **settings)
    missing = f"{', '.join((*WORKERS, 'federated'))} (testing: no node serves memory://nowhere)"
    waiting, *others = told(caplog)
    assert waiting.startswith("Waiting for testing at memory://nowhere (no node serves")
    assert others == [
        "Training round 1/2",
        "Evaluating models",
        f"Scores missing in round 1: {missing}",
        "Training round 2/2",
        "Evaluating models",
        f"Scores missing in round 2: {missing}",
    ]
    assert [record["kind"] for record in result.metrics] == ["round", "round"]
    assert result.accuracy is None
    assert (tmp_path / "run" / "curves.png").exists()


async def test_a_slow_evaluator_delays_lines_and_no_round(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Rounds go on while nothing is scored, no more than eight models wait, and the lines still come in order."""
    rounds = 6
    gate = Gate(task=evaluate_request)
    waiting: list[int] = []
    run_dir = tmp_path / "run"

    def look(record: Mapping[str, Any]) -> None:
        if record["kind"] == "round":
            waiting.append(len(list((run_dir / "pending_evaluations").glob("*.safetensors"))))
            if record["round"] == rounds:
                gate.opened.set()

    def after(order: TaskRequest, workspace: fedws.TaskContext) -> TaskResult:
        assert order.round == 1 or gate.entered.wait(PATIENCE), "the first score has begun"
        return fit(order, workspace)

    async with federation(score=gate, tasks={"alice": after}) as settings:
        result = await fedws.run(run_dir=run_dir, observers=[look], **{**settings, "rounds": rounds})
    assert len(waiting) == rounds, "all rounds ended before the first score"
    assert max(waiting) == 8 + 1, "and the one that is being scored"
    lines = told(caplog)
    heads = [line for line in lines if not line.startswith(("Model", "Federated", "Scores"))]
    numbers = range(1, rounds + 1)
    assert heads == [text for r in numbers for text in (f"Training round {r}/{rounds}", "Evaluating models")]
    scored = [(record["round"], record["model"]) for record in result.metrics if record["kind"] == "evaluation"]
    assert scored[0] == (1, "alice")
    assert len(scored) == 1 + 8, "what was being scored, and what waited"
    assert {(r, "federated") for r in numbers} < set(scored), "workers' models are given up first"
    skipped = [line for line in lines if line.startswith("Scores missing")]
    assert skipped[2] == f"Scores missing in round 3: {', '.join(WORKERS)} (the evaluator is too slow)"
    assert len(skipped) == len({line.partition(":")[0] for line in skipped}), "one line says all of a round"


async def test_an_evaluator_that_is_lost_costs_what_it_had_not_scored(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Once it has been away for the silence."""
    gate = Gate(task=evaluate_request, held=(2,))
    async with federation(nodes=WORKERS, limits=SOON) as settings:
        async with fedws.serve(evaluating(gate), "ws://localhost:0", SOON) as url:
            settings = {**settings, "evaluator": {"testing": url}, "peer_timeout": SOON.peer_timeout}
            run = asyncio.create_task(fedws.run(run_dir=tmp_path / "run", **settings))
            await happens(gate.entered)
        result = await run
    models = [record["model"] for record in result.metrics if record["kind"] == "evaluation"]
    assert models == [*WORKERS, "federated"], "round 1"
    missing = "alice, bob, charlie, federated (testing: connection refused)"
    assert told(caplog)[-1] == f"Scores missing in round 2: {missing}"


GOOD = {"num_examples": 120, "loss": 1.0, "num_correct": 12, "predicted_label_counts": [12] * 10}
NONSENSE: dict[str, dict[str, Any]] = {
    "nothing": {},
    "texts": {"num_examples": "many", "loss": "little"},
    "no samples": {**GOOD, "num_examples": 0},
    "negative": {**GOOD, "num_examples": -120},
    "more correct than samples": {**GOOD, "num_correct": 121},
    "negative correct": {**GOOD, "num_correct": -1},
    "histogram without correct": {**GOOD, "num_correct": None},
    "histogram of texts": {**GOOD, "predicted_label_counts": ["12"] * 3 + ["x"]},
    "histogram of negatives": {**GOOD, "predicted_label_counts": [-1, 121]},
    "histogram of others": {**GOOD, "predicted_label_counts": [120, 120]},
    "a nested list": {**GOOD, "loss": [[1.0]]},
    "a fraction": {**GOOD, "num_correct": 0.5},
}


async def test_nonsense_from_the_evaluator_is_no_score(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Each model gets another nonsense; the run ends well, and says of each what was wrong."""
    nonsense = iter(NONSENSE.values())

    def score(order: TaskRequest, workspace: fedws.TaskContext) -> TaskResult:
        return TaskResult(
            request_id=order.request_id, worker="testing", round=order.round, num_examples=1, metrics=next(nonsense)
        )

    async with federation("memory", score=score, nodes=("alice", "testing")) as settings:
        settings = {**settings, "evaluate_worker_models": 1, "rounds": 1}  # the third in a row would be the last
        for number in range(len(NONSENSE) // 2):
            result = await fedws.run(run_dir=tmp_path / str(number), **settings)
            assert [record for record in result.metrics if record["kind"] == "evaluation"] == []
            assert result.accuracy is None
    lines = [line for line in told(caplog) if line.startswith("Scores missing")]
    assert len(lines) == len(NONSENSE) // 2
    assert all(line.count("(invalid evaluation: ") == 2 for line in lines), lines


async def test_a_score_without_its_histogram_has_an_accuracy_and_no_shares(tmp_path: Path) -> None:
    """The evaluator keeps it back where a cell is of fewer samples than its policy wants."""

    def score(order: TaskRequest, workspace: fedws.TaskContext) -> TaskResult:
        metrics = {**GOOD, "predicted_label_counts": None}
        return TaskResult(
            request_id=order.request_id, worker="testing", round=order.round, num_examples=120, metrics=metrics
        )

    async with federation("memory", score=score, nodes=("alice", "testing")) as settings:
        result = await fedws.run(run_dir=tmp_path / "run", **settings)
    assert result.accuracy == 0.1 and {record["predicted_label_counts"] for record in result.evaluations()} == {None}
    log = (tmp_path / "run" / "run.log").read_text()
    assert "Federated model: Average loss: 1.0000, Accuracy: 12/120 (10.00%)" in log and "Percentage" not in log
    assert (tmp_path / "run" / "curves.png").is_file()


async def test_a_loss_that_is_no_number_is_recorded_as_one_can_read(tmp_path: Path) -> None:
    """Training may diverge; metrics.jsonl stays JSON that every reader takes."""

    def diverged(order: TaskRequest, workspace: fedws.TaskContext) -> TaskResult:
        score = {**asdict(fedws.EvalResult(120, float("nan"), 12, [120] + [0] * 9))}
        return TaskResult(
            request_id=order.request_id, worker="testing", round=order.round, num_examples=120, metrics=score
        )

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    async with federation("memory", score=diverged, nodes=("alice", "testing")) as settings:
        result = await fedws.run(run_dir=tmp_path / "run", **settings)
    assert result.accuracy == 0.1
    for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines():
        json.loads(line, parse_constant=refuse)


# ------------------------------------------------------------------ workers


async def test_a_lost_worker_ends_the_run_by_name(tmp_path: Path) -> None:
    """In round 2, when it has been awaited for the silence; what round 1 made is kept."""
    gate = Gate(held=(2,))
    async with federation(nodes=("alice", "charlie", "testing"), limits=SOON) as settings:
        async with fedws.serve(worker("bob", gate), "ws://localhost:0", SOON) as url:
            settings["workers"]["bob"] = url
            run = asyncio.create_task(fedws.run(run_dir=tmp_path / "run", **settings, peer_timeout=SOON.peer_timeout))
            await happens(gate.entered)
        with pytest.raises(fedws.RunFailed) as failed:
            await run
    assert str(failed.value) == f"not connected within 1.5 s: bob at {url} (connection refused)"
    assert [record["round"] for record in recorded(tmp_path / "run", "round")] == [1]
    assert (tmp_path / "run" / "model.safetensors").exists()
    assert (tmp_path / "run" / "curves.png").exists()


async def test_a_worker_that_is_gone_between_rounds_ends_the_run_by_name(tmp_path: Path) -> None:
    """Its answer is in and the others' are not when its link goes down."""
    gate = Gate(held=(1,))
    async with federation(nodes=("alice", "testing"), tasks={"alice": gate}, limits=SOON) as settings:
        async with fedws.serve(worker("bob"), "ws://localhost:0", SOON) as url:
            settings["workers"]["bob"] = url
            run = asyncio.create_task(fedws.run(run_dir=tmp_path / "run", **settings, peer_timeout=SOON.peer_timeout))
            await happens(gate.entered)
        gate.opened.set()
        why = rf"not connected within 1\.5 s: bob at {url} \(connection refused\)$"
        with pytest.raises(fedws.RunFailed, match=why):
            await run


def reporting(**tensors: torch.Tensor) -> Any:
    """A task whose report is honest but for these tensors."""

    def task(order: TaskRequest, workspace: fedws.TaskContext) -> TaskResult:
        report = fit(order, workspace)
        return changed(report, tensors={**report.tensors, **tensors})

    return task


def nothing(order: TaskRequest, workspace: fedws.TaskContext) -> TaskResult:
    """A report without tensors."""
    return changed(fit(order, workspace), tensors={})


UNFIT = {
    "another shape": (reporting(**{"dense.bias": torch.zeros(11)}), "dense.bias has shape [11], expected [10]"),
    "a shape that would broadcast": (
        reporting(**{"dense.bias": torch.zeros(1)}),
        "dense.bias has shape [1], expected [10]",
    ),
    "another dtype": (
        reporting(**{"dense.bias": torch.zeros(10, dtype=torch.float64)}),
        "dense.bias is float64, expected float32",
    ),
    "one too many": (reporting(extra=torch.zeros(1)), "unexpected tensor 'extra'"),
    "none": (nothing, "calls is missing"),
}


@pytest.mark.parametrize("name", UNFIT)
async def test_tensors_that_do_not_fit_end_the_run_by_name(name: str, tmp_path: Path) -> None:
    """Whose report came first does not matter; here it is the one that does not fit."""
    gate, (unfit, problem) = Gate(), UNFIT[name]
    tasks: dict[str, Task] = {"alice": gate, "bob": unfit, "charlie": gate}

    class Listener(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if record.getMessage().startswith("bob sent a result that was rejected"):
                gate.opened.set()

    listener = Listener()
    logging.getLogger("fedws").addHandler(listener)
    async with contextlib.AsyncExitStack() as stack:
        stack.callback(logging.getLogger("fedws").removeHandler, listener)
        settings = await stack.enter_async_context(federation("memory", tasks=tasks))
        run = asyncio.create_task(fedws.run(run_dir=tmp_path / "run", **settings))
        await happens(gate.entered)
        rejected = rf"sent a result that was rejected: {re.escape(problem)}"
        with pytest.raises(fedws.RunFailed, match=excluded("bob", rejected, quorum=3)):
            await run


@pytest.mark.parametrize("name", UNFIT)
async def test_tensors_of_the_only_worker_that_do_not_fit_end_the_run(name: str, tmp_path: Path) -> None:
    unfit, problem = UNFIT[name]
    async with federation("memory", tasks={"alice": unfit}, nodes=("alice", "testing")) as settings:
        rejected = rf"sent a result that was rejected: {re.escape(problem)}"
        with pytest.raises(fedws.RunFailed, match=excluded("alice", rejected)):
            await fedws.run(run_dir=tmp_path / "run", **settings)


@pytest.mark.parametrize("shape", [(11,), (1,)])
async def test_gradients_that_do_not_fit_end_the_run_by_name(shape: tuple[int, ...], tmp_path: Path) -> None:
    def unfit(order: TaskRequest, workspace: fedws.TaskContext) -> TaskResult:
        report = send_gradient(order, workspace)
        return changed(report, tensors={**report.tensors, "gradient:dense.bias": torch.zeros(shape)})

    node = fedws.Worker("alice", "points", worker()._context.data, tasks={"fedsgd.gradient": unfit})
    async with federation("memory", nodes=("testing",)) as settings, fedws.serve(node, "memory://alice"):
        settings = {**settings, "workers": {"alice": "memory://alice"}, "algorithm": "fedsgd"}
        problem = rf"the gradient of dense\.bias has shape \[{shape[0]}\], expected \[10\]"
        rejected = f"sent a result that was rejected: {problem}"
        with pytest.raises(fedws.RunFailed, match=excluded("alice", rejected)):
            await fedws.run(run_dir=tmp_path / "run", **settings)


@pytest.mark.parametrize("field", ["request_id", "worker"])
async def test_an_answer_to_something_else_ends_the_run_by_name(field: str, tmp_path: Path) -> None:
    """Its links are closed, each with the order that was open on it."""

    def wrong(order: TaskRequest, workspace: fedws.TaskContext) -> TaskResult:
        return changed(fit(order, workspace), **{field: "other"})

    async with federation(tasks={"bob": wrong}, limits=SOON) as settings:
        what = r"failed: broke the protocol: answer to the unknown request '(other|1/bob/[0-9]+)'"
        with pytest.raises(fedws.RunFailed, match=excluded("bob", what, quorum=3)):
            await fedws.run(run_dir=tmp_path / "run", **settings, peer_timeout=SOON.peer_timeout)


async def test_a_report_that_cannot_travel_is_a_failure_and_the_nodes_log_has_the_reason(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The task gives what the wire has no form for; the worker lives on."""
    odd = reporting(**{"dense.bias": torch.zeros(10).to_sparse()})
    async with federation(tasks={"bob": odd}) as settings:
        for attempt in ("a", "b"):
            what = r"failed: the task failed on its data \(see the log of bob\)"
            with pytest.raises(fedws.RunFailed, match=excluded("bob", what, quorum=3)):
                await fedws.run(run_dir=tmp_path / attempt, **settings)
    assert "cannot send the result: cannot send tensor 'dense.bias': it has the layout torch.sparse_coo" in caplog.text


async def test_a_model_of_other_shapes_ends_the_run_by_name(tmp_path: Path) -> None:
    async with federation("memory", nodes=("alice",)) as settings:
        what = r"failed: the task failed on its data \(see the log of alice\)"
        with pytest.raises(fedws.RunFailed, match=excluded("alice", what)):
            await fedws.run(run_dir=tmp_path / "run", **{**settings, "model": "mlp"})
