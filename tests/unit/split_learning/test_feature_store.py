"""The coordinator's store of features: what was put is there, whole, whatever comes between, and costs no memory."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from fedws.core.errors import RunFailed, UsageError
from fedws.split_learning.feature_store import FEATURES_KEY, LABELS_KEY, FeatureStore


def chunk(first: int, count: int, size: int = 3) -> dict[str, torch.Tensor]:
    """Records that say which they are."""
    numbers = torch.arange(first, first + count)
    return {FEATURES_KEY: numbers.to(torch.uint8).unsqueeze(1).repeat(1, size), LABELS_KEY: numbers}


def test_an_empty_store_has_no_records(tmp_path: Path) -> None:
    assert len(FeatureStore(tmp_path / "none").load_features()) == 0
    assert not (tmp_path / "none").exists()


def test_records_are_found_wherever_they_are(tmp_path: Path) -> None:
    store = FeatureStore(tmp_path / "features")
    for worker, number, first, count in ((1, 0, 50, 7), (0, 1, 30, 4), (0, 0, 10, 5), (10, 0, 90, 1)):
        store.save_chunk(worker, number, chunk(first, count))
    records = store.load_features()
    held = [*range(10, 15), *range(30, 34), *range(50, 57), 90]
    assert len(records) == len(held)
    features, labels = records.batch(torch.arange(len(held)))
    assert labels.tolist() == held and labels.dtype == torch.int64
    assert features.tolist() == [[number] * 3 for number in held] and features.dtype == torch.uint8
    order = torch.randperm(len(held), generator=torch.Generator().manual_seed(1))
    features, labels = records.batch(order)
    assert labels.tolist() == [held[place] for place in order.tolist()] == features[:, 0].tolist()
    single, label = records[6]
    assert (single.tolist(), int(label)) == ([31] * 3, 31)


def test_chunks_are_counted_up_to_the_first_that_is_missing(tmp_path: Path) -> None:
    store = FeatureStore(tmp_path / "features")
    assert store.count_chunks() == {}
    for worker, number in ((0, 0), (0, 1), (0, 3), (2, 1), (10, 0)):
        store.save_chunk(worker, number, chunk(0, 2))
    assert store.count_chunks() == {0: 2, 2: 0, 10: 1}


def test_labels_come_back_as_they_were(tmp_path: Path) -> None:
    """Those of a detector are several numbers."""
    store, boxes = FeatureStore(tmp_path), torch.rand(6, 3, 5, generator=torch.Generator().manual_seed(1))
    for number in (0, 1):
        part = slice(4 * number, 4 * number + 4)
        store.save_chunk(0, number, {FEATURES_KEY: torch.zeros(6, 2, dtype=torch.uint8)[part], LABELS_KEY: boxes[part]})
    _, labels = store.load_features().batch(torch.tensor([5, 0, 3]))
    assert torch.equal(labels, boxes[[5, 0, 3]])


def test_a_chunk_that_comes_again_replaces_itself(tmp_path: Path) -> None:
    store = FeatureStore(tmp_path)
    store.save_chunk(0, 0, chunk(1, 4))
    before = store.load_features()
    store.save_chunk(0, 0, chunk(1, 4))
    assert len(store.load_features()) == 4
    assert before.batch(torch.arange(4))[1].tolist() == [1, 2, 3, 4], "who reads goes on reading"


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_full_disk_is_told_and_leaves_what_was_stored(
    call: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = FeatureStore(tmp_path)
    store.save_chunk(0, 0, chunk(1, 4))

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(*((os, "fsync", full) if call == "fsync" else (Path, "replace", full)))
        with pytest.raises(RunFailed, match=r"cannot write features to .*: No space left on device"):
            store.save_chunk(0, 1, chunk(5, 4))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0-0.safetensors"]
    store.save_chunk(0, 1, chunk(5, 4))
    assert len(store.load_features()) == 8


def test_a_file_that_is_cut_short_is_named_and_one_of_another_name_is_not_read(tmp_path: Path) -> None:
    store = FeatureStore(tmp_path)
    store.save_chunk(0, 0, chunk(1, 4))
    (tmp_path / "0-1.safetensors.part").write_bytes(b"half")
    (tmp_path / "notes.txt").write_text("mine")
    assert len(store.load_features()) == 4
    whole = (tmp_path / "0-0.safetensors").read_bytes()
    (tmp_path / "0-0.safetensors").write_bytes(whole[:-1])
    with pytest.raises(UsageError, match="cannot read the features"):
        store.load_features()


READER = """
import resource, sys, torch
from pathlib import Path
from fedws.split_learning.feature_store import FeatureStore
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
records = FeatureStore(Path(sys.argv[1])).load_features()
print(len(records), records.batch(torch.tensor([0, len(records) - 1]))[1].tolist())
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


def test_what_is_stored_is_not_read_into_memory(tmp_path: Path) -> None:
    store = FeatureStore(tmp_path)
    for number in range(4):
        store.save_chunk(0, number, chunk(0, 32, size=2**20))
    told = subprocess.run([sys.executable, "-c", READER, str(tmp_path)], capture_output=True, text=True, check=True)
    records, grown = told.stdout.splitlines()
    assert records == "128 [0, 31]"
    assert int(grown) < 32 * 1024 * (1 if sys.platform == "linux" else 1024), "of 128 MiB"
