"""A coordinator that is killed or stopped at any moment goes on, to the model, record and log of an undisturbed run.

Most of the runs are in virtual time.
"""

import asyncio
import json
import re
import shutil
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

import fedws
from fedws.algorithms.fedavg import fit
from fedws.protocol.messages import TaskRequest, TaskResult
from fedws.recording import checkpoint
from fedws.recording.checkpoint import Checkpoints
from fedws.simulation import virtual_loop
from tests.helpers.federation import WORKERS, Gate, evaluating, federation, happens, worker
from tests.helpers.resumed_runs import (
    SCORING,
    Copies,
    assert_as_if_nothing_had_been,
    files,
    log,
    plan,
    records,
    stopped,
    whole_and_copies,
)
from tests.helpers.virtual_runs import ALL, ROUND, there
from tests.helpers.virtual_time import now, virtual

pytestmark = pytest.mark.usefixtures("every_line")


class Killed(BaseException):
    """What no code expects."""


@pytest.mark.parametrize(
    ("chooser", "every"), [("all", 5), ("random:per_round=2", 5), pytest.param("all", 1, marks=pytest.mark.long)]
)
@virtual
async def test_wherever_it_was_killed_it_ends_as_if_nothing_had_been(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chooser: str, every: int
) -> None:
    async with there(*ALL, scoring=SCORING):
        whole, copies = await whole_and_copies(tmp_path, monkeypatch, sampler=chooser)
        assert len(copies.all) > 50
        for name, path in list(copies.all.items())[::every]:
            try:
                assert_as_if_nothing_had_been(await fedws.run(resume=path), whole)
            except BaseException as error:
                error.add_note(f"after it was killed {name}")
                raise


@virtual
async def test_plan_and_checkpoint_are_there_before_the_first_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[set[str]] = []

    def look(order: TaskRequest, workspace: fedws.TaskContext) -> TaskResult:
        seen.append(files(tmp_path / "whole") | {path.name for path in (tmp_path / "whole" / "checkpoints").iterdir()})
        return fit(order, workspace)

    async with fedws.serve(worker("alice", look), "memory://alice"):
        await whole_and_copies(tmp_path, monkeypatch, nodes=["alice"])
    assert {"plan.toml", "run.json", "checkpoint-000000.safetensors"} <= seen[0]


@virtual
async def test_a_run_that_was_killed_while_it_waited_goes_on(tmp_path: Path) -> None:
    async with there("alice", "bob", "testing"):
        run = asyncio.create_task(fedws.run(run_dir=tmp_path / "run", **plan(wait_for_workers="forever")))
        await asyncio.sleep(1000)
        killed = shutil.copytree(tmp_path / "run", tmp_path / "killed")
        run.cancel()
        await asyncio.gather(run, return_exceptions=True)
        assert not (tmp_path / "run").exists(), "one that was stopped, and had not begun, leaves nothing"
        async with there("charlie"):
            result = await fedws.run(resume=killed)
            assert_as_if_nothing_had_been(
                result, await fedws.run(run_dir=tmp_path / "whole", **plan(wait_for_workers="forever"))
            )


