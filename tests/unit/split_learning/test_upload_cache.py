"""A worker's uploads: made once a run, the same bits again, deleted when acknowledged, and never of another run."""

import errno
import gc
import json
import os
import stat
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import safetensors.torch
import torch

from fedws.core.errors import TaskCancelled, TaskError
from fedws.core.tensors import hash_tensors
from fedws.protocol.run_claim import RunClaim
from fedws.split_learning.retention import MAX_SETTINGS_BYTES, RETENTION_SECONDS
from fedws.split_learning.upload_cache import CachedUpload, EncodedBatch, UploadCache, check_settings_size

ASKED = {"encoding": "bits"}
EXTRACTOR = {"w": torch.arange(3.0)}


def batches(first: int = 0, last: int = 7) -> Iterator[EncodedBatch]:
    """Records from ``first`` on, three at a time, each with its number in features and label."""
    for numbers in torch.arange(first, last).split(3):
        yield EncodedBatch(numbers.to(torch.uint8).unsqueeze(1).repeat(1, 2), numbers, (2, 3))


def uploads(folder: Path | None, run: str = "first", coordinator: str = "lab") -> UploadCache:
    made = UploadCache(folder)
    made.start_run(RunClaim(run, coordinator))
    return made


def make(own: UploadCache) -> CachedUpload:
    own.create_upload(ASKED, EXTRACTOR, "data")
    return own.write_upload(batches)


def test_what_was_made_is_found_again_also_after_a_new_start(tmp_path: Path) -> None:
    assert uploads(tmp_path).find_completed() is None
    make(uploads(tmp_path))
    for found in (uploads(tmp_path).find_completed(), uploads(tmp_path).find_completed()):
        assert isinstance(found, CachedUpload)
        assert found.manifest == {
            "settings": ASKED, "data_fingerprint": "data", "upload_id": uploads(tmp_path).upload_id,
            "feature_shape": [2, 3], "num_records": 7, "feature_bytes": 2, "label_shape": [], "label_dtype": "int64",
            "complete": True,
        }  # fmt: skip
        features, labels = found.read_records(3, 2)
        assert (features.tolist(), labels.tolist()) == ([[3, 3], [4, 4]], [3, 4])
        assert (features.dtype, labels.dtype) == (torch.uint8, torch.int64)
    assert uploads(tmp_path, "second").find_completed() is None, "another run has another"
    assert uploads(tmp_path, coordinator="other").find_completed() is None, "and so has another coordinator"
    assert uploads(tmp_path, "b/c", "a").run_name != uploads(tmp_path, "c", "a/b").run_name


def test_settings_that_are_too_long_to_be_kept_are_refused() -> None:
    """A header has room for half a megabyte of them, and there are notes of 1,000 runs."""
    with pytest.raises(TaskError, match=r"^feature settings of 16,386 bytes exceed the limit of 16,384 bytes$"):
        check_settings_size({"e": "x" * (MAX_SETTINGS_BYTES - 7)})
    assert check_settings_size({"e": "x" * (MAX_SETTINGS_BYTES - 9)})


def test_it_is_its_owners_alone(tmp_path: Path) -> None:
    make(uploads(tmp_path / "uploads"))
    (folder,) = (tmp_path / "uploads").iterdir()
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_a_runs_id_is_no_path(tmp_path: Path) -> None:
    make(uploads(tmp_path / "in", "../../out/.."))
    assert [path.name for path in tmp_path.iterdir()] == ["in"]
    (folder,) = (tmp_path / "in").iterdir()
    assert len(folder.name) == 64


def test_after_an_error_nothing_was_made(tmp_path: Path) -> None:
    def breaks(first: int) -> Iterator[EncodedBatch]:
        yield next(batches())
        raise OSError(errno.ENOSPC, "No space left on device")

    own = uploads(tmp_path)
    own.create_upload(ASKED, EXTRACTOR, "data")
    with pytest.raises(OSError, match="No space"):
        own.write_upload(breaks)
    assert (
        own.find_completed() is None
        and own.load_resumable(ASKED, lambda: "data") is None
        and list(tmp_path.iterdir()) == []
    )
    assert make(own).manifest["num_records"] == 7


