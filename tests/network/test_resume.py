"""A coordinator that is killed or stopped at any moment goes on, to the model, record and log of an undisturbed run.

A run in virtual time does everything in one thread. So a copy of its directory, made at some moment, is what would be
there had the coordinator been killed just then.
"""

import asyncio
import contextlib
import hashlib
import json
import logging
import math
import re
import shutil
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import tomli_w
import torch

import fedws
from fedws import checkpoint, rundir
from fedws.algorithms.fedavg import fit
from fedws.checkpoint import Checkpoints
from fedws.messages import Order, Report
from fedws.runlog import RunLog
from fedws.simulation import clock
from tests.network.test_coming_and_going import ALL, ROUND, there
from tests.nodes import WORKERS, Gate, evaluating, federation, happens, settings, worker
from tests.unit.test_tensorboard import written
from tests.virtual import now, virtual

SCORING = 12.0
"""Virtual seconds that a score takes: the scores of a round are not there when the next round ends."""


class Killed(BaseException):
    """What no code expects."""


@pytest.fixture(autouse=True)
def _every_line_and_no_picture(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    caplog.set_level(logging.INFO, "fedws")
    monkeypatch.setattr("fedws.curves.draw", lambda *given: None)  # the slowest part of a short run
    monkeypatch.setattr("os.fsync", lambda handle: None)


def plan(**more: Any) -> dict[str, Any]:
    """Four rounds, of which the first, the third and the fourth are scored."""
    nodes = more.pop("nodes", ALL)
    basis = {"training_rounds": 4, "evaluate_every": 2, "score_workers": 2}
    return settings({node: f"memory://{node}" for node in nodes}, **{**basis, **more})


def log(run: Path) -> list[str]:
    """The lines of its log, without their times, those of nodes, and those that tell of going on or of waiting."""
    lines = [line.partition(" | ")[2] for line in (run / "run.log").read_text().splitlines()]
    assert all(lines)
    return [line for line in lines if not re.match(r"\w+: run \w+ (begins|ended)|Going on after |Waiting for ", line)]


def records(run: Path) -> tuple[list[Any], list[Any]]:
    """Those of rounds, without what differs from run to run, and those of scores, in the order of rounds."""
    found = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    rounds = [record for record in found if record["kind"] == "round"]
    told = [{key: record[key] for key in record if not key.startswith(("seconds", "bytes"))} for record in rounds]
    scores = [record for record in found if record["kind"] == "score"]
    return told, sorted(scores, key=lambda record: (record["round"], record["model"]))


def files(run: Path) -> set[str]:
    return {path.name for path in run.iterdir() if "tfevents" not in path.name}


FINISHED = {"run.log", "run.json", "plan.toml", "workers.json", "metrics.jsonl", "model.safetensors"}


def assert_as_if_nothing_had_been(result: fedws.Result, whole: fedws.Result) -> None:
    assert result.model.keys() == whole.model.keys()
    assert all(torch.equal(result.model[name], value) for name, value in whole.model.items())
    assert log(result.directory) == log(whole.directory)
    assert records(result.directory) == records(whole.directory)
    assert [dict(record) for record in result.metrics] == [
        json.loads(line) for line in (result.directory / "metrics.jsonl").read_text().splitlines()
    ]
    assert json.loads((result.directory / "run.json").read_text())["finished"] is True
    assert files(result.directory) == files(whole.directory) == FINISHED


# --------------------------------------------------------------------------- killed


class Copies:
    """Copies of a run's directory at every moment at which it changes, each once."""

    def __init__(self, run: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.run = run
        self.folder = folder
        self.all: dict[str, Path] = {}
        """By what had just happened, or was about to."""
        self._known: set[bytes] = set()
        for owner, name in [(Path, "replace"), (Path, "unlink"), (Path, "rmdir"), (RunLog, "record")]:
            monkeypatch.setattr(owner, name, self._watched(name, getattr(owner, name)))

    def _watched(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def watched(*given: Any, **named: Any) -> Any:
            what = f"{name} {Path(given[0]).name if isinstance(given[0], Path) else ''}"
            self.copy(f"before {what}")
            found = function(*given, **named)
            self.copy(f"after {what}")
            return found

        return watched

    def copy(self, label: str) -> None:
        if not (self.run / "run.json").exists():
            return
        digest = hashlib.sha256()
        for path in sorted(self.run.rglob("*")):
            digest.update(str(path.relative_to(self.run)).encode())
            digest.update(path.read_bytes() if path.is_file() else b"")
        if digest.digest() not in self._known:
            self._known.add(digest.digest())
            name = f"{len(self.all):03} {label}"
            self.all[name] = shutil.copytree(self.run, self.folder / name)


async def whole_and_copies(folder: Path, monkeypatch: pytest.MonkeyPatch, **more: Any) -> tuple[fedws.Result, Copies]:
    """An undisturbed run, and copies of what was there at each moment of it."""
    with monkeypatch.context() as patch:
        copies = Copies(folder / "whole", folder / "copies", patch)
        result = await fedws.run(run_dir=folder / "whole", **plan(**more))
    return result, copies


@pytest.mark.parametrize(("chooser", "every"), [("all", 1), ("random:per_round=2", 4)])
@virtual
async def test_wherever_it_was_killed_it_ends_as_if_nothing_had_been(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chooser: str, every: int
) -> None:
    async with there(*ALL, scoring=SCORING):
        whole, copies = await whole_and_copies(tmp_path, monkeypatch, chooser=chooser)
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

    def look(order: Order, workspace: fedws.Workspace) -> Report:
        seen.append(files(tmp_path / "whole") | {path.name for path in (tmp_path / "whole" / "checkpoints").iterdir()})
        return fit(order, workspace)

    async with fedws.serving(worker("alice", look), "memory://alice"):
        await whole_and_copies(tmp_path, monkeypatch, nodes=["alice"])
    assert {"plan.toml", "run.json", "checkpoint-000000.safetensors"} <= seen[0]


@virtual
async def test_a_run_that_was_killed_while_it_waited_goes_on(tmp_path: Path) -> None:
    async with there("alice", "bob", "testing"):
        run = asyncio.create_task(fedws.run(run_dir=tmp_path / "run", **plan(wait="forever")))
        await asyncio.sleep(1000)
        killed = shutil.copytree(tmp_path / "run", tmp_path / "killed")
        run.cancel()
        await asyncio.gather(run, return_exceptions=True)
        assert not (tmp_path / "run").exists(), "one that was stopped, and had not begun, leaves nothing"
        async with there("charlie"):
            result = await fedws.run(resume=killed)
            assert_as_if_nothing_had_been(result, await fedws.run(run_dir=tmp_path / "whole", **plan(wait="forever")))


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


# --------------------------------------------------------------------------- stopped


async def stopped(run: Path, at: Callable[[Mapping[str, Any]], bool], **more: Any) -> list[Any]:
    """Begin a run and cancel it, as Ctrl+C does, as soon as there is such a record."""
    seen: list[Any] = []

    def observe(record: Mapping[str, Any]) -> None:
        seen.append(record)
        if at(record):
            task.cancel()

    task = asyncio.create_task(fedws.run(run_dir=run, observers=[observe], **plan(**more)))
    with pytest.raises(asyncio.CancelledError):
        await task
    return seen


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
            kept = [path.stem.split("-") for path in (run / "awaiting_scores").glob("*.safetensors")]
            told = [text for text in log(run) if text.endswith("(the run was stopped)")]
            closed = [str(record["round"]) for record in records(run)[0]]
            assert all(
                any(text.startswith(f"Scores missing in round {round}: ") and model in text for text in told)
                for round, model in kept
                if round in closed
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


# --------------------------------------------------------------------------- other ways to end


def full(*given: Any) -> None:
    raise OSError(28, "No space left on device")


@pytest.mark.parametrize("number", [0, 2])
@virtual
async def test_a_checkpoint_that_cannot_be_written_ends_the_run_after_that_round(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    write = checkpoint._write

    def filling(path: Path, version: int, *given: Any) -> None:
        (full if version == number else write)(path, version, *given)

    run = tmp_path / "run"
    async with there(*ALL, scoring=SCORING):
        whole = await fedws.run(run_dir=tmp_path / "whole", **plan())
        with monkeypatch.context() as patch:
            patch.setattr(checkpoint, "_write", filling)
            with pytest.raises(fedws.RunFailed) as failed:
                await fedws.run(run_dir=run, **plan())
        path = run / "checkpoints" / f"checkpoint-{number:06}.safetensors"
        assert str(failed.value) == f"{path} cannot be written: No space left on device"
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
        with pytest.raises(fedws.RunFailed, match="waited 60 s in vain for bob"):
            await run
        before = (tmp_path / "run" / "metrics.jsonl").read_text()
        with pytest.raises(fedws.RunFailed, match="waited 5 s in vain for bob"):
            await fedws.run(resume=tmp_path / "run", silence=5.0)
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
    async def whole() -> fedws.Result:
        async with there(*ALL):
            return await fedws.run(run_dir=tmp_path / "run", **plan())

    result = clock.run(whole())
    again = fedws.run_sync(resume=tmp_path / "run")
    assert again.metrics == result.metrics
    with pytest.raises(fedws.UsageError, match="leave run_dir out"):
        fedws.run_sync(resume=tmp_path / "run", run_dir=tmp_path / "other")


# --------------------------------------------------------------------------- damage


@pytest.fixture
def killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[fedws.Result, Path]:
    """An undisturbed run, and one that was killed when its third checkpoint was written."""

    async def run() -> tuple[fedws.Result, Path]:
        async with there(*ALL, scoring=SCORING):
            whole, copies = await whole_and_copies(tmp_path, monkeypatch)
        name = next(name for name in copies.all if "after replace checkpoint-000003" in name)
        return whole, copies.all[name]

    return clock.run(run())


async def resumed(run: Path, **settings: Any) -> fedws.Result:
    async with there(*ALL, scoring=SCORING):
        return await fedws.run(resume=run, **settings)


def test_a_checkpoint_that_was_cut_short_is_passed_over_and_said(killed: tuple[fedws.Result, Path]) -> None:
    whole, run = killed
    newest = run / "checkpoints" / "checkpoint-000003.safetensors"
    newest.write_bytes(newest.read_bytes()[:-100])
    result = clock.run(resumed(run))
    text = (run / "run.log").read_text()
    remark = "checkpoint 3 is damaged or cut short; going on from 2"
    assert re.search(rf"\| {remark}\n.* \| Going on after round 2 of 4\n", text)
    (run / "run.log").write_text("".join(line + "\n" for line in text.splitlines() if remark not in line))
    assert_as_if_nothing_had_been(result, whole)


def test_where_no_checkpoint_is_whole_the_run_cannot_go_on(killed: tuple[fedws.Result, Path]) -> None:
    _, run = killed
    for path in (run / "checkpoints").iterdir():
        path.write_bytes(path.read_bytes()[:-1])
    (run / ".lock").unlink()
    before = {path.name: path.read_bytes() for path in run.iterdir() if path.is_file()}
    with pytest.raises(fedws.RunFailed, match=r"there is no whole checkpoint in .*: checkpoint 3 is damaged"):
        clock.run(resumed(run))
    assert {path.name: path.read_bytes() for path in run.iterdir() if path.is_file()} == before


# --------------------------------------------------------------------------- the record


def test_every_scalar_is_in_the_events_once(killed: tuple[fedws.Result, Path]) -> None:
    whole, run = killed

    def scalars(directory: Path) -> list[tuple[int, str]]:
        return sorted((step, tag) for step, tag, _ in written(directory))

    clock.run(resumed(run))
    assert scalars(run) == scalars(whole.directory)
    assert len(set(scalars(run))) == len(scalars(run))


@virtual
async def test_a_line_about_the_round_before_is_not_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It comes after the checkpoint, as the title of the next round, which is said again anyway."""
    late = lambda report: 35.0 if (report.worker, report.round) == ("bob", 1) else ROUND  # noqa: E731
    async with there(*WORKERS, seconds=late):
        with monkeypatch.context() as patch:
            copies = Copies(tmp_path / "run", tmp_path / "copies", patch)
            await fedws.run(run_dir=tmp_path / "run", **plan(nodes=WORKERS, quorum=2, deadline=15))
        for name, path in copies.all.items():
            if (path / "checkpoints" / "checkpoint-000001.safetensors").exists():
                await fedws.run(resume=path)
                titles = [f"Training round {number}/4" for number in (1, 2, 3, 4)]
                closed = "Round 1: 2 of 3 reports at the deadline; missing: bob"
                assert [text for text in log(path) if " round " in text or "Round 1" in text] == [
                    titles[0], closed, *titles[1:],
                ], name  # fmt: skip


@virtual
async def test_a_score_that_is_no_number_is_told_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In metrics.jsonl it is null, in the log it was nan."""

    def diverged(order: Order, workspace: fedws.Workspace) -> Report:
        metrics = asdict(fedws.Score(120, math.nan, 12, [120] + [0] * 9))
        return Report(order=order.id, worker="testing", round=order.round, samples=120, metrics=metrics)

    async with there(*WORKERS), fedws.serving(evaluating(diverged), "memory://testing"):
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
        _, copies = await whole_and_copies(tmp_path, monkeypatch, silence=1.0, evaluate_every=1)
        for path in list(copies.all.values())[5::5]:
            await fedws.run(resume=path)
            missing = [text for text in log(path) if text.startswith("Scores missing")]
            rounds = [(text.split(":")[0], set(re.findall("alice|bob|federated", text))) for text in missing]
            models = {"alice", "bob", "federated"}
            assert rounds == [(f"Scores missing in round {number}", models) for number in (1, 2, 3, 4)]


@pytest.mark.parametrize("strategy", ["fedasync", "fedbuff:k=2", "fedsgd"])
@virtual
async def test_every_version_is_told_once_and_in_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, strategy: str
) -> None:
    """Also of strategies whose result depends on who answers first."""
    speed = {"alice": 7.0, "bob": 11.0, "charlie": 13.0}
    async with there(*ALL, seconds=lambda report: speed[report.worker], scoring=SCORING):
        _, copies = await whole_and_copies(tmp_path, monkeypatch, strategy=strategy)
        for path in list(copies.all.values())[::8]:
            result = await fedws.run(resume=path)
            assert [record["version"] for record in result.metrics if record["kind"] == "round"] == [1, 2, 3, 4]
            scored = Counter((record["round"], record["model"]) for record in result.metrics if "model" in record)
            assert set(scored.values()) == {1}
            assert {(number, "federated") for number in (1, 3, 4)} <= set(scored)
            title = "Training round" if strategy == "fedsgd" else "Model version"
            told = [text.removesuffix("/4").split("/4:")[0] for text in log(path) if text.startswith(title)]
            assert told == [f"{title} {number}" for number in (1, 2, 3, 4)]


# --------------------------------------------------------------------------- which run, and which plan


OTHER: dict[str, tuple[dict[str, Any], str]] = {
    "lr": ({"lr": 0.5}, "its lr stays what it is, 0.1, not 0.5"),
    "rounds": ({"training_rounds": 5}, "its training_rounds stays what it is, 4, not 5"),
    "strategy": ({"strategy": "fedsgd"}, "its strategy stays what it is, 'fedavg', not 'fedsgd'"),
    "workers": ({"workers": {"alice": "ws://h:1"}}, "its workers stays what it is, alice, bob, charlie, not alice"),
    "evaluator": ({"evaluator": {}}, "its evaluator stays what it is, testing, not none"),
}


@pytest.mark.parametrize("name", OTHER)
@pytest.mark.parametrize("where", ["given", "plan.toml"])
def test_a_run_of_another_plan_says_what_differs(killed: tuple[fedws.Result, Path], where: str, name: str) -> None:
    _, run = killed
    settings, text = OTHER[name]
    if where == "plan.toml":
        (run / "plan.toml").write_text(tomli_w.dumps({**rundir.stored_settings(run), **settings}))
    with pytest.raises(fedws.UsageError) as caught:
        clock.run(resumed(run, **(settings if where == "given" else {})))
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
            await stack.enter_async_context(fedws.serving(worker(node), url))
        result = await fedws.run(resume=tmp_path / "run", workers=elsewhere, silence=5.0, wait="forever")
    assert_as_if_nothing_had_been(result, whole)
    assert fedws.Plan(**rundir.stored_settings(tmp_path / "run")).workers == elsewhere


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