@virtual
async def test_a_run_may_be_killed_again_and_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each time just after its next checkpoint, and once more before."""
    async with there(*ALL, scoring=SCORING):
        whole, copies = await whole_and_copies(tmp_path, monkeypatch)
        run = next(iter(copies.all.values()))
        for number in range(8):
            with monkeypatch.context() as patch:
                again = Copies(run, tmp_path / str(number), patch)
                await fedws.run(resume=run)
            moments = [path for name, path in again.all.items() if f"after replace checkpoint-{number:06}" in name]
            if not moments:
                break
            run = moments[0]
        assert number == 5
        assert_as_if_nothing_had_been(await fedws.run(resume=run), whole)


@virtual
async def test_whenever_it_was_stopped_it_ends_as_if_nothing_had_been(tmp_path: Path) -> None:
    """At its n-th record, of a round or of a score. Observers then hear only what is new."""
    async with there(*ALL, scoring=SCORING):
        whole = await fedws.run(run_dir=tmp_path / "whole", **plan())
        for number in range(1, len(whole.metrics) + 1):
            run, count, heard = tmp_path / str(number), Counter[str](), list[Any]()

            def nth(record: Mapping[str, Any], count: Counter[str] = count, number: int = number) -> bool:
                count["records"] += 1
                return count["records"] == number

            await stopped(run, nth)
            assert json.loads((run / "run.json").read_text())["finished"] is False
            assert any(re.fullmatch(r"Ended after round \d of 4: stopped", text) for text in log(run))
            kept = [path.stem.split("-") for path in (run / "pending_evaluations").glob("*.safetensors")]
            told = [text for text in log(run) if text.endswith("(the run was stopped)")]
            closed = [str(record["round"]) for record in records(run)[0]]
            assert all(
                any(text.startswith(f"Scores missing in round {round_number}: ") and model in text for text in told)
                for round_number, model in kept
                if round_number in closed
            ), "what waits for a score when the run is stopped is said, also what is being scored"
            result = await fedws.run(resume=run, observers=[heard.append])
            assert_as_if_nothing_had_been(result, whole)
            assert heard == result.metrics[len(result.metrics) - len(heard) :]
            assert len(heard) >= len(whole.metrics) - number


@pytest.mark.parametrize("moment", ["before", "after"])
@pytest.mark.parametrize("number", [0, 1, 3, 4])
@virtual
async def test_what_nobody_expects_around_a_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, moment: str
) -> None:
    async with there(*ALL, scoring=SCORING):
        whole = await fedws.run(run_dir=tmp_path / "whole", **plan())
        save = Checkpoints.save

        def spoilt(self: Checkpoints, version: int, *given: Any) -> None:
            if moment == "after" or version != number:
                save(self, version, *given)
            if version == number:
                raise Killed

        monkeypatch.setattr(Checkpoints, "save", spoilt)
        with pytest.raises(Killed):
            await fedws.run(run_dir=tmp_path / "run", **plan())
        monkeypatch.setattr(Checkpoints, "save", save)
        assert_as_if_nothing_had_been(await fedws.run(resume=tmp_path / "run"), whole)


async def test_over_sockets_and_with_threads(tmp_path: Path) -> None:
    """Stopped while a worker trains and while a model is scored."""
    gate, score = Gate(held=()), Gate(task=evaluating()._tasks["evaluate"], held=())  # type: ignore[index]
    async with federation(tasks={"bob": gate}, score=score) as flags:  # eight models, so that none is given up
        whole = await fedws.run(run_dir=tmp_path / "whole", **flags)
        gate.held, score.held = (2,), (1,)
        task = asyncio.create_task(fedws.run(run_dir=tmp_path / "run", **flags))
        await happens(gate.entered)
        await happens(score.entered)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await happens(gate.stopped)
        gate.opened.set()
        score.opened.set()
        assert_as_if_nothing_had_been(await fedws.run(resume=tmp_path / "run"), whole)


def full(*given: Any) -> None:
    raise OSError(28, "No space left on device")


@pytest.mark.parametrize("number", [0, 2])
@virtual
async def test_a_checkpoint_that_cannot_be_written_ends_the_run_after_that_round(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    write = checkpoint._write_file

    def filling(path: Path, version: int, *given: Any) -> None:
        (full if version == number else write)(path, version, *given)

    run = tmp_path / "run"
    async with there(*ALL, scoring=SCORING):
        whole = await fedws.run(run_dir=tmp_path / "whole", **plan())
        with monkeypatch.context() as patch:
            patch.setattr(checkpoint, "_write_file", filling)
            with pytest.raises(fedws.RunFailed) as failed:
                await fedws.run(run_dir=run, **plan())
        path = run / "checkpoints" / f"checkpoint-{number:06}.safetensors"
        assert str(failed.value) == f"cannot write {path}: No space left on device"
        assert f"Ended after round {number} of 4: {failed.value}" in log(run)
        assert [record["round"] for record in records(run)[0]] == list(range(1, number + 1))
        assert_as_if_nothing_had_been(await fedws.run(resume=run), whole)


@virtual
async def test_a_run_that_failed_goes_on_when_its_worker_is_back(tmp_path: Path) -> None:
    async with there("alice", "charlie", "testing", scoring=SCORING):
        async with there("bob"):
            whole = await fedws.run(run_dir=tmp_path / "whole", **plan())
            run = asyncio.create_task(fedws.run(run_dir=tmp_path / "run", **plan()))
            await asyncio.sleep(1.5 * ROUND)
        with pytest.raises(fedws.RunFailed, match="not connected within 60 s: bob"):
            await run
        before = (tmp_path / "run" / "metrics.jsonl").read_text()
        with pytest.raises(fedws.RunFailed, match="not connected within 5 s: bob"):
            await fedws.run(resume=tmp_path / "run", peer_timeout=5.0)
        assert (tmp_path / "run" / "metrics.jsonl").read_text() == before
        async with there("bob"):
            result = await fedws.run(resume=tmp_path / "run")
    assert all(torch.equal(result.model[name], value) for name, value in whole.model.items())


@virtual
async def test_where_only_scores_are_missing_no_worker_is_needed(tmp_path: Path) -> None:
    async with there("testing", scoring=SCORING):
        async with there(*WORKERS):
            whole = await fedws.run(run_dir=tmp_path / "whole", **plan())
            await stopped(tmp_path / "run", lambda record: (record["round"], record.get("model")) == (3, "federated"))
        result = await fedws.run(resume=tmp_path / "run")
    assert_as_if_nothing_had_been(result, whole)
    assert result.accuracy == whole.accuracy is not None


@virtual
async def test_a_run_that_has_finished_is_over_at_once(tmp_path: Path) -> None:
    """And nobody is dialled."""
    async with there(*ALL):
        whole = await fedws.run(run_dir=tmp_path / "run", **plan())
    before, text = now(), log(tmp_path / "run")
    heard: list[Any] = []
    result = await fedws.run(resume=str(tmp_path / "run"), observers=[heard.append])
    assert (now(), log(tmp_path / "run"), heard) == (before, text, [])
    assert_as_if_nothing_had_been(result, whole)
    assert result.accuracy == whole.accuracy


def test_also_without_async(tmp_path: Path) -> None:
    async def whole() -> fedws.RunResult:
        async with there(*ALL):
            return await fedws.run(run_dir=tmp_path / "run", **plan())

    result = virtual_loop.run_in_virtual_time(whole())
    again = fedws.run_sync(resume=tmp_path / "run")
    assert again.metrics == result.metrics
    with pytest.raises(fedws.UsageError, match="remove run_dir"):
        fedws.run_sync(resume=tmp_path / "run", run_dir=tmp_path / "other")
