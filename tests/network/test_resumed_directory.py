"""What a run goes on from, its directory: damaged checkpoints, the record, events and log, the plan and the lock.

The runs are in virtual time.
"""

import asyncio
import contextlib
import math
import re
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import tomli_w

import fedws
from fedws.protocol.messages import TaskRequest, TaskResult
from fedws.recording import run_info
from fedws.recording.sinks.tensorboard import TensorBoardWriter
from fedws.simulation import virtual_loop
from tests.helpers.federation import WORKERS, evaluating, settings, worker
from tests.helpers.resumed_runs import (
    SCORING,
    Copies,
    assert_as_if_nothing_had_been,
    log,
    plan,
    stopped,
    whole_and_copies,
)
from tests.helpers.tensorboard_reader import written
from tests.helpers.virtual_runs import ALL, ROUND, there
from tests.helpers.virtual_time import virtual

pytestmark = pytest.mark.usefixtures("every_line")


@pytest.fixture
def killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[fedws.RunResult, Path]:
    """An undisturbed run, and one that was killed when its third checkpoint was written."""

    async def run() -> tuple[fedws.RunResult, Path]:
        async with there(*ALL, scoring=SCORING):
            whole, copies = await whole_and_copies(tmp_path, monkeypatch)
        name = next(name for name in copies.all if "after replace checkpoint-000003" in name)
        return whole, copies.all[name]

    return virtual_loop.run_in_virtual_time(run())


async def resumed(run: Path, **settings: Any) -> fedws.RunResult:
    async with there(*ALL, scoring=SCORING):
        return await fedws.run(resume=run, **settings)


def test_a_checkpoint_that_was_cut_short_is_passed_over_and_said(killed: tuple[fedws.RunResult, Path]) -> None:
    whole, run = killed
    newest = run / "checkpoints" / "checkpoint-000003.safetensors"
    newest.write_bytes(newest.read_bytes()[:-100])
    result = virtual_loop.run_in_virtual_time(resumed(run))
    text = (run / "run.log").read_text()
    remark = "checkpoint 3 is damaged or incomplete; continuing from checkpoint 2"
    assert re.search(rf"\| {remark}\n.* \| Resumed after round 2 of 4\n", text)
    (run / "run.log").write_text("".join(line + "\n" for line in text.splitlines() if remark not in line))
    assert_as_if_nothing_had_been(result, whole)


def test_where_no_checkpoint_is_whole_the_run_cannot_go_on(killed: tuple[fedws.RunResult, Path]) -> None:
    _, run = killed
    for path in (run / "checkpoints").iterdir():
        path.write_bytes(path.read_bytes()[:-1])
    (run / ".lock").unlink()
    before = {path.name: path.read_bytes() for path in run.iterdir() if path.is_file()}
    with pytest.raises(fedws.RunFailed, match=r"no intact checkpoint in .*: checkpoint 3 is damaged"):
        virtual_loop.run_in_virtual_time(resumed(run))
    assert {path.name: path.read_bytes() for path in run.iterdir() if path.is_file()} == before


def test_every_scalar_is_in_the_events_once(killed: tuple[fedws.RunResult, Path]) -> None:
    whole, run = killed

    def scalars(directory: Path) -> list[tuple[int, str]]:
        return sorted((step, tag) for step, tag, _ in written(directory))

    virtual_loop.run_in_virtual_time(resumed(run))
    assert scalars(run) == scalars(whole.directory)
    assert len(set(scalars(run))) == len(scalars(run))


@virtual
async def test_a_line_about_the_round_before_is_not_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It comes after the checkpoint, as the title of the next round, which is said again anyway."""
    late = lambda report: 35.0 if (report.worker, report.round) == ("bob", 1) else ROUND  # noqa: E731
    async with there(*WORKERS, seconds=late):
        with monkeypatch.context() as patch:
            copies = Copies(tmp_path / "run", tmp_path / "copies", patch)
            await fedws.run(run_dir=tmp_path / "run", **plan(nodes=WORKERS, min_results=2, round_timeout=15))
        for name, path in copies.all.items():
            if (path / "checkpoints" / "checkpoint-000001.safetensors").exists():
                await fedws.run(resume=path)
                titles = [f"Training round {number}/4" for number in (1, 2, 3, 4)]
                closed = "Round 1: 2 of 3 results at the round timeout; missing: bob"
                assert [text for text in log(path) if " round " in text or "Round 1" in text] == [
                    titles[0], closed, *titles[1:],
                ], name  # fmt: skip


@virtual
async def test_a_score_that_is_no_number_is_told_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In metrics.jsonl it is null, in the log it was nan."""

    def diverged(order: TaskRequest, workspace: fedws.TaskContext) -> TaskResult:
        metrics = asdict(fedws.EvalResult(120, math.nan, 12, [120] + [0] * 9))
        return TaskResult(
            request_id=order.request_id, worker="testing", round=order.round, num_examples=120, metrics=metrics
        )

    async with there(*WORKERS), fedws.serve(evaluating(diverged), "memory://testing"):
        whole, copies = await whole_and_copies(tmp_path, monkeypatch)
        begun = [path for path in copies.all.values() if (path / "metrics.jsonl").exists()]
        scored = [path for path in begun if '"model"' in (path / "metrics.jsonl").read_text()]
        for path in scored[::6]:
            await fedws.run(resume=path)
            assert log(path) == log(whole.directory)
    assert "Average loss: nan" in "".join(log(whole.directory))


