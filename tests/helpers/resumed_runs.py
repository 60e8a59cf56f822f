"""Runs that are resumed: copies of a run's directory at every moment, and what must be equal in the end.

A run in virtual time does everything in one thread. A copy of its directory is therefore the same as the directory of a
coordinator that was killed at that moment.
"""

import asyncio
import hashlib
import json
import re
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

import fedws
from fedws.recording.run_log import RunLog
from tests.helpers.federation import settings
from tests.helpers.support import recorded
from tests.helpers.virtual_runs import ALL

SCORING = 12.0
"""Virtual seconds of an evaluation; the scores of a round are incomplete when the next round ends."""


def plan(**more: Any) -> dict[str, Any]:
    """Return the plan of four rounds, of which the first, the third and the fourth are evaluated."""
    nodes = more.pop("nodes", ALL)
    basis = {"rounds": 4, "evaluate_every": 2, "evaluate_worker_models": 2}
    return settings({node: f"memory://{node}" for node in nodes}, **{**basis, **more})


def log(run: Path) -> list[str]:
    """Return the lines of the run's log, without times, lines of nodes, and lines about resuming or waiting."""
    lines = [line.partition(" | ")[2] for line in (run / "run.log").read_text().splitlines()]
    assert all(lines)
    return [line for line in lines if not re.match(r"\w+: run \w+ (started|ended)|Resumed after |Waiting for ", line)]


def records(run: Path) -> tuple[list[Any], list[Any]]:
    """Return the records of rounds without values that differ from run to run, and those of scores, in order."""
    rounds, scores = recorded(run, "round"), recorded(run, "evaluation")
    kept = [{key: record[key] for key in record if not key.startswith(("seconds", "bytes"))} for record in rounds]
    return kept, sorted(scores, key=lambda record: (record["round"], record["model"]))


def files(run: Path) -> set[str]:
    return {path.name for path in run.iterdir() if "tfevents" not in path.name}


FINISHED = {
    *("run.log", "run.json", "plan.toml", "worker_labels.json", "metrics.jsonl"),
    *("model.safetensors", "curves.png", "checkpoints"),
}


def assert_as_if_nothing_had_been(result: fedws.RunResult, whole: fedws.RunResult) -> None:
    assert result.model.keys() == whole.model.keys()
    assert all(torch.equal(result.model[name], value) for name, value in whole.model.items())
    assert log(result.directory) == log(whole.directory)
    assert records(result.directory) == records(whole.directory)
    assert [dict(record) for record in result.metrics] == recorded(result.directory)
    assert json.loads((result.directory / "run.json").read_text())["finished"] is True
    assert files(result.directory) == files(whole.directory) == FINISHED


class Copies:
    """Copies of a run's directory, one at every moment at which it changes."""

    def __init__(self, run: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.run = run
        self.folder = folder
        self.all: dict[str, Path] = {}
        """Copies by the event that had just happened, or was about to."""
        self._known: set[bytes] = set()
        for owner, name in [(Path, "replace"), (Path, "unlink"), (Path, "rmdir"), (RunLog, "write_record")]:
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


async def whole_and_copies(
    folder: Path, monkeypatch: pytest.MonkeyPatch, **more: Any
) -> tuple[fedws.RunResult, Copies]:
    """Run without a fault, and return the run with copies of its directory at every moment."""
    with monkeypatch.context() as patch:
        copies = Copies(folder / "whole", folder / "copies", patch)
        result = await fedws.run(run_dir=folder / "whole", **plan(**more))
    return result, copies


async def stopped(run: Path, at: Callable[[Mapping[str, Any]], bool], **more: Any) -> list[Any]:
    """Start a run, and cancel it, as Ctrl+C does, as soon as such a record exists."""
    seen: list[Any] = []

    def observe(record: Mapping[str, Any]) -> None:
        seen.append(record)
        if at(record):
            task.cancel()

    task = asyncio.create_task(fedws.run(run_dir=run, observers=[observe], **plan(**more)))
    with pytest.raises(asyncio.CancelledError):
        await task
    return seen
