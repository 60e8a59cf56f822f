"""Files and folders for one user: their modes under every umask, and warnings about secrets that others can read."""

import logging
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from fedws.cli.run import save_model
from fedws.core import private_files
from fedws.core.atomic_files import atomic_write
from fedws.core.errors import RunFailed
from fedws.privacy.audit_log import AuditLog
from fedws.recording.checkpoint import Checkpoints
from fedws.recording.curves import draw_curves
from fedws.recording.run_directory import RunDirectory
from fedws.recording.run_log import RunLog, write_model
from fedws.recording.sinks.tensorboard import TensorBoardWriter
from fedws.security import certificates
from fedws.split_learning.feature_store import FeatureStore

TENSORS = {"w": torch.arange(3.0)}


@pytest.fixture(params=[0o000, 0o022, 0o777], ids=oct)
def umask(request: pytest.FixtureRequest) -> Iterator[int]:
    """The umask while a test lasts."""
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def modes(root: Path) -> dict[str, int]:
    """The mode of all that is in a folder, by its place there."""
    return {path.relative_to(root).as_posix(): path.stat().st_mode & 0o777 for path in root.rglob("*")}


@pytest.mark.usefixtures("umask")
def test_a_file_is_private_from_its_first_byte_on(tmp_path: Path) -> None:
    with private_files.open_binary(tmp_path / "a", "wb") as file:
        assert modes(tmp_path) == {"a": 0o600}
        file.write(b"1")
    with private_files.open_binary(tmp_path / "a", "ab") as file:
        file.write(b"2")
    with private_files.open_text(tmp_path / "b", "x") as text:
        text.write("3")
    with private_files.open_text(tmp_path / "b", "a", "ascii") as text:
        text.write("4")
    with pytest.raises(FileExistsError):
        private_files.open_text(tmp_path / "b", "x")
    private_files.create_empty_file(tmp_path / "c")
    assert [(tmp_path / name).read_text() for name in "abc"] == ["12", "34", ""]
    assert modes(tmp_path) == {"a": 0o600, "b": 0o600, "c": 0o600}


def test_a_file_that_others_could_read_becomes_private(tmp_path: Path) -> None:
    (tmp_path / "a").touch(0o644)
    private_files.open_text(tmp_path / "a", "a").close()
    assert modes(tmp_path) == {"a": 0o600}


@pytest.mark.usefixtures("umask")
def test_a_folder_is_private_and_one_that_exists_keeps_its_mode(tmp_path: Path) -> None:
    private_files.create_dir(tmp_path / "a")
    (tmp_path / "b").mkdir()
    (tmp_path / "b").chmod(0o750)
    private_files.create_dir(tmp_path / "b", exist_ok=True)
    with pytest.raises(FileExistsError):
        private_files.create_dir(tmp_path / "b")
    (tmp_path / "c").touch()
    with pytest.raises(FileExistsError):
        private_files.create_dir(tmp_path / "c", exist_ok=True)
    assert [modes(tmp_path)[name] for name in "ab"] == [0o700, 0o750]


def test_parents_have_the_mode_of_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o022)
    private_files.create_dir(tmp_path / "runs" / "one", parents=True)
    os.umask(before)
    assert modes(tmp_path) == {"runs": 0o755, "runs/one": 0o700}


def test_a_file_system_without_modes_is_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*given: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    (tmp_path / "a").touch(0o644)
    monkeypatch.setattr(os, "chmod", refuse)
    private_files.open_text(tmp_path / "a", "a").close()
    before = os.umask(0)
    private_files.open_text(tmp_path / "b", "w").close()
    os.umask(before)
    assert modes(tmp_path) == {"a": 0o644, "b": 0o600}, "a new file is private before its mode is set"


# --------------------------------------------------------------------------- who writes files


@pytest.mark.parametrize("umask", [0o000], indirect=True)
@pytest.mark.usefixtures("umask")
def test_all_that_is_written_of_runs_and_nodes_is_private(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_model(Path("tensors"), TENSORS)
    atomic_write(Path("durable"), b"1")
    Checkpoints(Path("checkpoints")).save(1, TENSORS, {})
    FeatureStore(Path("features")).save_chunk(0, 0, TENSORS)
    sink = TensorBoardWriter(Path("tensorboard"))
    sink.write({"kind": "evaluation", "round": 1, "model": "federated", "loss": 1.0})
    sink.close()
    draw_curves([], {}, Path("curves.png"))
    Path("run").mkdir(0o700)
    record = RunLog(Path("run"))
    record.open()
    record.close()
    save_model(TENSORS, "model")
    AuditLog(Path("audit") / "alice.jsonl")
    certificates.create_ca(Path("certs"))
    found = modes(tmp_path)
    assert len(found) >= 21
    public = {"certs/ca.pem", "certs/.gitignore"}
    folders = {path.relative_to(tmp_path).as_posix() for path in tmp_path.iterdir() if path.is_dir()}
    assert {name: oct(mode) for name, mode in found.items() if name not in public} == {
        name: oct(0o700 if name in folders else 0o600) for name in found.keys() - public
    }


def test_tensors_that_cannot_be_written_leave_nothing(tmp_path: Path) -> None:
    with pytest.raises(RunFailed):
        write_model(tmp_path / "none" / "tensors", TENSORS)
    assert modes(tmp_path) == {}


# --------------------------------------------------------------------------- what others can read


def test_a_directory_of_ones_own_keeps_its_mode_and_is_told_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "fedws")
    RunDirectory.create(tmp_path / "private").close()
    assert caplog.messages == []
    path = tmp_path / "shared with others"
    path.mkdir()
    path.chmod(0o770)
    held = RunDirectory.create(path)
    assert caplog.messages == [
        f"--run-dir {path} is accessible to other users of this machine; restrict it with chmod -R go= '{path}'"
    ]
    assert path.stat().st_mode & 0o777 == 0o770
    assert modes(path) == {"run.log": 0o600, ".lock": 0o600}
    held.close()