def stop_in(own: UploadCache, after: int) -> list[int]:
    """Stopped behind that many records; where it went on from."""
    begun = []

    def stopped(first: int) -> Iterator[EncodedBatch]:
        begun.append(first)
        yield from batches(first, after)
        raise TaskCancelled("told to stop")

    with pytest.raises(TaskCancelled):
        own.write_upload(stopped)
    return begun


def test_what_was_stopped_goes_on_with_the_same_bits(tmp_path: Path) -> None:
    """Also in a new process, and with the same extractor, whichever was drawn."""
    own = uploads(tmp_path)
    own.create_upload(ASKED, EXTRACTOR, "data")
    assert stop_in(own, 3) == [0] and stop_in(uploads(tmp_path), 6) == [3]
    own = uploads(tmp_path)
    assert own.find_completed() is None, "it is not whole"
    found = own.load_resumable(ASKED, lambda: "data")
    assert found is not None and hash_tensors(found) == hash_tensors(EXTRACTOR)
    asked = []

    def rest(first: int) -> Iterator[EncodedBatch]:
        asked.append(first)
        return batches(first)

    made = own.write_upload(rest)
    assert asked == [6]
    features, labels = made.read_records(0, 7)
    assert labels.tolist() == list(range(7)) == features[:, 0].tolist()
    assert own.load_resumable(ASKED, lambda: "data") is None, "the extractor is not needed any more"


def test_after_a_power_cut_it_goes_on_from_what_is_safe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files may then be longer than what of them is on the disk."""
    monkeypatch.setattr(
        "fedws.split_learning.upload_cache.FSYNC_INTERVAL_BYTES", 7
    )  # records of two bytes: after the second batch
    own = uploads(tmp_path)
    own.create_upload(ASKED, EXTRACTOR, "data")
    safe = []

    def cut(first: int) -> Iterator[EncodedBatch]:
        for batch in batches():
            safe.append((tmp_path / own.run_name / "manifest.json").read_bytes())
            yield batch

    own.write_upload(cut)
    records = [json.loads(facts)["num_records"] for facts in safe]
    assert records == [0, 0, 6]
    folder = tmp_path / own.run_name
    (folder / "manifest.json").write_bytes(safe[-1])
    for name in ("features", "labels"):
        with (folder / name).open("ab") as file:
            file.write(b"\x00" * 5)
    write = safetensors.torch.save(EXTRACTOR)
    (folder / "extractor").write_bytes(write)
    assert uploads(tmp_path).load_resumable(ASKED, lambda: "data") is not None
    assert uploads(tmp_path).write_upload(batches).read_records(0, 7)[1].tolist() == list(range(7))


def test_other_settings_begin_anew(tmp_path: Path) -> None:
    own = uploads(tmp_path)
    own.create_upload(ASKED, EXTRACTOR, "data")
    stop_in(own, 3)
    assert (
        own.load_resumable({"encoding": "sue"}, lambda: "data") is None
        and own.load_resumable(ASKED, lambda: "other data") is None
    )
    own.create_upload({"encoding": "sue"}, EXTRACTOR, "data")
    assert own.write_upload(batches).manifest["num_records"] == 7


@pytest.mark.parametrize(
    "other",
    [
        EncodedBatch(torch.zeros(2, 2, dtype=torch.uint8), torch.zeros(2, 4), (2, 3)),
        EncodedBatch(torch.zeros(2, 2, dtype=torch.uint8), torch.zeros(2, dtype=torch.int64), (6,)),
        EncodedBatch(torch.zeros(2, 3, dtype=torch.uint8), torch.zeros(2, dtype=torch.int64), (2, 3)),
    ],
)
def test_records_that_are_not_alike_are_refused(other: EncodedBatch, tmp_path: Path) -> None:
    """They would be read as others."""
    own = uploads(tmp_path)
    own.create_upload(ASKED, EXTRACTOR, "data")
    with pytest.raises(TaskError, match="features and labels must have the same shape in all samples"):
        own.write_upload(lambda first: [*batches(), other])
    assert own.find_completed() is None


def test_uploads_that_nobody_fetches_do_not_fill_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever asks for them, in however many runs."""
    monkeypatch.setattr("fedws.split_learning.retention.MAX_PENDING_UPLOADS", 2)
    for number in range(5):
        own = uploads(tmp_path, str(number))
        make(own)
        for path in (tmp_path / own.run_name).iterdir():
            os.utime(path, (time.time() - 100 + number,) * 2)
    found = [uploads(tmp_path, str(number)).find_completed() for number in range(5)]
    assert [one is not None and one.acknowledged for one in found] == [True, True, False, False, False]


