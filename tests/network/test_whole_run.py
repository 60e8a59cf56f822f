"""A whole run over sockets on loopback, in one process: its result, its lines, and that nothing is left of it."""

import asyncio
import importlib
import logging
import re
import threading
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch

import fedws
from fedws.algorithms.fedavg import fit
from fedws.coordinator.run import run_plan
from fedws.protocol.messages import TaskRequest, TaskResult
from tests.helpers.federation import WORKERS, Gate, federation, happens
from tests.helpers.support import recorded


@pytest.fixture
def _empty_pictures() -> None:
    """Draw the real ones here."""


def assert_same(model: fedws.Tensors, wanted: fedws.Tensors) -> None:
    """Equal names and bits."""
    assert model.keys() == wanted.keys()
    assert all(torch.equal(model[name], value) for name, value in wanted.items())


def in_turn(*order: str) -> dict[str, Any]:
    """Tasks that answer one after the other, in this order, in every round."""
    done = {(worker, round_number): threading.Event() for worker in order for round_number in (1, 2)}

    def task(before: str | None, worker: str) -> Any:
        def answer(order: TaskRequest, workspace: fedws.TaskContext) -> TaskResult:
            if before is not None:
                assert done[before, order.round].wait(60)
            report = fit(order, workspace)
            done[worker, order.round].set()
            return report

        return answer

    return {worker: task(before, worker) for before, worker in zip([None, *order], order, strict=False)}


async def test_every_transport_and_every_order_of_arrival_give_the_same_model(tmp_path: Path) -> None:
    results = []
    for number, (scheme, order) in enumerate(
        [("ws", WORKERS), ("ws", WORKERS[::-1]), ("memory", ("bob", "alice", "charlie"))]
    ):
        async with federation(scheme, tasks=in_turn(*order)) as settings:
            results.append(await fedws.run(run_dir=tmp_path / str(number), **settings))
    first, *others = results
    assert int(first.model["calls"]) == 10, "two rounds of five batches: buffers travel too"
    for other in others:
        assert_same(other.model, first.model)
        scores = [[record for record in result.metrics if record["kind"] == "evaluation"] for result in (first, other)]
        assert len(scores[0]) == 8
        assert scores[0] == scores[1]


async def test_run_plan_is_run(tmp_path: Path) -> None:
    async with federation("memory") as settings:
        seen: list[Any] = []
        result = await run_plan(fedws.Plan(**settings), tmp_path / "a", [seen.append])
        again = await fedws.run(run_dir=tmp_path / "b", **settings)
    assert_same(result.model, again.model)
    assert seen == result.metrics
    assert seen == recorded(tmp_path / "a")
    federated = [record["accuracy"] for record in seen if record.get("model") == "federated"]
    assert result.accuracy == federated[-1]


