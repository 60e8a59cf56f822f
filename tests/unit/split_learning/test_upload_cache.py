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

from fedws.core.errors import Stopped, TaskError
from fedws.core.tensors import digest
from fedws.protocol.run_claim import Claim
from fedws.split_learning.retention import KEPT, MOST_ASKED
from fedws.split_learning.upload_cache import Batch, Upload, Uploads, kept

ASKED = {"encoding": "bits"}
EXTRACTOR = {"w": torch.arange(3.0)}


def batches(first: int = 0, last: int = 7) -> Iterator[Batch]:
    """Records from ``first`` on, three at a time, each with its number in features and label."""
    for numbers in torch.arange(first, last).split(3):
        yield Batch(numbers.to(torch.uint8).unsqueeze(1).repeat(1, 2), numbers, (2, 3))


def uploads(folder: Path | None, run: str = "first", coordinator: str = "lab") -> Uploads:
    made = Uploads(folder)
    made.begin(Claim(run, coordinator))
    return made


def make(own: Uploads) -> Upload:
    own.start(ASKED, EXTRACTOR, "data")
    return own.make(batches)


def test_what_was_made_is_found_again_also_after_a_new_start(tmp_path: Path) -> None:
    assert uploads(tmp_path).find() is None
    make(uploads(tmp_path))
    for found in (uploads(tmp_path).find(), uploads(tmp_path).find()):
        assert isinstance(found, Upload)
        assert found.facts == {
            "asked": ASKED, "data": "data", "upload": uploads(tmp_path).id, "shape": [2, 3], "records": 7, "bytes": 2,
            "label_shape": [], "label_dtype": "int64", "whole": True,
        }  # fmt: skip
        features, labels = found.part(3, 2)
        assert (features.tolist(), labels.tolist()) == ([[3, 3], [4, 4]], [3, 4])
        assert (features.dtype, labels.dtype) == (torch.uint8, torch.int64)
    assert uploads(tmp_path, "second").find() is None, "another run has another"
    assert uploads(tmp_path, coordinator="other").find() is None, "and so has another coordinator"
    assert uploads(tmp_path, "b/c", "a").name != uploads(tmp_path, "c", "a/b").name


def test_settings_that_are_too_long_to_be_kept_are_refused() -> None:
    """A header has room for half a megabyte of them, and there are notes of 1,000 runs."""
    with pytest.raises(TaskError, match=r"^the settings of features have 16,386 bytes; at most 16,384 are kept$"):
        kept({"e": "x" * (MOST_ASKED - 7)})
    assert kept({"e": "x" * (MOST_ASKED - 9)})


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
    def breaks(first: int) -> Iterator[Batch]:
        yield next(batches())
        raise OSError(errno.ENOSPC, "No space left on device")

    own = uploads(tmp_path)
    own.start(ASKED, EXTRACTOR, "data")
    with pytest.raises(OSError, match="No space"):
        own.make(breaks)
    assert own.find() is None and own.begun(ASKED, lambda: "data") is None and list(tmp_path.iterdir()) == []
    assert make(own).facts["records"] == 7


def stop_in(own: Uploads, after: int) -> list[int]:
    """Stopped behind that many records; where it went on from."""
    begun = []

    def stopped(first: int) -> Iterator[Batch]:
        begun.append(first)
        yield from batches(first, after)
        raise Stopped("told to stop")

    with pytest.raises(Stopped):
        own.make(stopped)
    return begun


def test_what_was_stopped_goes_on_with_the_same_bits(tmp_path: Path) -> None:
    """Also in a new process, and with the same extractor, whichever was drawn."""
    own = uploads(tmp_path)
    own.start(ASKED, EXTRACTOR, "data")
    assert stop_in(own, 3) == [0] and stop_in(uploads(tmp_path), 6) == [3]
    own = uploads(tmp_path)
    assert own.find() is None, "it is not whole"
    found = own.begun(ASKED, lambda: "data")
    assert found is not None and digest(found) == digest(EXTRACTOR)
    asked = []

    def rest(first: int) -> Iterator[Batch]:
        asked.append(first)
        return batches(first)

    made = own.make(rest)
    assert asked == [6]
    features, labels = made.part(0, 7)
    assert labels.tolist() == list(range(7)) == features[:, 0].tolist()
    assert own.begun(ASKED, lambda: "data") is None, "the extractor is not needed any more"


