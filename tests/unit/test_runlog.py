import json
import logging
import math
import re
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedws.errors import RunFailed, UsageError
from fedws.plan import Plan, make
from fedws.runlog import Lines, RunLog, log, new_directory, write_tensors

# --------------------------------------------------------------------------- lines


@settings(deadline=None)
@given(st.data())
def test_lines_come_in_the_order_of_what_they_tell_of(data: st.DataObject) -> None:
    """Places are kept and filled in any order; each line is said as soon as nothing before it is missing."""
    said: list[str] = []
    lines = Lines(said.append)
    wanted: list[tuple[str, ...] | None] = []
    held: dict[int, Callable[..., None]] = {}
    for _ in range(data.draw(st.integers(0, 25))):
        number = len(wanted)
        what = data.draw(st.sampled_from(["say", "hold", *(["fill"] * 2 if held else [])]))
        texts = tuple(f"{number}.{part}" for part in range(data.draw(st.integers(0, 2))))
        if what == "say":
            wanted.append(texts)
            lines.say(*texts)
        elif what == "hold":
            wanted.append(None)
            held[number] = lines.hold()
        else:
            place = data.draw(st.sampled_from(sorted(held)))
            wanted[place] = texts
            held.pop(place)(*texts)
        first_missing = next((place for place, entry in enumerate(wanted) if entry is None), len(wanted))
        assert said == [text for entry in wanted[:first_missing] for text in entry or ()]


def test_a_place_may_be_filled_with_nothing() -> None:
    said: list[str] = []
    lines = Lines(said.append)
    fill = lines.hold()
    lines.say("after")
    assert said == []
    fill()
    assert said == ["after"]


# --------------------------------------------------------------------------- the directory


@pytest.fixture(autouse=True)
def level() -> Iterator[None]:
    """A record that is open sets the level of the log; it is put back."""
    before = log.level, list(log.handlers)
    yield
    log.setLevel(before[0])
    assert log.handlers == before[1], "a record that was closed listens no more"


@pytest.fixture
def record(tmp_path: Path) -> Iterator[RunLog]:
    found = RunLog(tmp_path / "a" / "run")
    found.open(make({"seed": 5, "plugin": ("mine.py",)}), {"alice": [0, 1], "bob": []})
    yield found
    found.close()


def strict(text: str) -> Any:
    """JSON of RFC 8259: no NaN, no Infinity."""

    def refuse(name: str) -> None:
        raise ValueError(f"{name} is not JSON")

    return json.loads(text, parse_constant=refuse)


def test_a_record_begins_with_plan_and_workers(record: RunLog) -> None:
    assert make(tomllib.loads((record.directory / "plan.toml").read_text())) == make(
        {"seed": 5, "plugin": ("mine.py",)}
    )
    assert strict((record.directory / "workers.json").read_text()) == {"alice": [0, 1], "bob": []}


def test_a_directory_that_is_there_and_empty_may_be_used(tmp_path: Path) -> None:
    RunLog(tmp_path).close()
    assert tmp_path.is_dir() and not list(tmp_path.iterdir())


def test_a_directory_in_use_is_refused_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_text("precious")
    with pytest.raises(UsageError) as caught:
        RunLog(tmp_path)
    assert str(caught.value) == f"--run-dir {tmp_path} is not empty; name a new or an empty directory"
    assert [path.name for path in tmp_path.iterdir()] == ["model.safetensors"]


@pytest.mark.parametrize("name", ["file", "file/run", "file/run/deeper"])
def test_a_file_in_the_way_is_said(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").write_text("precious")
    with pytest.raises(
        UsageError,
        match=r"^--run-dir .*file.* (is a file; name a new .*|cannot be written: Not a directory)$",
    ):
        RunLog(tmp_path / name)
    assert (tmp_path / "file").read_text() == "precious"


def test_a_directory_that_takes_no_files_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: Path, *given: Any, **options: Any) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(Path, "open", full)
    with pytest.raises(UsageError, match=r"cannot be written: Read-only file system$"):
        RunLog(tmp_path)


def test_a_directory_in_which_nothing_began_is_removed_again(tmp_path: Path) -> None:
    directory = tmp_path / "run"
    record = RunLog(directory)
    assert directory.is_dir()
    record.close()
    assert not directory.exists()


def test_a_directory_in_which_something_began_stays(record: RunLog) -> None:
    record.close()
    assert {path.name for path in record.directory.iterdir()} == {
        "plan.toml",
        "workers.json",
        "run.log",
        "metrics.jsonl",
    }


def test_a_new_directory_is_named_after_time_and_strategy(tmp_path: Path) -> None:
    first = new_directory("fedavg:epochs=2,x/../y", tmp_path)
    assert first.parent == tmp_path and not first.exists()
    assert re.fullmatch(r"\d{8}-\d{6}-fedavg-epochs=2-x-..-y", first.name)


def test_runs_of_the_same_second_have_directories_of_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.strftime", lambda form: "20200101-000000-")
    found = []
    for _ in range(3):
        found.append(new_directory("fedavg", tmp_path))
        found[-1].mkdir()
    assert [path.name for path in found] == [f"20200101-000000-fedavg{end}" for end in ("", "-2", "-3")]


# --------------------------------------------------------------------------- the log


