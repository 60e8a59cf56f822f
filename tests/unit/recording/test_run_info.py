"""``run.json``: what is written of a run, and which runs can be continued."""

import json
import math
from pathlib import Path
from typing import Any

import pytest

from fedws.core.errors import UsageError
from fedws.recording.run_directory import RunDirectory
from fedws.recording.run_info import RUN_FORMAT, finished_rounds, load_plan_settings
from tests.helpers.run_directories import PLAN, begun, names


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


def story(**more: object) -> str:
    """Return a ``run.json``."""
    return json.dumps({"format": RUN_FORMAT, "run_id": "ab" * 8, "finished": False, "plan": {}, **more})


FOREIGN = "run.json was not written by fedws"


OLDER = f"written by an older fedws (format 1; this one reads {RUN_FORMAT}); resume it with that version"


NEWER = f"written by a newer fedws (format {RUN_FORMAT + 1}; this one reads {RUN_FORMAT}); resume it with that version"


REFUSED: dict[str, tuple[dict[str, str] | None, str]] = {
    "missing": (None, "directory not found"),
    "empty": ({}, "the directory is empty"),
    "foreign": ({"mine.txt": "mine"}, "run.json not found; no run has begun there"),
    "another program's": ({"run.json": '{"name": "another program"}'}, FOREIGN),
    "another program's format": ({"run.json": '{"format": 1, "name": "another program"}'}, FOREIGN),
    "a list": ({"run.json": '["format", 1]'}, FOREIGN),
    "no JSON": ({"run.json": "no"}, "cannot read run.json: Expecting value: line 1 column 1 (char 0)"),
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


def test_a_plan_that_somebody_has_spoilt_is_said(tmp_path: Path) -> None:
    (begun(tmp_path) / "plan.toml").write_text("seed = = 3")
    with pytest.raises(UsageError, match=rf"^--resume {tmp_path}: {tmp_path}/plan.toml: .*line 1"):
        load_plan_settings(tmp_path)
    (tmp_path / "plan.toml").unlink()
    with pytest.raises(UsageError, match=r"plan.toml: cannot read the file: No such file or directory$"):
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
    with pytest.raises(UsageError, match=r"cannot read run\.json: "):
        finished_rounds(tmp_path / "run")


def test_a_setting_of_a_stored_plan_that_cannot_be_is_named_with_its_file(tmp_path: Path) -> None:
    path = begun(tmp_path) / "run.json"
    story = json.loads(path.read_text())
    path.write_text(json.dumps({**story, "plan": {**story["plan"], "lr": "fast"}}))
    held = RunDirectory.open_existing(tmp_path)
    with pytest.raises(UsageError, match=rf"^--resume {tmp_path}: run.json: lr: "):
        held.plan  # noqa: B018
    held.close()
