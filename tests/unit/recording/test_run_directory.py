"""A run's directory: whose it is, what stands in it of the run, and which ones a run can go on in."""

import json
import math
import re
import tomllib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier
from typing import Any

import pytest

from fedws.core import private_files
from fedws.core.errors import UsageError
from fedws.core.plan import Plan, build_plan
from fedws.recording.run_directory import (
    RUN_FORMAT,
    RunDirectory,
    create_empty_directory,
    create_unique_directory,
    finished_rounds,
    load_plan_settings,
)

PLAN = build_plan(
    {"seed": 5, "plugins": ("mine.py",), "workers": {"alice": "ws://h:1"}, "evaluator": {}, "min_results": 1}
)


def names(directory: Path) -> set[str]:
    """What is there."""
    return {path.name for path in directory.iterdir()}


def begun(path: Path, plan: Plan = PLAN) -> Path:
    """A directory in which a run has begun, and that nobody holds."""
    held = RunDirectory.create(path)
    held.begin(plan)
    held.retain()
    held.close()
    return path


# --------------------------------------------------------------------------- of a new run


def test_a_directory_that_is_there_and_empty_may_be_used(tmp_path: Path) -> None:
    RunDirectory.create(tmp_path).close()
    assert names(tmp_path) == set()


def test_a_directory_that_is_not_empty_is_refused_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_text("precious")
    with pytest.raises(UsageError) as caught:
        RunDirectory.create(tmp_path)
    assert str(caught.value) == f"--run-dir {tmp_path} is not empty; name a new or an empty directory"
    assert names(tmp_path) == {"model.safetensors"}


@pytest.mark.parametrize("name", ["file", "file/run", "file/run/deeper"])
def test_a_file_in_the_way_is_said(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").write_text("precious")
    with pytest.raises(
        UsageError,
        match=r"^--run-dir .*file.* (is a file; name a new .*|cannot be written: Not a directory)$",
    ):
        RunDirectory.create(tmp_path / name)
    assert (tmp_path / "file").read_text() == "precious"


def test_a_directory_that_takes_no_files_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*given: Any) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(private_files, "open_text", full)
    with pytest.raises(UsageError, match=r"cannot be written: Read-only file system$"):
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


# --------------------------------------------------------------------------- of a new run that has no --run-dir


def test_a_new_directory_is_named_after_time_and_strategy(tmp_path: Path) -> None:
    first = create_unique_directory("fedavg:epochs=2,x/../y", tmp_path / "runs")
    assert first.parent == tmp_path / "runs" and first.is_dir()
    assert re.fullmatch(r"\d{8}-\d{6}-fedavg-epochs=2-x-..-y", first.name)


def test_runs_that_start_at_the_same_moment_have_directories_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the parent must be made first."""
    runs = 16
    together = Barrier(runs)

    def strftime(form: str) -> str:
        together.wait(60)
        return "20200101-000000-"

    monkeypatch.setattr("time.strftime", strftime)
    with ThreadPoolExecutor(runs) as pool:
        held = list(pool.map(lambda _: RunDirectory.create_unique("fedavg", tmp_path / "runs"), range(runs)))
    ends = ["", *(f"-{number}" for number in range(2, runs + 1))]
    assert {it.path.name for it in held} == {f"20200101-000000-fedavg{end}" for end in ends}
    for it in held:
        it.close()
    assert not any(path.name.startswith("2020") for path in (tmp_path / "runs").glob("*")), "nothing began in them"


def test_a_parent_that_another_run_removes_is_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between the two steps of making a directory."""
    mkdir = Path.mkdir
    removals = iter(range(3))

    def removed_before(self: Path, *given: Any, **options: Any) -> None:
        if self.parent.name == "runs" and next(removals, None) is not None:
            self.parent.rmdir()
        mkdir(self, *given, **options)

    monkeypatch.setattr(Path, "mkdir", removed_before)
    assert create_unique_directory("fedavg", tmp_path / "runs").is_dir()
    assert create_empty_directory(tmp_path / "runs" / "mine") == [tmp_path / "runs" / "mine"]


def test_a_place_for_runs_that_takes_none_is_said(tmp_path: Path) -> None:
    (tmp_path / "runs").symlink_to(tmp_path / "nothing")
    with pytest.raises(
        UsageError, match=r"runs/\S+-fedavg cannot be made: Not a directory; name a --run-dir elsewhere$"
    ):
        create_unique_directory("fedavg", tmp_path / "runs")
    assert names(tmp_path) == {"runs"}


# --------------------------------------------------------------------------- what stands in it


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


