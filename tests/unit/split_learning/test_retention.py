"""What coordinators make a node keep has bounds: runs, bytes, and age."""

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from fedws.core.errors import TaskError
from fedws.core.tensors import hash_tensors
from fedws.protocol.run_claim import RunClaim
from fedws.split_learning import retention
from fedws.split_learning.upload_cache import CachedUpload, EncodedBatch, UploadCache
from tests.unit.split_learning.test_upload_cache import ASKED, EXTRACTOR, batches, make, uploads


def aged(folder: Path, seconds: float) -> None:
    """Make all files below a folder so old."""
    at = time.time() - seconds
    for path in folder.rglob("*"):
        os.utime(path, (at, at))


def made(folder: Path, *runs: str, acknowledged: bool = True) -> None:
    """An upload of each run, the first one the oldest."""
    for number, run in enumerate(runs):
        own = uploads(folder, run)
        upload = make(own)
        upload.mark_sent(0, 7)
        if acknowledged:
            upload.acknowledge()
        aged(folder / own.run_name, 1000 - number)


def known(folder: Path, *runs: str) -> list[bool]:
    """Of which runs there are notes."""
    return [(folder / uploads(folder, run).run_name).exists() for run in runs]


def test_a_run_more_does_not_add_a_folder_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retention, "MAX_RUNS_WITH_NOTES", 3, raising=False)
    runs = [str(number) for number in range(6)]
    made(tmp_path, *runs)
    assert known(tmp_path, *runs) == [False, False, True, True, True, True], "three, and that of the run itself"


def test_notes_are_kept_for_a_year(tmp_path: Path) -> None:
    made(tmp_path, "old", "older")
    aged(tmp_path / uploads(tmp_path, "old").run_name, 360 * 24 * 3600)
    aged(tmp_path / uploads(tmp_path, "older").run_name, 370 * 24 * 3600)
    make(uploads(tmp_path, "next"))
    assert known(tmp_path, "old", "older") == [True, False]
    again = uploads(tmp_path, "old").find_completed()
    assert again is not None and again.acknowledged, "so it is not noised again"


def test_what_is_old_goes_as_a_run_begins(tmp_path: Path) -> None:
    """Also if it asks for no features; the run's own stays, as it may come back for it."""
    made(tmp_path, "first", "second", acknowledged=False)
    aged(tmp_path, retention.RETENTION_SECONDS + 60)
    uploads(tmp_path, "second")
    first, second = (CachedUpload(tmp_path / uploads(tmp_path, run).run_name) for run in ("second", "first"))
    assert (first.acknowledged, second.acknowledged) == (False, True)


@pytest.mark.parametrize("name", ["my_task", "0" * 63, "G" * 64, "0" * 65])
def test_folders_that_are_no_runs_are_left(name: str, tmp_path: Path) -> None:
    """A folder without the files of a run looks as if it had never been used."""
    foreign = tmp_path / name / "state.bin"
    foreign.parent.mkdir()
    foreign.write_bytes(b"state")
    aged(tmp_path, retention.NOTES_RETENTION_SECONDS + 60)
    make(uploads(tmp_path))
    assert foreign.exists()


def test_noise_that_is_drawn_anew_has_another_id(tmp_path: Path) -> None:
    """By which the audit log counts, so that a run whose notes are gone gets no more than a new run."""
    own = uploads(tmp_path)
    before = own.upload_id
    make(own)
    first = own.upload_id
    assert len(first) == 16 and first != before
    assert uploads(tmp_path).upload_id == first, "for as long as it is kept"
    for path in (tmp_path / own.run_name).iterdir():
        path.unlink()
    (tmp_path / own.run_name).rmdir()
    assert own.upload_id == before
    make(own)
    assert own.upload_id not in (first, before)


def test_uploads_that_wait_are_bounded_in_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made(tmp_path, "first", acknowledged=False)
    (folder,) = tmp_path.iterdir()
    size = sum((folder / name).stat().st_size for name in ("features", "labels"))
    monkeypatch.setattr(retention, "MAX_PENDING_BYTES", 3 * size, raising=False)
    made(tmp_path, "second", "third", "fourth", "fifth", acknowledged=False)
    runs = ("first", "second", "third", "fourth", "fifth")
    left = [CachedUpload(tmp_path / uploads(tmp_path, run).run_name).acknowledged for run in runs]
    assert left == [True, False, False, False, False], "those of three other runs, and the last one's"


def test_an_upload_is_bounded_in_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A coordinator chooses the model, and so how many features a sample has."""
    monkeypatch.setattr("fedws.split_learning.upload_cache.MAX_UPLOAD_BYTES", 10**6, raising=False)
    wide = EncodedBatch(torch.zeros(4, 10**5, dtype=torch.uint8), torch.zeros(4, dtype=torch.int64), (10**5,))
    came = []

    def endless(first: int) -> list[EncodedBatch]:
        came.append(first)
        return [wide] * 100

    own = uploads(tmp_path)
    own.create_upload(ASKED, EXTRACTOR, "data")
    with pytest.raises(TaskError, match=r"^features exceed the limit of 1,000,000 bytes; choose another --split-at$"):
        own.write_upload(endless)
    assert own.find_completed() is None and list(tmp_path.iterdir()) == []


def test_the_cache_is_bounded_in_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its newest file stays, however large."""
    own = uploads(tmp_path)
    sent = [{"w": torch.full((1000,), float(number))} for number in range(4)]
    own.save_cached(sent[0])
    (file,) = tmp_path.iterdir()
    monkeypatch.setattr(retention, "MAX_CACHE_BYTES", 2 * file.stat().st_size, raising=False)
    cached: Callable[[], list[bool]] = lambda: [(tmp_path / f"extractor-{hash_tensors(one)}").exists() for one in sent]  # noqa: E731
    for number, tensors in enumerate(sent):
        own.save_cached(tensors)
        os.utime(tmp_path / f"extractor-{hash_tensors(tensors)}", (time.time() - 100 + number,) * 2)
    assert cached() == [False, False, True, True]
    monkeypatch.setattr(retention, "MAX_CACHE_BYTES", 1)
    own.save_cached(sent[0])
    assert cached() == [True, False, False, False]


def test_notes_of_what_was_sent_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A coordinator may ask for any part of it; what is not noted counts as new each time."""
    monkeypatch.setattr("fedws.split_learning.upload_cache.MAX_SENT_NOTES", 3, raising=False)
    upload = make(uploads(tmp_path))
    for first in range(5):
        upload.mark_sent(first, 1)
    assert [upload.was_sent(first, 1) for first in range(5)] == [True, True, True, False, False]


def test_without_a_folder_nothing_is_made_before_it_is_needed() -> None:
    own = UploadCache()
    own.start_run(RunClaim("run", "lab"))
    assert own.upload_id and "_folder" not in own.__dict__


def test_a_run_goes_on_with_its_own_id(tmp_path: Path) -> None:
    own = uploads(tmp_path)
    own.create_upload(ASKED, EXTRACTOR, "data")
    begun = own.upload_id
    uploads(tmp_path).write_upload(batches)
    assert uploads(tmp_path).upload_id == begun