def test_after_a_power_cut_it_goes_on_from_what_is_safe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files may then be longer than what of them is on the disk."""
    monkeypatch.setattr("fedws.split_learning.upload_cache.SAFE", 7)  # records of two bytes: after the second batch
    own = uploads(tmp_path)
    own.start(ASKED, EXTRACTOR, "data")
    safe = []

    def cut(first: int) -> Iterator[Batch]:
        for batch in batches():
            safe.append((tmp_path / own.name / "facts.json").read_bytes())
            yield batch

    own.make(cut)
    records = [json.loads(facts)["records"] for facts in safe]
    assert records == [0, 0, 6]
    folder = tmp_path / own.name
    (folder / "facts.json").write_bytes(safe[-1])
    for name in ("features", "labels"):
        with (folder / name).open("ab") as file:
            file.write(b"\x00" * 5)
    write = safetensors.torch.save(EXTRACTOR)
    (folder / "extractor").write_bytes(write)
    assert uploads(tmp_path).begun(ASKED, lambda: "data") is not None
    assert uploads(tmp_path).make(batches).part(0, 7)[1].tolist() == list(range(7))


def test_other_settings_begin_anew(tmp_path: Path) -> None:
    own = uploads(tmp_path)
    own.start(ASKED, EXTRACTOR, "data")
    stop_in(own, 3)
    assert own.begun({"encoding": "sue"}, lambda: "data") is None and own.begun(ASKED, lambda: "other data") is None
    own.start({"encoding": "sue"}, EXTRACTOR, "data")
    assert own.make(batches).facts["records"] == 7


@pytest.mark.parametrize(
    "other",
    [
        Batch(torch.zeros(2, 2, dtype=torch.uint8), torch.zeros(2, 4), (2, 3)),
        Batch(torch.zeros(2, 2, dtype=torch.uint8), torch.zeros(2, dtype=torch.int64), (6,)),
        Batch(torch.zeros(2, 3, dtype=torch.uint8), torch.zeros(2, dtype=torch.int64), (2, 3)),
    ],
)
def test_records_that_are_not_alike_are_refused(other: Batch, tmp_path: Path) -> None:
    """They would be read as others."""
    own = uploads(tmp_path)
    own.start(ASKED, EXTRACTOR, "data")
    with pytest.raises(TaskError, match="features and labels must have the same shape in all samples"):
        own.make(lambda first: [*batches(), other])
    assert own.find() is None


def test_uploads_that_nobody_fetches_do_not_fill_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever asks for them, in however many runs."""
    monkeypatch.setattr("fedws.split_learning.retention.MOST_WAITING", 2)
    for number in range(5):
        own = uploads(tmp_path, str(number))
        make(own)
        for path in (tmp_path / own.name).iterdir():
            os.utime(path, (time.time() - 100 + number,) * 2)
    found = [uploads(tmp_path, str(number)).find() for number in range(5)]
    assert [one is not None and one.acknowledged for one in found] == [True, True, False, False, False]


def test_what_was_half_deleted_harms_nobody(tmp_path: Path) -> None:
    """A process may be killed at any moment, and files go in no order."""
    old = time.time() - KEPT - 60
    for number, names in enumerate((["features"], ["labels", "extractor"], ["extractor"], ["facts.json"])):
        own = uploads(tmp_path, str(number))
        make(own)
        folder = tmp_path / own.name
        for name in ("features", "labels", "extractor", "facts.json"):
            (folder / name).unlink(missing_ok=True)
        for name in names:
            (folder / name).write_text("{}")
            os.utime(folder / name, (old, old))
    again = uploads(tmp_path, "next")
    assert make(again).facts["records"] == 7
    left = {path.name for folder in tmp_path.iterdir() if folder.name != again.name for path in folder.iterdir()}
    assert left == {"facts.json"}


def test_labels_of_any_one_shape_are_kept(tmp_path: Path) -> None:
    boxes = torch.rand(7, 3, 5, generator=torch.Generator().manual_seed(1))
    own = uploads(tmp_path)
    own.start(ASKED, EXTRACTOR, "data")
    packed = torch.zeros(7, 2, dtype=torch.uint8)
    made = own.make(lambda first: [Batch(packed[:4], boxes[:4], (2, 3)), Batch(packed[4:], boxes[4:], (2, 3))])
    assert (made.facts["label_shape"], made.facts["label_dtype"]) == ([3, 5], "float32")
    assert torch.equal(made.part(2, 4)[1], boxes[2:6])


