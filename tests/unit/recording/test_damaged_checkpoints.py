"""Loading of damaged, missing and foreign checkpoints."""

import json
import zlib
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fedws.core.errors import RunFailed, UsageError
from fedws.recording import checkpoint
from fedws.recording.checkpoint import Checkpoints
from tests.helpers.checkpoint_files import CALM, STATE, path_of
from tests.helpers.checkpoint_files import two as two
from tests.helpers.frozen_classes import Pair


def falls_back(directory: Path) -> None:
    found, remark = Checkpoints(directory).load()
    assert remark == "checkpoint 12 is damaged or incomplete; continuing from checkpoint 11"
    assert found.version == 11 and found.extra == {"round": 11} and found.state.right == "before"
    assert found.state.left["w"].tolist() == [1.5, -2.5] and found.state.left["n"] == 3


def test_a_file_cut_short_anywhere_is_passed_over(two: Path) -> None:
    whole = path_of(two, 12).read_bytes()
    assert len(whole) < 1000
    for length in range(len(whole)):
        path_of(two, 12).write_bytes(whole[:length])
        falls_back(two)
    path_of(two, 12).write_bytes(whole + b"\0")
    falls_back(two)
    path_of(two, 12).write_bytes(whole)
    assert Checkpoints(two).load()[0].version == 12


@pytest.mark.parametrize("mask", [0x01, 0x20, 0x80, 0xFF])
def test_a_file_with_any_byte_changed_is_passed_over(two: Path, mask: int) -> None:
    whole = path_of(two, 12).read_bytes()
    for place in range(len(whole)):
        damaged = bytearray(whole)
        damaged[place] ^= mask
        path_of(two, 12).write_bytes(damaged)
        falls_back(two)


@CALM
@given(data=st.data())
def test_bytes_of_a_file_that_were_never_written_are_seen(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    """As after a power cut: a stretch of zeros, or of what the disk held before."""
    directory = tmp_path_factory.mktemp("run")
    Checkpoints(directory).save(11, STATE, {"round": 11})
    Checkpoints(directory).save(12, Pair(torch.arange(300.0)), {})
    whole = path_of(directory, 12).read_bytes()
    start = data.draw(st.integers(0, len(whole) - 1))
    length = data.draw(st.integers(1, len(whole) - start))
    fill = data.draw(st.binary(min_size=1, max_size=8))
    damaged = whole[:start] + (fill * length)[:length] + whole[start + length :]
    path_of(directory, 12).write_bytes(damaged)
    if damaged == whole:
        assert Checkpoints(directory).load()[0].version == 12
    else:
        falls_back(directory)


def test_when_none_is_whole_it_is_said_in_one_line(two: Path) -> None:
    for number in (11, 12):
        path_of(two, number).write_bytes(b"")
    with pytest.raises(RunFailed) as caught:
        Checkpoints(two).load()
    assert str(caught.value) == (
        f"no intact checkpoint in {two}: checkpoint 12 is damaged or incomplete, checkpoint 11 is damaged or incomplete"
    )


@pytest.mark.parametrize("name", ["", "not there", "file"])
def test_where_there_is_none_it_is_said(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").write_text("precious")
    (tmp_path / "checkpoint-last.safetensors").write_text("not ours")
    with pytest.raises(UsageError) as caught:
        Checkpoints(tmp_path / name).load()
    assert str(caught.value) == f"no checkpoint in {tmp_path / name}"


@pytest.mark.parametrize(("number", "age"), [("1", "an older"), ("3", "a newer")])
def test_another_format_is_said_and_not_passed_over(
    number: str, age: str, two: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoint, "CHECKPOINT_FORMAT", number)
    Checkpoints(two).save(13, STATE, {})
    monkeypatch.undo()
    with pytest.raises(UsageError) as caught:
        Checkpoints(two).load()
    formats = f"(format {number}; this one reads 2)"
    assert str(caught.value) == (
        f"{path_of(two, 13)} was written by {age} fedws {formats}; resume it with that version"
    )


@pytest.mark.parametrize("change", [{"w": {"dtype": "F128", "shape": [2]}}, {"state": "{"}, {"state": None}])
def test_a_foreign_file_whose_checksum_is_right_is_said(two: Path, change: dict[str, Any]) -> None:
    path = path_of(two, 12)
    whole = path.read_bytes()
    size = int.from_bytes(whole[:8], "little")
    header = json.loads(whole[8 : 8 + size])
    about = header["__metadata__"]
    (header if "w" in change else about).update(change)
    about["checksum"] = "00000000"
    text = json.dumps(header, separators=(",", ":")).encode()
    data = len(text).to_bytes(8, "little") + text + whole[8 + size :]
    checksum = b"%08x" % zlib.crc32(data)
    path.write_bytes(data[: checkpoint._CHECKSUM_SLICE.start] + checksum + data[checkpoint._CHECKSUM_SLICE.stop :])
    with pytest.raises(
        UsageError, match=r"checkpoint-000012.safetensors is not a checkpoint of this fedws \(\w+: .*\)$"
    ):
        Checkpoints(two).load()


def test_a_file_that_may_not_be_read_is_said(two: Path) -> None:
    path_of(two, 12).unlink()
    path_of(two, 12).mkdir()
    with pytest.raises(RunFailed) as caught:
        Checkpoints(two).load()
    assert str(caught.value) == f"cannot read {path_of(two, 12)}: Is a directory"
