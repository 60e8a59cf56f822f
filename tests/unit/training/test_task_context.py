"""What a task keeps on its node's disk, apart from what other tasks keep there."""

from pathlib import Path

import pytest
import torch

from fedws.protocol.run_claim import RunClaim
from fedws.split_learning.upload_cache import open_uploads
from fedws.training.task_context import TaskContext


def context(state_dir: Path | None) -> TaskContext:
    return TaskContext("alice", "points", [(torch.zeros(2), 0)], state_dir=state_dir)


class Notes:
    def __init__(self, folder: Path | None) -> None:
        self.folder = folder


def test_each_resource_has_a_folder_of_its_own(tmp_path: Path) -> None:
    here = context(tmp_path)
    mine = here.open_resource("mine", Notes)
    assert mine.folder == tmp_path / "mine" and here.open_resource("mine", Notes) is mine
    assert here.open_resource("other", Notes).folder == tmp_path / "other"
    assert context(None).open_resource("mine", Notes).folder is None


def test_a_name_belongs_to_one_factory(tmp_path: Path) -> None:
    here = context(tmp_path)
    here.open_resource("uploads", Notes)
    with pytest.raises(ValueError, match="another factory created the resource 'uploads'"):
        open_uploads(here)


def test_uploads_leave_the_files_of_other_tasks(tmp_path: Path) -> None:
    mine = context(tmp_path).open_resource("my_task", Notes).folder
    assert mine is not None
    mine.mkdir()
    (mine / "state.bin").write_bytes(b"state")
    open_uploads(context(tmp_path)).start_run(RunClaim("run", "lab"))
    assert (mine / "state.bin").exists()