def test_the_cache_does_not_grow_without_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also within a run."""
    monkeypatch.setattr("fedws.split_learning.retention.MOST_CACHED", 2)
    own = uploads(tmp_path)
    sent = [{"w": torch.full((1,), float(number))} for number in range(4)]
    for number, tensors in enumerate(sent):
        own.cache(tensors)
        path = tmp_path / f"extractor-{digest(tensors)}"
        os.utime(path, (time.time() - 100 + number,) * 2)
    assert [own.cached(digest(tensors)) is not None for tensors in sent] == [False, False, True, True]


def test_what_nobody_wants_for_a_month_is_forgotten(tmp_path: Path) -> None:
    """But not that it was made, or it could be noised again."""
    first, second, third = (uploads(tmp_path, name) for name in ("first", "second", "third"))
    make(first)
    make(second)
    third.start(ASKED, EXTRACTOR, "data")
    stop_in(third, 3)
    tensors = {"w": torch.ones(1)}
    first.cache(tensors)
    first.cache(EXTRACTOR)
    long_ago = time.time() - KEPT - 60
    gone = [path for own in (first, third) for path in (tmp_path / own.name).iterdir()]
    for path in [*gone, *tmp_path.glob("extractor-*")]:
        os.utime(path, (long_ago, long_ago))
    assert first.cached(digest(tensors)) is not None, "what is used is kept"
    make(uploads(tmp_path, "fourth"))
    for own in (uploads(tmp_path, name) for name in ("first", "second", "third")):
        found, name = own.find(), own.claim and own.claim.run
        assert (found is not None and found.acknowledged, own.begun(ASKED, lambda: "data")) == (name == "first", None)
    assert first.cached(digest(tensors)) is not None and first.cached(digest(EXTRACTOR)) is None


def test_what_was_sent_is_remembered(tmp_path: Path) -> None:
    made = make(uploads(tmp_path))
    assert not made.sent(0, 4)
    made.note(0, 4)
    made.note(0, 4)
    for again in (made, uploads(tmp_path).find()):
        assert again is not None and again.sent(0, 4) and not again.sent(4, 3) and not again.sent(0, 40)


def test_an_acknowledged_upload_is_deleted_but_not_forgotten(tmp_path: Path) -> None:
    made = make(uploads(tmp_path))
    made.acknowledge()
    made.acknowledge()
    again = uploads(tmp_path).find()
    assert again is not None and again.acknowledged and again.facts["records"] == 7
    (folder,) = tmp_path.iterdir()
    assert sorted(path.name for path in folder.iterdir()) == ["facts.json"]


def test_extractors_are_cached_by_what_they_hold(tmp_path: Path) -> None:
    tensors, own = {"w": torch.ones(3), "b": torch.zeros(1)}, uploads(tmp_path)
    assert own.cached(digest(tensors)) is None
    own.cache(tensors)
    found = uploads(tmp_path, "second").cached(digest(tensors))
    assert found is not None and digest(found) == digest(tensors)
    assert own.cached("../extractor") is None and own.cached("*") is None
    (file,) = tmp_path.glob("extractor-*")
    for spoilt in (file.read_bytes()[:-1] + b"\x01", file.read_bytes()[:-1]):
        file.write_bytes(spoilt)
        assert own.cached(digest(tensors)) is None, "one that was spoilt on the disk is asked for again"


def test_what_is_too_old_is_looked_for_once_a_day(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own, now, looked = uploads(tmp_path), [time.monotonic()], []
    monkeypatch.setattr("fedws.split_learning.upload_cache.prune_old", lambda *given: looked.append(given))
    monkeypatch.setattr("fedws.split_learning.upload_cache.time.monotonic", lambda: now[0])
    own.begin(Claim("second", "lab"))
    assert looked == [], "it was when the run before began"
    now[0] += 24 * 3600 + 1
    for run in ("third", "fourth"):
        own.begin(Claim(run, "lab"))
    assert len(looked) == 1


@pytest.mark.parametrize("damage", ["", "{", "\x00" * 64])
def test_a_note_that_is_damaged_counts_as_none(damage: str, tmp_path: Path) -> None:
    own = uploads(tmp_path)
    make(own)
    before = own.id
    (tmp_path / own.name / "facts.json").write_text(damage)
    assert own.find() is None and own.id != before, "new noise is a new upload"


def test_without_a_folder_it_lasts_as_long_as_the_node() -> None:
    own = uploads(None)
    make(own)
    own.begin(Claim("second", "lab"))
    assert own.find() is None
    own.begin(Claim("first", "lab"))
    assert own.find() is not None
    folder = own._folder
    del own
    gc.collect()
    assert not folder.exists()
