"""Models that a run saves at its end."""

from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from fedws.core.errors import RunFailed
from fedws.core.plan import Plan
from fedws.recording.run_log import RunLog, write_model
from tests.helpers.run_log_files import level as level
from tests.helpers.run_log_files import names
from tests.helpers.run_log_files import record as record


def test_a_model_is_saved_as_it_is(record: RunLog) -> None:
    model = {"w": torch.arange(6.0).reshape(2, 3).t(), "n": torch.tensor(3), "h": torch.ones(2).bfloat16()}
    path = write_model(record.directory / "model.safetensors", model)
    assert path == record.directory / "model.safetensors"
    found = safetensors.torch.load_file(path)
    assert set(found) == set(model)
    assert all(found[key].dtype == model[key].dtype and torch.equal(found[key], model[key]) for key in model)


def test_tensors_that_view_one_buffer_are_saved(record: RunLog) -> None:
    """As those of a report do."""
    buffer = torch.arange(10.0)
    found = safetensors.torch.load_file(
        write_model(record.directory / "model.safetensors", {"a": buffer[:4], "b": buffer[4:]})
    )
    assert found["a"].tolist() == [0, 1, 2, 3] and found["b"].tolist() == [4, 5, 6, 7, 8, 9]


def test_saving_replaces_the_model_before_and_leaves_nothing_else(record: RunLog) -> None:
    before = names(record.directory)
    for value in (1.0, 2.0):
        write_model(record.directory / "model.safetensors", {"w": torch.tensor(value)})
    assert names(record.directory) == before | {"model.safetensors"}
    assert safetensors.torch.load_file(record.directory / "model.safetensors")["w"] == 2


def test_a_save_that_fails_leaves_the_model_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_model(tmp_path / "model.safetensors", {"w": torch.tensor(1.0)})

    def half(tensors: Any, target: Path, metadata: Any) -> None:
        target.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(safetensors.torch, "save_file", half)
    with pytest.raises(RunFailed, match=r"cannot write .*model\.safetensors: .*No space left on device"):
        write_model(path, {"w": torch.tensor(2.0)})
    monkeypatch.undo()
    assert safetensors.torch.load_file(path)["w"] == 1 and [found.name for found in tmp_path.iterdir()] == [path.name]


def test_a_model_is_never_seen_half_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "model.safetensors"
    written = []
    replace = Path.replace

    def watch(self: Path, target: Path) -> Path:
        written.append((self.name, target.exists(), safetensors.torch.load_file(self)))
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", watch)
    write_model(path, {"w": torch.tensor(1.0)})
    assert written == [("model.safetensors.part", False, {"w": torch.tensor(1.0)})]


def test_a_full_disk_is_one_reason(record: RunLog, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*given: Any, **options: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(safetensors.torch, "save_file", full)
    with pytest.raises(RunFailed, match=r"cannot write .*model.safetensors: .*No space left on device"):
        record.write_results({"w": torch.zeros(1)}, Plan())


def test_what_a_killed_coordinator_left_of_its_results_is_replaced(record: RunLog) -> None:
    for name in ("model.safetensors.part", "curves.png.part"):
        (record.directory / name).write_bytes(b"half")
    record.write_results({"w": torch.zeros(1)}, Plan())
    assert names(record.directory) == {"run.log", "metrics.jsonl", "model.safetensors", "curves.png"}


def test_where_no_version_was_made_no_model_is_left(record: RunLog) -> None:
    record.write_results(None, Plan())
    assert names(record.directory) == {"run.log", "metrics.jsonl"}
