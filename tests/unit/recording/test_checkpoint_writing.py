"""Writing of checkpoints: errors, the order of the steps, and memory."""

import errno
import os
import resource
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from fedws.core import atomic_files, private_files
from fedws.core.errors import RunFailed
from fedws.recording import checkpoint
from fedws.recording.checkpoint import Checkpoints
from tests.helpers.checkpoint_files import STATE, names, path_of, there_and_back
from tests.helpers.checkpoint_files import two as two
from tests.helpers.own_process import apart


@pytest.mark.parametrize(
    ("owner", "name"),
    [
        (private_files, "open_binary"),
        (checkpoint, "view_bytes"),
        (os, "fsync"),
        (Path, "replace"),
        (atomic_files, "fsync_dir"),
    ],
)
def test_a_full_disk_leaves_the_checkpoints_before(
    two: Path, monkeypatch: pytest.MonkeyPatch, owner: Any, name: str
) -> None:
    def full(*given: Any, **options: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(owner, name, full)
        with pytest.raises(RunFailed) as caught:
            Checkpoints(two).save(13, STATE, {})
    assert str(caught.value) == f"cannot write {path_of(two, 13)}: No space left on device"
    before = [path_of(two, number).name for number in (11, 12)]
    assert [found for found in names(two) if found != path_of(two, 13).name] == before
    assert path_of(two, 13).exists() == (name == "fsync_dir"), "it is in place when its directory is synced"
    assert Checkpoints(two).load()[1] == ""


def test_a_file_in_the_way_of_the_directory_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("precious")
    with pytest.raises(RunFailed, match=r"cannot write .*file/checkpoint-000001\.safetensors: File exists\Z"):
        Checkpoints(tmp_path / "file").save(1, STATE, {})
    with pytest.raises(RunFailed, match=r"cannot write .*safetensors: Not a directory\Z"):
        Checkpoints(tmp_path / "file" / "deeper").save(1, STATE, {})
    assert (tmp_path / "file").read_text() == "precious"


def test_a_file_system_that_cannot_sync_a_directory_is_borne(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fsync = os.fsync

    def picky(handle: int) -> None:
        if Path(f"/proc/self/fd/{handle}").resolve().is_dir():
            raise OSError(errno.EINVAL, "Invalid argument")
        fsync(handle)

    monkeypatch.setattr(os, "fsync", picky)
    there_and_back(tmp_path / "run", STATE)


def test_the_old_goes_when_the_new_is_on_the_disk(two: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done = []

    def watch(owner: Any, name: str, what: Callable[[Any], str]) -> None:
        real = getattr(owner, name)

        def watched(thing: Any, *given: Any, **options: Any) -> Any:
            done.append(f"{name} {what(thing)}")
            return real(thing, *given, **options)

        monkeypatch.setattr(owner, name, watched)

    watch(os, "fsync", lambda handle: Path(f"/proc/self/fd/{handle}").resolve().name)
    watch(Path, "replace", lambda path: path.name)
    watch(Path, "unlink", lambda path: path.name)
    Checkpoints(two).save(13, STATE, {})
    part = "checkpoint-000013.safetensors.part"
    removed = "unlink checkpoint-000011.safetensors"
    assert done == [f"fsync {part}", f"replace {part}", "fsync checkpoints", f"unlink {part}", removed]
    done.clear()
    Checkpoints(two.parent / "new").save(1, STATE, {})
    assert done[0] == "fsync run" and done[3] == "fsync new"


def save_beyond_the_limit(directory: Path) -> None:
    Checkpoints(directory).save(1, STATE, {})
    resource.setrlimit(resource.RLIMIT_FSIZE, (3_000_000, 3_000_000))
    for elements in (10_000_000, 750_000):  # far beyond, and in the last bytes
        try:
            Checkpoints(directory).save(2, torch.zeros(elements), {})
        except RunFailed as error:
            print(error)
    print(names(directory), Checkpoints(directory).load()[0].version)


def test_a_file_that_may_not_grow_leaves_the_checkpoints_before(tmp_path: Path) -> None:
    said = apart(save_beyond_the_limit, tmp_path).splitlines()
    wanted = f"cannot write {path_of(tmp_path, 2)}: File too large"
    assert said == [wanted, wanted, f"{['checkpoint-000001.safetensors']} 1"]


def test_nothing_is_copied_to_write_or_read(tmp_path: Path) -> None:
    state = {"w": torch.zeros(4_000_000), "transposed": torch.zeros(100, 200).t()}
    checkpoints = Checkpoints(tmp_path)
    tracemalloc.start()
    try:
        checkpoints.save(1, state, {})
        saving = tracemalloc.get_traced_memory()[1]
        tracemalloc.reset_peak()
        checkpoints.load()
        loading = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert saving < 2**20 and loading < 4 * 2**20
    tensor = state["w"]
    assert checkpoint.view_bytes(tensor).obj.__array_interface__["data"][0] == tensor.data_ptr()  # type: ignore[attr-defined]
