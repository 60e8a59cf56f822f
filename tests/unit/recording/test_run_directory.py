"""A run's directory: who uses it, and what is left in it."""

import json
import tomllib
from pathlib import Path
from typing import Any

import pytest

from fedws.core import private_files
from fedws.core.errors import UsageError
from fedws.core.plan import build_plan
from fedws.recording.run_directory import RunDirectory
from fedws.recording.run_info import load_plan_settings
from tests.helpers.run_directories import PLAN, begun, names


def test_a_directory_that_is_there_and_empty_may_be_used(tmp_path: Path) -> None:
    RunDirectory.create(tmp_path).close()
    assert names(tmp_path) == set()


def test_a_directory_that_is_not_empty_is_refused_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_text("precious")
    with pytest.raises(UsageError) as caught:
        RunDirectory.create(tmp_path)
    assert str(caught.value) == f"--run-dir {tmp_path} is not empty; choose a new or an empty directory"
    assert names(tmp_path) == {"model.safetensors"}


@pytest.mark.parametrize("name", ["file", "file/run", "file/run/deeper"])
def test_a_file_in_the_way_is_said(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").write_text("precious")
    with pytest.raises(
        UsageError,
        match=r"^(--run-dir .*file is a file; choose a new .*|cannot write --run-dir .*file/.*: Not a directory; .*)$",
    ):
        RunDirectory.create(tmp_path / name)
    assert (tmp_path / "file").read_text() == "precious"


def test_a_directory_that_takes_no_files_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*given: Any) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(private_files, "open_text", full)
    with pytest.raises(UsageError, match=r"^cannot write --run-dir .*: Read-only file system; choose another$"):
        RunDirectory.create(tmp_path)


def test_a_directory_in_which_nothing_began_is_removed_again(tmp_path: Path) -> None:
    held = RunDirectory.create(tmp_path / "runs" / "a")
    assert held.path.is_dir()
    held.close()
    assert names(tmp_path) == set(), "with its parent, which was made for it"


def test_a_directory_in_which_something_began_stays(tmp_path: Path) -> None:
    assert names(begun(tmp_path / "a")) == {"run.log", "run.json", "plan.toml"}


def test_of_two_runs_that_want_one_directory_one_gets_it(tmp_path: Path) -> None:
    first = RunDirectory.create(tmp_path / "runs" / "a")
    with pytest.raises(UsageError, match="is not empty"):
        RunDirectory.create(tmp_path / "runs" / "a")
    other = RunDirectory.create(tmp_path / "runs" / "b")
    first.close()
    assert names(tmp_path / "runs") == {"b"}, "the parent is still somebody's"
    other.close()


def test_of_two_runs_that_see_it_empty_one_gets_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = RunDirectory.create(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(Path, "iterdir", lambda self: iter(()))
        with pytest.raises(UsageError) as caught:
            RunDirectory.create(tmp_path)
    assert str(caught.value) == f"--run-dir {tmp_path} is in use by another coordinator"
    assert names(tmp_path) == {"run.log", ".lock"}
    first.close()


def test_a_run_begins_with_its_plan(tmp_path: Path) -> None:
    held = RunDirectory.create(tmp_path)
    run = held.begin(PLAN)
    assert len(run) == 16 and int(run, 16) >= 0, "who knows it is let in, so nobody guesses it"
    assert build_plan(tomllib.loads((tmp_path / "plan.toml").read_text())) == PLAN
    assert build_plan(load_plan_settings(tmp_path)) == PLAN
    assert (held.plan, held.finished) == (PLAN, False)
    held.close()
    assert names(tmp_path) == set(), "nothing is left of what never was more than a plan"


def test_every_run_has_a_name_of_its_own_and_keeps_it(tmp_path: Path) -> None:
    first, other = RunDirectory.create(tmp_path / "a"), RunDirectory.create(tmp_path / "b")
    runs = [first.begin(PLAN), other.begin(PLAN)]
    assert runs[0] != runs[1]
    first.retain()
    first.close()
    other.close()
    again = RunDirectory.open_existing(tmp_path / "a")
    changed = PLAN.model_copy(update={"peer_timeout": 5.0})
    assert (again.begin(changed), again.plan) == (runs[0], changed)
    again.close()


def test_what_is_known_of_a_run_is_known_again(tmp_path: Path) -> None:
    run = json.loads((begun(tmp_path) / "run.json").read_text())["run_id"]
    held = RunDirectory.open_existing(tmp_path)
    assert (held.plan, held.finished) == (PLAN, False) and held.begin(PLAN) == run
    held.mark_finished()
    assert held.finished
    held.close()
    again = RunDirectory.open_existing(tmp_path)
    assert (again.plan, again.finished) == (PLAN, True)
    again.close()
    assert names(tmp_path) == {"run.log", "run.json", "plan.toml"}


def test_a_file_is_no_directory(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match=r"file: directory not found$"):
        RunDirectory.open_existing(tmp_path / "file")


def test_a_directory_in_use_is_refused(tmp_path: Path) -> None:
    begun(tmp_path)
    first = RunDirectory.open_existing(tmp_path)
    with pytest.raises(UsageError) as caught:
        RunDirectory.open_existing(tmp_path)
    assert str(caught.value) == f"--resume {tmp_path} is in use by another coordinator"
    first.close()
    RunDirectory.open_existing(tmp_path).close()


def test_a_run_that_ends_while_another_coordinator_comes_is_seen_to_have_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between its first look and its lock."""
    begun(tmp_path)

    def locked(path: Path, flag: str) -> Any:
        monkeypatch.undo()
        first = RunDirectory.open_existing(tmp_path)
        first.mark_finished()
        first.close()
        return RunDirectory.open_existing(tmp_path)._lock

    monkeypatch.setattr("fedws.recording.run_directory._acquire_lock", locked)
    held = RunDirectory.open_existing(tmp_path)
    assert held.finished
    held.close()
