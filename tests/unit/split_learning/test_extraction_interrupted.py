"""MistNet on a worker that is stopped, or whose disk is full, while it makes features."""

import errno
import itertools
import os
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fedws.node.worker import Worker
from fedws.protocol.messages import TaskFailure, TaskResult
from fedws.protocol.run_claim import RunClaim
from fedws.split_learning.upload_cache import UploadCache, open_uploads
from tests.helpers.federation import Points, registered
from tests.helpers.mistnet_requests import extraction, on_data, part, worker


@pytest.fixture(autouse=True, scope="module")
def _pieces() -> Iterator[None]:
    with registered():
        yield


def test_a_full_disk_is_said_and_nothing_is_half_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Wherever it is that no more can be written, until all of it can; once samples were read, in the node's log."""
    synced = os.fsync
    for most in itertools.count():
        calls = itertools.count()

        def full(file: int, most: int = most, calls: Iterator[int] = calls) -> None:
            if next(calls) >= most:
                raise OSError(errno.ENOSPC, "No space left on device")
            synced(file)

        node = worker(tmp_path / str(most))
        with monkeypatch.context() as patch:
            patch.setattr("os.fsync", full)
            answer = node.execute(extraction())
        if isinstance(answer, TaskResult):
            break
        told = caplog.messages[-1] if on_data(answer) else answer.reason
        assert "alice cannot store its features: No space left on device" in told
        assert not list((tmp_path / str(most) / "uploads").glob("*/features"))
        made = node.execute(extraction(number=2))
        assert isinstance(made, TaskResult) and isinstance(node.execute(part()), TaskResult)
    assert most > 5


def test_what_was_interrupted_goes_on_with_other_samples_from_the_beginning(tmp_path: Path) -> None:
    """A node may have been restarted with another share of the data."""
    node = worker(tmp_path)
    stop = node._context.stop

    class Stopping(Points):
        def __getitem__(self, index: int) -> tuple[Any, Any]:
            if index == 60:
                stop.set()
            return super().__getitem__(index)

    node._context = replace(node._context, data=Stopping(Path(), True))
    settings = {"batch_size": 20}
    stopped = node.execute(extraction(changes=settings))
    assert isinstance(stopped, TaskFailure) and stopped.reason == "task cancelled"
    node.resume()
    asked, seen = [], []

    class Watched(Points):
        def __getitem__(self, index: int) -> tuple[Any, Any]:
            asked.append(index)
            return super().__getitem__(index)

    class Others(Watched):
        def __init__(self, root: Path, train: bool) -> None:
            super().__init__(root, train)
            self.targets = (self.targets + 1) % 10

    for kind in (Others, Watched):
        again = worker(tmp_path)
        resources: dict[str, Any] = {"uploads": (UploadCache, copied(again, tmp_path / kind.__name__))}
        again._context = replace(again._context, data=kind(Path(), True), resources=resources)
        assert isinstance(again.execute(extraction(send=False, number=2, changes=settings)), TaskResult)
        seen.append(sorted(set(asked) - {0}))
        asked.clear()
    assert seen == [list(range(1, 120)), list(range(60, 120))], "what was made stays"


def copied(node: Worker, folder: Path) -> UploadCache:
    """The node's uploads as they are now, in another folder."""
    shutil.copytree(open_uploads(node._context)._folder, folder)
    uploads = UploadCache(folder)
    uploads.start_run(RunClaim("first", "lab"))
    return uploads