def test_every_line_is_in_the_file_with_its_time(record: RunLog) -> None:
    record.lines.say("Training round 1/2", "\N{SNOWMAN}")
    log.debug("not for the file")
    record.close()
    log.warning("after the run")
    text = (record.directory / "run.log").read_text(encoding="utf-8").splitlines()
    assert [line.split(" | ", 1)[1] for line in text] == ["Training round 1/2", "\N{SNOWMAN}"]
    assert all(re.match(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} \| ", line) for line in text)


def test_the_file_has_every_line_also_where_nobody_set_up_logging(tmp_path: Path) -> None:
    log.setLevel(logging.ERROR)
    record = RunLog(tmp_path)
    record.open(make({}), {})
    record.lines.say("Training round 1/2")
    record.close()
    assert "Training round 1/2" in (tmp_path / "run.log").read_text()


# --------------------------------------------------------------------------- metrics


_values = st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.lists(st.integers(), max_size=3)


@settings(deadline=None, max_examples=50)
@given(fields=st.dictionaries(st.sampled_from(["loss", "model", "round", "histogram"]), _values))
def test_every_line_of_metrics_is_json(tmp_path_factory: pytest.TempPathFactory, fields: dict[str, Any]) -> None:
    record = RunLog(tmp_path_factory.mktemp("run"))
    record.open(make({}), {})
    try:
        record.record("score", **fields)
        text = (record.directory / "metrics.jsonl").read_text(encoding="utf-8")
    finally:
        record.close()
    assert text.endswith("\n") and len(text.splitlines()) == 1
    finite = {
        key: None if isinstance(value, float) and not math.isfinite(value) else value for key, value in fields.items()
    }
    assert strict(text) == {"kind": "score", **finite}


def test_a_line_is_written_before_observers_see_it(record: RunLog) -> None:
    seen = []
    path = record.directory / "metrics.jsonl"
    record.observers.append(lambda found: seen.append((found, path.read_text().splitlines()[-1])))
    record.record("round", round=1, loss=math.nan)
    record.record("round", round=2)
    assert [strict(line)["round"] for _, line in seen] == [1, 2]
    assert [found for found, _ in seen] == record.records
    assert math.isnan(record.records[0]["loss"])


def test_a_full_disk_ends_the_run_in_words(record: RunLog, monkeypatch: pytest.MonkeyPatch) -> None:
    class Full:
        def write(self, text: str) -> None:
            raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(record, "_metrics", Full())
        with pytest.raises(RunFailed, match=r"the record in .* cannot be written: No space left on device"):
            record.record("round", round=1)


# --------------------------------------------------------------------------- models


def test_a_model_is_saved_as_it_is(record: RunLog) -> None:
    model = {"w": torch.arange(6.0).reshape(2, 3).t(), "n": torch.tensor(3), "h": torch.ones(2).bfloat16()}
    path = write_tensors(record.directory / "model.safetensors", model)
    assert path == record.directory / "model.safetensors"
    found = safetensors.torch.load_file(path)
    assert set(found) == set(model)
    assert all(found[key].dtype == model[key].dtype and torch.equal(found[key], model[key]) for key in model)


def test_tensors_that_view_one_buffer_are_saved(record: RunLog) -> None:
    """As those of a report do."""
    buffer = torch.arange(10.0)
    found = safetensors.torch.load_file(
        write_tensors(record.directory / "model.safetensors", {"a": buffer[:4], "b": buffer[4:]})
    )
    assert found["a"].tolist() == [0, 1, 2, 3] and found["b"].tolist() == [4, 5, 6, 7, 8, 9]


def test_saving_replaces_the_model_before_and_leaves_nothing_else(record: RunLog) -> None:
    before = {path.name for path in record.directory.iterdir()}
    for value in (1.0, 2.0):
        write_tensors(record.directory / "model.safetensors", {"w": torch.tensor(value)})
    assert {path.name for path in record.directory.iterdir()} == before | {"model.safetensors"}
    assert safetensors.torch.load_file(record.directory / "model.safetensors")["w"] == 2


def test_a_save_that_fails_leaves_the_model_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_tensors(tmp_path / "model.safetensors", {"w": torch.tensor(1.0)})

    def half(tensors: Any, target: Path) -> None:
        target.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(safetensors.torch, "save_file", half)
    with pytest.raises(RunFailed, match=r"model\.safetensors cannot be written: .*No space left on device"):
        write_tensors(path, {"w": torch.tensor(2.0)})
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
    write_tensors(path, {"w": torch.tensor(1.0)})
    assert written == [("model.safetensors.part", False, {"w": torch.tensor(1.0)})]


def test_of_two_runs_that_want_one_directory_one_gets_it(tmp_path: Path) -> None:
    first = RunLog(tmp_path / "runs" / "a")
    with pytest.raises(UsageError, match="not empty"):
        RunLog(tmp_path / "runs" / "a")
    other = RunLog(tmp_path / "runs" / "b")
    first.close()
    assert (tmp_path / "runs" / "b").exists(), "the parent is still somebody's"
    other.close()


def test_a_full_disk_is_one_reason(record: RunLog, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*given: Any, **options: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(safetensors.torch, "save_file", full)
    with pytest.raises(RunFailed, match=r"model.safetensors cannot be written: .*No space left on device"):
        record.finish({"w": torch.zeros(1)}, Plan(), {})
