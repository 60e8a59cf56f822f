"""Runs that go on: copies of a run's directory at every moment, and what must be the same in the end.

A run in virtual time does everything in one thread. So a copy of its directory, made at some moment, is what would be
there had the coordinator been killed just then.
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
"""Virtual seconds that a score takes: the scores of a round are not there when the next round ends."""


def plan(**more: Any) -> dict[str, Any]:
    """Four rounds, of which the first, the third and the fourth are scored."""
    nodes = more.pop("nodes", ALL)
    basis = {"rounds": 4, "evaluate_every": 2, "evaluate_worker_models": 2}
    return settings({node: f"memory://{node}" for node in nodes}, **{**basis, **more})


def log(run: Path) -> list[str]:
    """The lines of its log, without their times, those of nodes, and those that tell of going on or of waiting."""
    lines = [line.partition(" | ")[2] for line in (run / "run.log").read_text().splitlines()]
    assert all(lines)
    return [line for line in lines if not re.match(r"\w+: run \w+ (begins|ended)|Going on after |Waiting for ", line)]


def records(run: Path) -> tuple[list[Any], list[Any]]:
    """Those of rounds, without what differs from run to run, and those of scores, in the order of rounds."""
    rounds, scores = recorded(run, "round"), recorded(run, "evaluation")
    told = [{key: record[key] for key in record if not key.startswith(("seconds", "bytes"))} for record in rounds]
    return told, sorted(scores, key=lambda record: (record["round"], record["model"]))


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
    """Copies of a run's directory at every moment at which it changes, each once."""

    def __init__(self, run: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.run = run
        self.folder = folder
        self.all: dict[str, Path] = {}
        """By what had just happened, or was about to."""
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
    """An undisturbed run, and copies of what was there at each moment of it."""
    with monkeypatch.context() as patch:
        copies = Copies(folder / "whole", folder / "copies", patch)
        result = await fedws.run(run_dir=folder / "whole", **plan(**more))
    return result, copies


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
