"""A worker's uploads: made once a run, the same bits again, deleted when acknowledged, and never of another run."""

import errno
import gc
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from fedws.tensors import digest
from fedws.uploads import Upload, Uploads

FACTS = {"asked": {"encoding": "bits"}, "shape": [2, 3]}


def parts() -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    for first, count in ((0, 4), (4, 3)):
        numbers = torch.arange(first, first + count)
        yield numbers.to(torch.uint8).unsqueeze(1).repeat(1, 2), numbers


def uploads(folder: Path, run: str = "lab/first") -> Uploads:
    made = Uploads(folder)
    made.begin(run)
    return made


def test_what_was_made_is_found_again_also_after_a_new_start(tmp_path: Path) -> None:
    assert uploads(tmp_path).find() is None
    uploads(tmp_path).make(parts(), FACTS)
    for found in (uploads(tmp_path).find(), uploads(tmp_path).find()):
        assert isinstance(found, Upload)
        assert found.facts == {**FACTS, "records": 7, "bytes": 2}
        features, labels = found.part(3, 2)
        assert (features.tolist(), labels.tolist()) == ([[3, 3], [4, 4]], [3, 4])
        assert (features.dtype, labels.dtype) == (torch.uint8, torch.int64)
    assert uploads(tmp_path, "lab/second").find() is None, "another run has another"
    assert uploads(tmp_path, "other/first").find() is None, "and so has another coordinator"


def test_it_is_its_owners_alone(tmp_path: Path) -> None:
    uploads(tmp_path / "uploads").make(parts(), FACTS)
    (folder,) = (tmp_path / "uploads").iterdir()
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_a_runs_id_is_no_path(tmp_path: Path) -> None:
    uploads(tmp_path / "in", "../../out/..").make(parts(), FACTS)
    assert [path.name for path in tmp_path.iterdir()] == ["in"]
    (folder,) = (tmp_path / "in").iterdir()
    assert len(folder.name) == 64


def test_what_was_not_made_whole_is_made_anew(tmp_path: Path) -> None:
    def breaks() -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        yield next(parts())
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        uploads(tmp_path).make(breaks(), FACTS)
    assert uploads(tmp_path).find() is None and list(tmp_path.iterdir()) == []
    uploads(tmp_path).make(parts(), FACTS)
    (folder,) = tmp_path.iterdir()
    (folder / "facts.json").unlink()  # as after a power cut: features, but no word that they are whole
    assert uploads(tmp_path).find() is None
    assert uploads(tmp_path).make(parts(), FACTS).facts["records"] == 7


def test_what_was_sent_is_remembered(tmp_path: Path) -> None:
    made = uploads(tmp_path).make(parts(), FACTS)
    assert not made.sent(0, 4)
    made.note(0, 4)
    made.note(0, 4)
    for again in (made, uploads(tmp_path).find()):
        assert again is not None and again.sent(0, 4) and not again.sent(4, 3) and not again.sent(0, 40)


def test_an_acknowledged_upload_is_deleted_but_not_forgotten(tmp_path: Path) -> None:
    made = uploads(tmp_path).make(parts(), FACTS)
    made.acknowledge()
    made.acknowledge()
    again = uploads(tmp_path).find()
    assert again is not None and again.acknowledged and again.facts["records"] == 7
    (folder,) = tmp_path.iterdir()
    assert sorted(path.name for path in folder.iterdir()) == ["facts.json"]


def test_extractors_are_cached_by_what_they_hold(tmp_path: Path) -> None:
    tensors, own = {"w": torch.ones(3), "b": torch.zeros(1)}, uploads(tmp_path)
    assert own.extractor(digest(tensors)) is None
    own.keep_extractor(tensors)
    found = uploads(tmp_path, "lab/second").extractor(digest(tensors))
    assert found is not None and digest(found) == digest(tensors)
    assert own.extractor("../extractor") is None and own.extractor("*") is None
    (file,) = tmp_path.glob("extractor-*")
    for spoilt in (file.read_bytes()[:-1] + b"\x01", file.read_bytes()[:-1]):
        file.write_bytes(spoilt)
        assert own.extractor(digest(tensors)) is None, "one that was spoilt on the disk is asked for again"


def test_without_a_folder_it_lasts_as_long_as_the_node() -> None:
    own = Uploads()
    own.begin("lab/first")
    own.make(parts(), FACTS)
    own.begin("lab/second")
    assert own.find() is None
    own.begin("lab/first")
    assert own.find() is not None
    folder = own._folder
    del own
    gc.collect()
    assert not folder.exists()