@pytest.mark.parametrize("deadline", [math.inf, 2.5])
def test_its_story_is_json_that_every_reader_takes(tmp_path: Path, deadline: float) -> None:
    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    plan = PLAN.model_copy(update={"round_timeout": deadline})
    story = json.loads((begun(tmp_path, plan) / "run.json").read_text(), parse_constant=refuse)
    assert (story["format"], story["finished"]) == (RUN_FORMAT, False)
    held = RunDirectory.open_existing(tmp_path)
    assert held.plan == plan
    held.close()


# --------------------------------------------------------------------------- of a run that goes on


def story(**more: object) -> str:
    """Return a ``run.json``."""
    return json.dumps({"format": RUN_FORMAT, "run_id": "ab" * 8, "finished": False, "plan": {}, **more})


FOREIGN = "run.json is not one of fedws"
OLDER = f"it was written by an older fedws (format 1; this one reads {RUN_FORMAT}); resume it with that version"
NEWER = f"it is of a newer fedws (format {RUN_FORMAT + 1}; this one reads {RUN_FORMAT})"
REFUSED: dict[str, tuple[dict[str, str] | None, str]] = {
    "missing": (None, "there is no such directory"),
    "empty": ({}, "the directory is empty"),
    "foreign": ({"mine.txt": "mine"}, "the directory holds no run that had begun (no run.json)"),
    "another program's": ({"run.json": '{"name": "another program"}'}, FOREIGN),
    "another program's format": ({"run.json": '{"format": 1, "name": "another program"}'}, FOREIGN),
    "a list": ({"run.json": '["format", 1]'}, FOREIGN),
    "no JSON": ({"run.json": "no"}, "run.json cannot be read: Expecting value: line 1 column 1 (char 0)"),
    "a secret that is none": ({"run.json": story(secret="ab")}, FOREIGN),
    "a secret that is a number": ({"run.json": story(secret=5)}, FOREIGN),
    "older": ({"run.json": '{"format": 1, "run": "abab", "finished": false, "plan": {}}'}, OLDER),
    "newer": ({"run.json": f'{{"format": {RUN_FORMAT + 1}}}'}, NEWER),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_directory_of_no_run_is_refused_and_left_alone(tmp_path: Path, name: str) -> None:
    path, (files, reason) = tmp_path / "run", REFUSED[name]
    if files is not None:
        path.mkdir()
        for file, text in files.items():
            (path / file).write_text(text)
    for look in (RunDirectory.open_existing, load_plan_settings):
        with pytest.raises(UsageError) as caught:
            look(path)
        assert str(caught.value) == f"--resume {path}: {reason}"
    assert files is None or names(path) == set(files)


def test_a_file_is_no_directory(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match=r"file: there is no such directory$"):
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


def test_a_plan_that_somebody_has_spoilt_is_said(tmp_path: Path) -> None:
    (begun(tmp_path) / "plan.toml").write_text("seed = = 3")
    with pytest.raises(UsageError, match=rf"^--resume {tmp_path}: {tmp_path}/plan.toml: .*line 1"):
        load_plan_settings(tmp_path)
    (tmp_path / "plan.toml").unlink()
    with pytest.raises(UsageError, match=r"plan.toml: No such file or directory$"):
        load_plan_settings(tmp_path)


@pytest.mark.parametrize("text", ["a = " + "[" * 50_000, 'a = "\\u202e"\na = 1'])
def test_a_plan_that_no_one_can_read_is_a_line(text: str, tmp_path: Path) -> None:
    begun(tmp_path / "run")
    (tmp_path / "run" / "plan.toml").write_text(text)
    with pytest.raises(UsageError, match=r"^--resume .*plan\.toml: ") as caught:
        load_plan_settings(tmp_path / "run")
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize("changes", [{"plan": "x"}, {"plan": {"rounds": "x"}}, {"finished": 1}, {"secret": "ab"}])
def test_a_story_that_cannot_be_is_a_line(changes: dict[str, Any], tmp_path: Path) -> None:
    path = begun(tmp_path / "run") / "run.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "finished": True, **changes}))
    with pytest.raises(UsageError):
        finished_rounds(tmp_path / "run")
    path.write_text("[" * 100_000)
    with pytest.raises(UsageError, match=r"run\.json cannot be read: "):
        finished_rounds(tmp_path / "run")


def test_a_setting_of_a_stored_plan_that_cannot_be_is_named_with_its_file(tmp_path: Path) -> None:
    path = begun(tmp_path) / "run.json"
    story = json.loads(path.read_text())
    path.write_text(json.dumps({**story, "plan": {**story["plan"], "lr": "fast"}}))
    held = RunDirectory.open_existing(tmp_path)
    with pytest.raises(UsageError, match=rf"^--resume {tmp_path}: run.json: lr: "):
        held.plan  # noqa: B018
    held.close()