@virtual
async def test_a_score_that_was_given_up_is_said_to_be_missing_after_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The evaluator never comes: models are given up between two checkpoints, and the line that said so is cut off."""
    async with there(*WORKERS):
        _, copies = await whole_and_copies(tmp_path, monkeypatch, peer_timeout=1.0, evaluate_every=1)
        for path in list(copies.all.values())[5::5]:
            await fedws.run(resume=path)
            missing = [text for text in log(path) if text.startswith("Scores missing")]
            rounds = [(text.split(":")[0], set(re.findall("alice|bob|federated", text))) for text in missing]
            models = {"alice", "bob", "federated"}
            assert rounds == [(f"Scores missing in round {number}", models) for number in (1, 2, 3, 4)]


@pytest.mark.parametrize("strategy", ["fedasync", "fedbuff:buffer_size=2", "fedsgd"])
@virtual
async def test_every_version_is_told_once_and_in_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, strategy: str
) -> None:
    """Also of strategies whose result depends on who answers first."""
    speed = {"alice": 7.0, "bob": 11.0, "charlie": 13.0}
    async with there(*ALL, seconds=lambda report: speed[report.worker], scoring=SCORING):
        _, copies = await whole_and_copies(tmp_path, monkeypatch, algorithm=strategy)
        for path in list(copies.all.values())[::8]:
            result = await fedws.run(resume=path)
            assert [record["round"] for record in result.metrics if record["kind"] == "round"] == [1, 2, 3, 4]
            scored = Counter((record["round"], record["model"]) for record in result.metrics if "model" in record)
            assert set(scored.values()) == {1}
            assert {(number, "federated") for number in (1, 3, 4)} <= set(scored)
            title = "Training round" if strategy == "fedsgd" else "Model version"
            told = [text.removesuffix("/4").split("/4:")[0] for text in log(path) if text.startswith(title)]
            assert told == [f"{title} {number}" for number in (1, 2, 3, 4)]


OTHER: dict[str, tuple[dict[str, Any], str]] = {
    "lr": ({"lr": 0.5}, "cannot change lr from 0.1 to 0.5"),
    "rounds": (
        {"rounds": 2},
        "rounds 2 is less than the 3 completed rounds; set it to at least 3",
    ),
    "algorithm": ({"algorithm": "fedsgd"}, "cannot change algorithm from 'fedavg' to 'fedsgd'"),
    "evaluator": ({"evaluator": {}}, "cannot change evaluator from testing to none"),
}


@pytest.mark.parametrize("name", OTHER)
@pytest.mark.parametrize("where", ["given", "plan.toml"])
def test_a_run_of_another_plan_says_what_differs(killed: tuple[fedws.RunResult, Path], where: str, name: str) -> None:
    _, run = killed
    settings, text = OTHER[name]
    if where == "plan.toml":
        (run / "plan.toml").write_text(tomli_w.dumps({**run_info.load_plan_settings(run), **settings}))
    with pytest.raises(fedws.UsageError) as caught:
        virtual_loop.run_in_virtual_time(resumed(run, **(settings if where == "given" else {})))
    assert str(caught.value) == f"--resume {run}: {text}"


@virtual
async def test_addresses_and_patience_may_change(tmp_path: Path) -> None:
    async with there(*ALL):
        whole = await fedws.run(run_dir=tmp_path / "whole", **plan())
        await stopped(tmp_path / "run", lambda record: record["round"] == 2)
    elsewhere = {node: f"memory://new-{node}" for node in WORKERS}
    async with contextlib.AsyncExitStack() as stack:
        await stack.enter_async_context(there("testing"))
        for node, url in elsewhere.items():
            await stack.enter_async_context(fedws.serve(worker(node), url))
        result = await fedws.run(
            resume=tmp_path / "run", workers=elsewhere, peer_timeout=5.0, wait_for_workers="forever"
        )
    assert_as_if_nothing_had_been(result, whole)
    assert fedws.Plan(**run_info.load_plan_settings(tmp_path / "run")).workers == elsewhere


@virtual
async def test_a_run_that_is_going_on_cannot_go_on_twice(tmp_path: Path) -> None:
    async with there(*ALL):
        run = asyncio.create_task(fedws.run(run_dir=tmp_path / "run", **plan()))
        await asyncio.sleep(1.5 * ROUND)
        before = (tmp_path / "run" / "run.log").read_text()
        with pytest.raises(fedws.UsageError, match=r"^--resume .*/run is in use by another coordinator$"):
            await fedws.run(resume=tmp_path / "run")
        assert (tmp_path / "run" / "run.log").read_text() == before
        await run


async def test_a_disk_that_is_full_when_events_are_written_again_is_an_os_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So the command says how to go on, as for any other full disk."""

    def full(self: TensorBoardWriter, record: object) -> None:
        raise OSError(28, "No space left on device")

    async with fedws.serve(worker(), "memory://alice"):
        await fedws.run(run_dir=tmp_path / "run", **settings({"alice": "memory://alice"}, rounds=1))
        monkeypatch.setattr(TensorBoardWriter, "write", full)
        with pytest.raises(OSError, match="No space left on device"):
            await fedws.run(resume=tmp_path / "run", rounds=2)