def test_what_was_half_deleted_harms_nobody(tmp_path: Path) -> None:
    """A process may be killed at any moment, and files go in no order."""
    old = time.time() - RETENTION_SECONDS - 60
    for number, names in enumerate((["features"], ["labels", "extractor"], ["extractor"], ["manifest.json"])):
        own = uploads(tmp_path, str(number))
        make(own)
        folder = tmp_path / own.run_name
        for name in ("features", "labels", "extractor", "manifest.json"):
            (folder / name).unlink(missing_ok=True)
        for name in names:
            (folder / name).write_text("{}")
            os.utime(folder / name, (old, old))
    again = uploads(tmp_path, "next")
    assert make(again).manifest["num_records"] == 7
    left = {path.name for folder in tmp_path.iterdir() if folder.name != again.run_name for path in folder.iterdir()}
    assert left == {"manifest.json"}


def test_labels_of_any_one_shape_are_kept(tmp_path: Path) -> None:
    boxes = torch.rand(7, 3, 5, generator=torch.Generator().manual_seed(1))
    own = uploads(tmp_path)
    own.create_upload(ASKED, EXTRACTOR, "data")
    packed = torch.zeros(7, 2, dtype=torch.uint8)
    made = own.write_upload(
        lambda first: [EncodedBatch(packed[:4], boxes[:4], (2, 3)), EncodedBatch(packed[4:], boxes[4:], (2, 3))]
    )
    assert (made.manifest["label_shape"], made.manifest["label_dtype"]) == ([3, 5], "float32")
    assert torch.equal(made.read_records(2, 4)[1], boxes[2:6])