async def test_lines_are_the_reference_s(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "fedws"):
        async with federation() as settings:
            result = await fedws.run(run_dir=tmp_path / "run", **settings, evaluate_worker_models=2)
    said = [record.getMessage() for record in caplog.records if record.name == "fedws"]
    told = [line for line in said if not re.match("(alice|bob|charlie|testing): run ", line)]
    wanted = ["Each worker trains at most 5 batches of 8 (loss nll, sgd, lr 0.1, 2 % less each round)"]
    for round_number in (1, 2):
        wanted += [f"Training round {round_number}/2", "Evaluating models"]
        for score in result.metrics:
            if score["kind"] != "evaluation" or score["round"] != round_number:
                continue
            name = "Federated model" if score["model"] == "federated" else f"Model update {score['model']}"
            histogram = score["predicted_label_counts"]
            parts = [100 * sum(histogram[first:last]) // 120 for first, last in ((0, 4), (4, 7), (7, 10))]
            wanted += [
                f"{name}: Percentage numbers 0-3: {parts[0]}%, 4-6: {parts[1]}%, 7-9: {parts[2]}%",
                f"{name}: Average loss: {score['loss']:.4f}, "
                f"Accuracy: {score['num_correct']}/120 ({100 * score['num_correct'] / 120:.2f}%)",
            ]
    assert len(wanted) == 1 + 2 * (2 + 3 * 2), "two workers' models and the federated one"
    assert told == wanted
    logged = (tmp_path / "run" / "run.log").read_text().splitlines()
    assert [line.partition(" | ")[2] for line in logged if line.partition(" | ")[2] in wanted] == wanted


async def test_messages_cost_little_beside_the_models(tmp_path: Path) -> None:
    """The demo's model, 1,724,320 bytes; what is trained does not matter here."""

    def same(order: TaskRequest, workspace: fedws.TaskContext) -> TaskResult:
        return TaskResult(
            request_id=order.request_id, worker=workspace.node, round=order.round, num_examples=1, tensors=order.tensors
        )

    async with federation(tasks=dict.fromkeys(WORKERS, same), nodes=WORKERS) as settings:
        result = await fedws.run(run_dir=tmp_path / "run", **settings, model="mnist_cnn")
    rounds = [record for record in result.metrics if record["kind"] == "round"]
    assert len(rounds) == 2
    for record in rounds:
        assert 1 < (record["bytes_sent"] + record["bytes_received"]) / (2 * 3 * 1_724_320) <= 1.002


async def test_run_sync_where_a_loop_runs_already(tmp_path: Path) -> None:
    """As in a notebook: the nodes are elsewhere, here in a loop of another thread."""
    served, ended = threading.Event(), threading.Event()
    found: dict[str, Any] = {}

    async def serve() -> None:
        async with federation() as settings:
            found.update(settings)
            served.set()
            await happens(ended)

    elsewhere = asyncio.create_task(asyncio.to_thread(asyncio.run, serve()))
    try:
        await happens(served)
        result = fedws.run_sync(run_dir=tmp_path / "run", **found)
    finally:
        ended.set()
        await elsewhere
    assert [record["round"] for record in result.metrics if record["kind"] == "round"] == [1, 2]
    assert result.accuracy is not None


def test_run_sync_where_no_loop_runs(tmp_path: Path) -> None:
    where = r"alice at memory://nobody \(no node serves memory://nobody\)"
    with pytest.raises(fedws.RunFailed, match=rf"^not connected within 0\.2 s: {where}$"):
        fedws.run_sync(
            run_dir=tmp_path / "run",
            workers={"alice": "memory://nobody"},
            evaluator={},
            dataset="points",
            peer_timeout=0.2,
        )
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("ending", ["done", "cancelled", "failed"])
async def test_nothing_is_left_of_a_run(tmp_path: Path, ending: str) -> None:
    """No task, no thread of the run's, no open file or socket."""
    process = psutil.Process()
    gate = Gate(held=() if ending == "done" else (2,))
    async with federation(tasks={"bob": gate}) as settings:  # one run before, for what is made once
        gate.opened.set()
        await fedws.run(run_dir=tmp_path / "before", **settings)
    gate.opened.clear()
    gate.entered.clear()
    await asyncio.to_thread(int)
    tasks, threads, files = asyncio.all_tasks(), set(threading.enumerate()), process.num_fds()
    async with federation(tasks={"bob": gate}) as settings:
        run = asyncio.create_task(fedws.run(run_dir=tmp_path / "run", **settings))
        if ending == "done":
            await run
        elif ending == "cancelled":
            await happens(gate.entered)
            run.cancel()
            with pytest.raises(asyncio.CancelledError):
                await run
        else:
            await happens(gate.entered)
            gate.task = broken
            gate.opened.set()
            why = r"too few workers are left for min_results 3: bob: failed: ValueError \(see the log of bob\)"
            with pytest.raises(fedws.RunFailed, match=f"^round 2: {why}, three times in a row$"):
                await run
    assert asyncio.all_tasks() == tasks
    assert process.num_fds() == files
    left = {thread.name for thread in threading.enumerate() if thread not in threads}
    assert {name for name in left if not name.startswith("asyncio_")} == set(), "the loop's own threads may stay"
    there = {path.name for path in (tmp_path / "run").iterdir() if "tfevents" not in path.name}
    files = {
        "run.log",
        "run.json",
        "plan.toml",
        "worker_labels.json",
        "metrics.jsonl",
        "model.safetensors",
        "curves.png",
    }
    assert there - {"pending_evaluations"} == files | {"checkpoints"}, "it can go on"
    if ending == "done":
        assert "pending_evaluations" not in there and len(list((tmp_path / "run" / "checkpoints").iterdir())) == 1


def broken(order: TaskRequest, workspace: fedws.TaskContext) -> TaskResult:
    """A task that raises what nobody expects."""
    raise ValueError("spilled")


async def test_a_failure_of_the_scoring_ends_the_run_at_the_next_scored_round(tmp_path: Path) -> None:
    """Not after the last one, and not by blaming the evaluator."""

    def observer(record: Any) -> None:
        if record["kind"] == "evaluation":
            raise OSError(28, "No space left on device")

    async with federation("memory") as settings:
        settings = {**settings, "rounds": 1000, "evaluate_every": 1}
        with pytest.raises(OSError, match="No space left"):
            await fedws.run(run_dir=tmp_path / "run", observers=[observer], **settings)
    assert len((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()) < 500


async def test_who_is_awaited_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    gate, said = Gate(), threading.Event()

    class Listener(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if record.getMessage() == "Waiting for the answer of bob":
                said.set()

    caplog.set_level(logging.INFO, "fedws")
    listener = Listener()
    logging.getLogger("fedws").addHandler(listener)
    try:
        async with federation("memory", tasks={"bob": gate}) as settings:
            run = asyncio.create_task(fedws.run(run_dir=tmp_path / "run", **{**settings, "peer_timeout": 0.3}))
            await happens(said)
            gate.opened.set()
            await run
    finally:
        logging.getLogger("fedws").removeHandler(listener)


def test_run_sync_in_a_notebook_can_be_interrupted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The interrupt comes while the caller waits; the run in its thread is stopped, not waited for."""
    began, real = threading.Event(), asyncio.run

    async def endless(**settings: Any) -> None:
        began.set()
        await asyncio.Event().wait()

    class Interrupted:
        def __init__(self, future: Any) -> None:
            self.future = future

        def result(self) -> None:
            assert began.wait(60)
            raise KeyboardInterrupt

    module = importlib.import_module("fedws.coordinator.run")
    monkeypatch.setattr(module, "run", endless)
    submit = module.ThreadPoolExecutor.submit
    monkeypatch.setattr(module.ThreadPoolExecutor, "submit", lambda *given: Interrupted(submit(*given)))

    async def cell() -> None:
        with pytest.raises(KeyboardInterrupt):
            fedws.run_sync()

    real(cell())


@pytest.mark.parametrize("losses", [(1.7e308, 1.7e308), (1e308, -1e308)])
async def test_a_loss_that_no_axis_holds_does_not_end_the_run(losses: tuple[float, float], tmp_path: Path) -> None:
    def score(order: TaskRequest, workspace: fedws.TaskContext) -> TaskResult:
        return workspace.build_result(order, {"loss": losses[order.round - 1], "num_examples": 120})

    async with federation("memory", score=score, nodes=("alice", "testing")) as settings:
        result = await fedws.run(run_dir=tmp_path / "run", **settings)
    assert [record["loss"] for record in result.evaluations()] == [*losses]
    assert (tmp_path / "run" / "curves.png").exists()
