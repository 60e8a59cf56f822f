"""A shared directory as a store: whose eyes it is for, what full and broken disks do, what writers left that ended."""

import errno
import os
import threading
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from fedws.core.errors import StoreError, UsageError
from fedws.object_store.backends import file
from fedws.object_store.backends.file import FileStore
from fedws.object_store.base import PART_BYTES, StoreConfig, open_backend
from fedws.object_store.watchdog import Progress

RUN = "0123456789abcdef"
BODY = bytes(range(256)) * 100
NAME = sha256(BODY).hexdigest()
PATIENCE = 60.0


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    found = tmp_path / "blobs"
    found.mkdir()
    return found


def put(store: FileStore, body: bytes = BODY) -> None:
    store.put(RUN, NAME, [memoryview(body)])


def get(store: FileStore) -> bytes:
    into = bytearray(len(BODY))
    store.get(RUN, NAME, memoryview(into))
    return bytes(into)


def test_blobs_are_for_the_users_own_eyes(folder: Path) -> None:
    before = os.umask(0)
    try:
        put(FileStore(folder.as_uri(), PATIENCE))
    finally:
        os.umask(before)
    assert [oct(path.stat().st_mode & 0o777) for path in (folder / RUN, folder / RUN / NAME)] == ["0o700", "0o600"]


def test_nothing_is_written_where_the_blob_is(folder: Path) -> None:
    store = FileStore(folder.as_uri(), PATIENCE)
    put(store)
    first = (folder / RUN / NAME).stat()
    put(store)
    assert (folder / RUN / NAME).stat() == first


def test_a_folder_may_have_any_name(tmp_path: Path) -> None:
    folder = tmp_path / "a b%20ü#?"
    folder.mkdir()
    put(FileStore(folder.as_uri(), PATIENCE))
    assert (folder / RUN / NAME).read_bytes() == BODY


@pytest.mark.parametrize("url", ["file://server/share", "file:blobs", "file://", "file:///a%00b"])
def test_a_url_that_is_no_folder_is_told(url: str) -> None:
    with pytest.raises(UsageError, match=r"is not a valid URL of a directory; use the form file:///ABSOLUTE/PATH$"):
        FileStore(url, PATIENCE)


@pytest.mark.parametrize(
    ("path", "why"),
    [("none", "directory not found"), ("file", "directory not found"), ("/proc", "directory is not writable: ")],
)
def test_a_folder_that_cannot_be_used_is_told(tmp_path: Path, path: str, why: str) -> None:
    (tmp_path / "file").write_text("")
    url = (tmp_path / path).as_uri()
    with pytest.raises(UsageError) as caught:
        open_backend(StoreConfig(url, 0), PATIENCE)
    assert str(caught.value).startswith(f"{url}: {why}")


def test_a_folder_that_goes_away_is_told(folder: Path) -> None:
    store = FileStore(folder.as_uri(), PATIENCE)
    folder.rmdir()
    with pytest.raises(StoreError) as caught:
        put(store)
    assert str(caught.value) == f"{folder.as_uri()}: No such file or directory"
    store.delete(RUN, NAME)
    store.delete_run(RUN)


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_nothing_is_left_when_the_disk_is_full(folder: Path, call: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    store = FileStore(folder.as_uri(), PATIENCE)
    (folder / RUN).mkdir()
    with monkeypatch.context() as patch:
        patch.setattr(*((os, "fsync", full) if call == "fsync" else (Path, "replace", full)))
        with pytest.raises(StoreError) as caught:
            put(store)
    assert str(caught.value) == f"{folder.as_uri()}: No space left on device"
    assert list((folder / RUN).iterdir()) == []


def test_a_blob_is_on_the_disk_before_it_has_its_name(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []
    fsync, replace = os.fsync, Path.replace

    def synced(handle: int) -> None:
        done.append(Path(f"/proc/self/fd/{handle}").readlink().name.partition(".")[0])
        fsync(handle)

    def named(self: Path, target: Path) -> Path:
        done.append("named")
        return replace(self, target)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(Path, "replace", named)
    put(FileStore(folder.as_uri(), PATIENCE), bytes(PART_BYTES + 1))
    assert done == [folder.name, NAME, NAME, NAME, "named", RUN]


def test_what_an_ended_writer_left_is_deleted_and_what_one_is_at_stays(folder: Path) -> None:
    (folder / RUN).mkdir()
    old, new, other = (folder / RUN / f"{name}.x.part" for name in (NAME, f"{NAME}.y", "f" * 64))
    for path in (old, new, other):
        path.write_bytes(b"part")
    for path, age in ((old, PATIENCE + 5), (new, PATIENCE / 2), (other, PATIENCE + 5)):
        at = path.stat().st_mtime - age
        os.utime(path, (at, at))
    put(FileStore(folder.as_uri(), PATIENCE))
    assert sorted((folder / RUN).iterdir()) == sorted([folder / RUN / NAME, new, other])
    FileStore(folder.as_uri(), PATIENCE).delete_run(RUN)
    assert list(folder.iterdir()) == []


def test_every_part_is_progress(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    steps: list[int] = []

    def counted(work: Any, patience: float, name: str, stop: threading.Event | None) -> None:
        progress = Progress(patience, name, stop)
        work(progress)
        steps.append(progress.events.qsize())

    monkeypatch.setattr(file, "run_with_watchdog", counted)
    store, body = FileStore(folder.as_uri(), PATIENCE), bytes(2 * PART_BYTES + 1)
    put(store, body)
    store.get(RUN, NAME, memoryview(bytearray(body)))
    assert steps == [3, 3]


@pytest.fixture
def hung(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A network file system whose server is gone, and comes back in the end."""
    back, stat = threading.Event(), Path.stat

    def hangs(self: Path, **settings: Any) -> os.stat_result:
        if threading.current_thread().name == "fedws-store":
            back.wait()
        return stat(self, **settings)

    monkeypatch.setattr(Path, "stat", hangs)
    yield
    back.set()


@pytest.mark.usefixtures("hung")
def test_a_file_system_that_hangs_is_not_waited_for(folder: Path) -> None:
    store, line = FileStore(folder.as_uri(), 0.1), f"{folder.as_uri()}: no progress in 0.1 s"
    for use in (put, get):
        with pytest.raises(StoreError) as caught:
            use(store)
        assert str(caught.value) == line
    with pytest.raises(UsageError) as told:
        store.check_access()
    assert str(told.value) == line
