"""Numbers that a task or an evaluator of one's own reports: in the record, in TensorBoard and in the result."""

import contextlib
import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import fedws
from fedws.core import registry
from fedws.protocol.messages import TaskRequest, TaskResult
from fedws.recording import metrics_reader
from tests.helpers.federation import evaluating, federation, settings
from tests.helpers.resumed_runs import stopped
from tests.helpers.support import recorded
from tests.helpers.tensorboard_reader import written
from tests.helpers.virtual_runs import DATA, there
from tests.helpers.virtual_time import virtual

pytestmark = pytest.mark.usefixtures("every_line")

SAMPLES = {"alice": 1, "bob": 3}
VALUES = {"alice": 2.0, "bob": 6.0}
MEAN = (1 * 2.0 + 3 * 6.0) / 4


def counting(task: str = "fedavg.fit") -> Any:
    """A worker's task that also reports numbers of its own, and what is not a number."""
    fit = registry.find_piece("task", task)

    def own(order: TaskRequest, workspace: fedws.TaskContext) -> TaskResult:
        report: TaskResult = fit(order, workspace)
        mine = {"num_examples": SAMPLES[order.worker], "mine": VALUES[order.worker], "text": "x", "yes": True}
        rounds = {"only_alice": order.round} if order.worker == "alice" else {}
        return replace(report, metrics={**report.metrics, **mine, **rounds})

    return own


def judging(order: TaskRequest, workspace: fedws.TaskContext) -> TaskResult:
    """An evaluator's task that reports more than a score."""
    report: TaskResult = evaluating()._tasks["evaluate"](order, workspace)  # type: ignore[index]
    more = {"f1": 0.25, "perplexity": math.inf, "note": "x", "accuracy": 7.0}
    return replace(report, metrics={**report.metrics, **more})


async def test_numbers_of_workers_and_of_the_evaluator_are_kept(tmp_path: Path) -> None:
    tasks = {node: counting() for node in SAMPLES}
    async with federation("memory", tasks=tasks, score=judging, nodes=(*SAMPLES, "testing")) as flags:
        result = await fedws.run(run_dir=tmp_path / "run", **flags)
    for number, record in enumerate(result.rounds(), 1):
        found = dict(record["metrics"])
        assert 0 < found.pop("loss") < 10, "as every task of ours reports"
        assert found == {"mine": MEAN, "only_alice": float(number)}
    assert [record["round"] for record in result.rounds()] == [1, 2]
    for score in result.evaluations():
        assert math.isnan(score["metrics"].pop("perplexity"))
        assert score["metrics"] == {"f1": 0.25, "accuracy": 7.0} and score["accuracy"] < 1
    text = (tmp_path / "run" / "metrics.jsonl").read_text()
    assert '"perplexity": null' in text and "NaN" not in text and "Infinity" not in text
    assert [record["metrics"]["mine"] for record in recorded(tmp_path / "run", "round")] == [MEAN, MEAN]
    events = {(step, tag): value for step, tag, value in written(tmp_path / "run")}
    assert [events[step, "workers/mine"] for step in (1, 2)] == [MEAN, MEAN]
    assert events[2, "f1/federated"] == events[2, "f1/alice"] == 0.25
    assert 0 < events[1, "accuracy/federated"] < 1, "not what the evaluator calls so"
    assert metrics_reader.read_records(tmp_path / "run") == recorded(tmp_path / "run")


async def test_numbers_of_a_strategy_without_rounds_are_kept(tmp_path: Path) -> None:
    """Each version has the mean over the reports in it."""
    tasks = {"fedbuff.fit": counting("fedbuff.fit")}
    async with contextlib.AsyncExitStack() as stack:
        urls = {}
        for node in SAMPLES:
            served = fedws.Worker(node, "points", DATA, tasks=tasks)
            urls[node] = await stack.enter_async_context(fedws.serve(served, f"memory://{node}"))
        result = await fedws.run(run_dir=tmp_path / "run", **settings(urls, algorithm="fedbuff:buffer_size=3"))
    for record in result.rounds():
        names = [update["worker"] for update in record["updates"]]
        mean = sum(SAMPLES[name] * VALUES[name] for name in names) / sum(SAMPLES[name] for name in names)
        assert record["metrics"]["mine"] == pytest.approx(mean, rel=1e-15)
        assert ("only_alice" in record["metrics"]) == ("alice" in names)
    assert len(result.rounds()) == 2


@virtual
async def test_a_round_that_is_asked_again_after_a_restart_counts_each_report_once(tmp_path: Path) -> None:
    nodes = ("alice", "bob", "testing")
    late = {"alice": 5.0, "bob": 10.0}
    flags = settings({node: f"memory://{node}" for node in nodes}, rounds=3)
    async with there(*nodes, seconds=lambda report: late[report.worker]):
        whole = await fedws.run(run_dir=tmp_path / "whole", **flags)
        await stopped(tmp_path / "run", lambda record: record["kind"] == "evaluation", nodes=nodes, rounds=3)
        result = await fedws.run(resume=tmp_path / "run")
    rounds = [[record["metrics"] for record in found.rounds()] for found in (whole, result)]
    assert rounds[0] == rounds[1] and all(set(found) == {"loss"} for found in rounds[0])
    assert json.loads(json.dumps(rounds[0])) == [record["metrics"] for record in recorded(tmp_path / "run", "round")]
