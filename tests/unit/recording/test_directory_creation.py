"""New directories for runs: each run has one of its own."""

import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier
from typing import Any

import pytest

from fedws.core.errors import UsageError
from fedws.recording.directory_creation import create_empty_directory, create_unique_directory
from fedws.recording.run_directory import RunDirectory
from tests.helpers.run_directories import names


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
        UsageError, match=r"cannot create .*runs/\S+-fedavg: Not a directory; choose another --run-dir$"
    ):
        create_unique_directory("fedavg", tmp_path / "runs")
    assert names(tmp_path) == {"runs"}
