"""Files that are whole or not there, and on the disk when it is said that they are."""

import errno
import os
import stat
from pathlib import Path
from typing import Any

import pytest

from fedws.core.atomic_files import atomic_file, atomic_write, fsync_dir


def test_a_file_is_whole_and_nothing_is_left_of_the_making(tmp_path: Path) -> None:
    atomic_write(tmp_path / "a", b"one")
    atomic_write(tmp_path / "a", b"two")
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("a", b"two")]


def test_the_bytes_are_on_the_disk_before_the_name_and_the_name_before_it_returns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []
    fsync, replace = os.fsync, Path.replace

    def synced(handle: int) -> None:
        done.append("directory" if stat.S_ISDIR(os.fstat(handle).st_mode) else "bytes")
        fsync(handle)

    def named(self: Path, target: Path) -> Path:
        done.append("name")
        return replace(self, target)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(Path, "replace", named)
    atomic_write(tmp_path / "a", b"one")
    assert done == ["bytes", "name", "directory"]


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_what_was_there_stays_when_the_disk_is_full(call: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    atomic_write(tmp_path / "a", b"one")

    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(*((os, "fsync", full) if call == "fsync" else (Path, "replace", full)))
        with pytest.raises(OSError, match="No space left"):
            atomic_write(tmp_path / "a", b"two")
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("a", b"one")]


@pytest.mark.parametrize(("code", "bad"), [(errno.EINVAL, False), (errno.EIO, True)])
def test_a_file_system_that_cannot_wait_for_directories_need_not(
    code: int, bad: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(handle: int) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "fsync", fails)
    if bad:
        with pytest.raises(OSError, match=os.strerror(code)):
            fsync_dir(tmp_path)
    else:
        fsync_dir(tmp_path)


@pytest.mark.parametrize("shared", [False, True])
def test_a_file_whose_writer_fails_is_not_there(shared: bool, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="half"), atomic_file(tmp_path / "a", shared=shared) as part:
        part.write_text("half")
        raise ValueError("half")
    assert list(tmp_path.iterdir()) == []


def test_a_writer_replaces_what_a_killed_one_left(tmp_path: Path) -> None:
    (tmp_path / "a.part").write_text("half of another")
    with atomic_file(tmp_path / "a") as part:
        assert part.read_bytes() == b""
        part.write_text("one")
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("a", "one")]


def test_of_two_shared_writers_the_last_one_stays(tmp_path: Path) -> None:
    with atomic_file(tmp_path / "a", shared=True) as first, atomic_file(tmp_path / "a", shared=True) as second:
        assert first != second
        first.write_text("first")
        second.write_text("second")
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("a", "first")]


def test_of_two_exclusive_writers_the_first_one_stays(tmp_path: Path) -> None:
    with pytest.raises(FileExistsError), atomic_file(tmp_path / "a", exclusive=True) as late:
        late.write_text("late")
        with atomic_file(tmp_path / "a", exclusive=True) as early:
            early.write_text("early")
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("a", "early")]
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o600


def test_a_file_that_a_library_made_is_private_as_well(tmp_path: Path) -> None:
    with atomic_file(tmp_path / "a") as part:
        part.unlink()
        part.touch(0o666)
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o600
