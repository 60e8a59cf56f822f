"""Removal of old checkpoints and of temporary files."""

import errno
from pathlib import Path

import pytest

from fedws.core.errors import RunFailed
from fedws.recording.checkpoint import Checkpoints
from tests.helpers.checkpoint_files import STATE, names, path_of
from tests.helpers.checkpoint_files import two as two
from tests.helpers.frozen_classes import Pair


def test_the_two_newest_are_kept_and_what_a_killed_save_left_is_removed(two: Path) -> None:
    (two / "model.safetensors.part").write_text("not ours")
    path_of(two, 3).write_text("old")
    for act in (lambda: Checkpoints(two).save(1_000_000, STATE, {}), lambda: Checkpoints(two).load()):
        (two / "checkpoint-000013.safetensors.part").write_text("half")
        act()
        kept = ["checkpoint-000012.safetensors", "checkpoint-1000000.safetensors", "model.safetensors.part"]
        assert names(two) == kept
    assert Checkpoints(two).load()[0].version == 1_000_000


def test_what_is_saved_is_the_newest_also_after_going_back(two: Path) -> None:
    """After 12 was found damaged the run continues from 11, and may end before 12."""
    path_of(two, 14).write_bytes(path_of(two, 12).read_bytes()[:-1])
    path_of(two, 12).unlink()
    Checkpoints(two).save(13, STATE, {})
    assert names(two) == [path_of(two, 11).name, path_of(two, 13).name]
    Checkpoints(two).save(13, Pair(1), {})
    assert names(two) == [path_of(two, 11).name, path_of(two, 13).name]
    assert Checkpoints(two).load()[0].state == Pair(1)


def test_a_run_that_has_finished_leaves_its_newest_checkpoint(two: Path) -> None:
    """And everything else in the directory. A second call, and one for a missing directory, does nothing."""
    (two / "checkpoint-000013.safetensors.part").write_text("half")
    (two / "model.safetensors").write_text("precious")
    newest = max(path.name for path in two.glob("checkpoint-*.safetensors"))
    for _ in range(2):
        Checkpoints(two).prune()
        assert names(two) == [newest, "model.safetensors"]
    assert Checkpoints(two).load()[0].version == 12
    Checkpoints(two / "none").prune()
    assert not (two / "none").exists()


def test_a_checkpoint_that_cannot_be_removed_is_said(two: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stuck(self: Path, missing_ok: bool = False) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    before = names(two)
    monkeypatch.setattr(Path, "unlink", stuck)
    with pytest.raises(RunFailed, match=r"cannot remove .*checkpoint-0000\d\d.safetensors: Read-only file system\Z"):
        Checkpoints(two).prune()
    assert names(two) == before