def test_the_cache_does_not_grow_without_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also within a run."""
    monkeypatch.setattr("fedws.split_learning.retention.MAX_CACHE_FILES", 2)
    own = uploads(tmp_path)
    sent = [{"w": torch.full((1,), float(number))} for number in range(4)]
    for number, tensors in enumerate(sent):
        own.save_cached(tensors)
        path = tmp_path / f"extractor-{hash_tensors(tensors)}"
        os.utime(path, (time.time() - 100 + number,) * 2)
    assert [own.load_cached(hash_tensors(tensors)) is not None for tensors in sent] == [False, False, True, True]


def test_what_nobody_wants_for_a_month_is_forgotten(tmp_path: Path) -> None:
    """But not that it was made, or it could be noised again."""
    first, second, third = (uploads(tmp_path, name) for name in ("first", "second", "third"))
    make(first)
    make(second)
    third.create_upload(ASKED, EXTRACTOR, "data")
    stop_in(third, 3)
    tensors = {"w": torch.ones(1)}
    first.save_cached(tensors)
    first.save_cached(EXTRACTOR)
    long_ago = time.time() - RETENTION_SECONDS - 60
    gone = [path for own in (first, third) for path in (tmp_path / own.run_name).iterdir()]
    for path in [*gone, *tmp_path.glob("extractor-*")]:
        os.utime(path, (long_ago, long_ago))
    assert first.load_cached(hash_tensors(tensors)) is not None, "what is used is kept"
    make(uploads(tmp_path, "fourth"))
    for own in (uploads(tmp_path, name) for name in ("first", "second", "third")):
        found, name = own.find_completed(), own.claim and own.claim.run
        assert (found is not None and found.acknowledged, own.load_resumable(ASKED, lambda: "data")) == (
            name == "first",
            None,
        )
    assert first.load_cached(hash_tensors(tensors)) is not None and first.load_cached(hash_tensors(EXTRACTOR)) is None


def test_what_was_sent_is_remembered(tmp_path: Path) -> None:
    made = make(uploads(tmp_path))
    assert not made.was_sent(0, 4)
    made.mark_sent(0, 4)
    made.mark_sent(0, 4)
    for again in (made, uploads(tmp_path).find_completed()):
        assert again is not None and again.was_sent(0, 4) and not again.was_sent(4, 3) and not again.was_sent(0, 40)


def test_an_acknowledged_upload_is_deleted_but_not_forgotten(tmp_path: Path) -> None:
    made = make(uploads(tmp_path))
    made.acknowledge()
    made.acknowledge()
    again = uploads(tmp_path).find_completed()
    assert again is not None and again.acknowledged and again.manifest["num_records"] == 7
    (folder,) = tmp_path.iterdir()
    assert sorted(path.name for path in folder.iterdir()) == ["manifest.json"]


def test_extractors_are_cached_by_what_they_hold(tmp_path: Path) -> None:
    tensors, own = {"w": torch.ones(3), "b": torch.zeros(1)}, uploads(tmp_path)
    assert own.load_cached(hash_tensors(tensors)) is None
    own.save_cached(tensors)
    found = uploads(tmp_path, "second").load_cached(hash_tensors(tensors))
    assert found is not None and hash_tensors(found) == hash_tensors(tensors)
    assert own.load_cached("../extractor") is None and own.load_cached("*") is None
    (file,) = tmp_path.glob("extractor-*")
    for spoilt in (file.read_bytes()[:-1] + b"\x01", file.read_bytes()[:-1]):
        file.write_bytes(spoilt)
        assert own.load_cached(hash_tensors(tensors)) is None, "one that was spoilt on the disk is asked for again"


def test_what_is_too_old_is_looked_for_once_a_day(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own, now, looked = uploads(tmp_path), [time.monotonic()], []
    monkeypatch.setattr("fedws.split_learning.upload_cache.prune_expired", lambda *given: looked.append(given))
    monkeypatch.setattr("fedws.split_learning.upload_cache.time.monotonic", lambda: now[0])
    own.start_run(RunClaim("second", "lab"))
    assert looked == [], "it was when the run before began"
    now[0] += 24 * 3600 + 1
    for run in ("third", "fourth"):
        own.start_run(RunClaim(run, "lab"))
    assert len(looked) == 1


@pytest.mark.parametrize("damage", ["", "{", "\x00" * 64])
def test_a_note_that_is_damaged_counts_as_none(damage: str, tmp_path: Path) -> None:
    own = uploads(tmp_path)
    make(own)
    before = own.upload_id
    (tmp_path / own.run_name / "manifest.json").write_text(damage)
    assert own.find_completed() is None and own.upload_id != before, "new noise is a new upload"


def test_without_a_folder_it_lasts_as_long_as_the_node() -> None:
    own = uploads(None)
    make(own)
    own.start_run(RunClaim("second", "lab"))
    assert own.find_completed() is None
    own.start_run(RunClaim("first", "lab"))
    assert own.find_completed() is not None
    folder = own._folder
    del own
    gc.collect()
    assert not folder.exists()
