import json
import logging
import math
import re
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedws.core.errors import RunFailed
from fedws.core.plan import Plan
from fedws.core.untrusted_text import to_printable
from fedws.protocol.evaluation_result import EvalResult
from fedws.recording.ordered_log import OrderedLog
from fedws.recording.run_log import RunLog, log, write_model

# --------------------------------------------------------------------------- lines


@settings(deadline=None)
@given(st.data())
def test_lines_come_in_the_order_of_what_they_tell_of(data: st.DataObject) -> None:
    """Places are kept and filled in any order; each line is said as soon as nothing before it is missing."""
    said: list[str] = []
    lines = OrderedLog(said.append)
    wanted: list[tuple[str, ...] | None] = []
    held: dict[int, Callable[..., None]] = {}
    for _ in range(data.draw(st.integers(0, 25))):
        number = len(wanted)
        what = data.draw(st.sampled_from(["say", "hold", *(["fill"] * 2 if held else [])]))
        texts = tuple(f"{number}.{part}" for part in range(data.draw(st.integers(0, 2))))
        if what == "say":
            wanted.append(texts)
            lines.emit(*texts)
        elif what == "hold":
            wanted.append(None)
            held[number] = lines.reserve()
        else:
            place = data.draw(st.sampled_from(sorted(held)))
            wanted[place] = texts
            held.pop(place)(*texts)
        first_missing = next((place for place, entry in enumerate(wanted) if entry is None), len(wanted))
        assert said == [text for entry in wanted[:first_missing] for text in entry or ()]


def test_a_place_may_be_filled_with_nothing() -> None:
    said: list[str] = []
    lines = OrderedLog(said.append)
    fill = lines.reserve()
    lines.emit("after")
    assert said == []
    fill()
    assert said == ["after"]


def test_what_was_not_said_is_known_in_its_order() -> None:
    said: list[str] = []
    lines = OrderedLog(said.append)
    lines.emit("a")
    first, _ = lines.reserve([1, "alice"]), lines.reserve([2])
    lines.emit("b", "c")
    wanted: list[Any] = [{"tag": [1, "alice"]}, {"tag": [2]}, {"lines": ["b", "c"]}]
    assert lines.pending() == wanted
    first("scores")
    assert lines.pending() == wanted[1:]
    assert said == ["a", "scores"]


# --------------------------------------------------------------------------- the record's begin and end


@pytest.fixture(autouse=True)
def level() -> Iterator[None]:
    """A record that is open sets the level of the log; it is put back."""
    before = log.level, list(log.handlers)
    yield
    log.setLevel(before[0])
    assert log.handlers == before[1], "a record that was closed listens no more"


@pytest.fixture
def record(tmp_path: Path) -> Iterator[RunLog]:
    found = RunLog(tmp_path)
    found.open()
    yield found
    found.close()


def strict(text: str) -> Any:
    """JSON of RFC 8259: no NaN, no Infinity."""

    def refuse(name: str) -> None:
        raise ValueError(f"{name} is not JSON")

    return json.loads(text, parse_constant=refuse)


def names(directory: Path) -> set[str]:
    return {path.name for path in directory.iterdir()}


def test_a_record_that_was_not_opened_leaves_nothing(tmp_path: Path) -> None:
    RunLog(tmp_path).close()
    assert names(tmp_path) == set()


def test_a_record_is_open_from_its_first_moment(record: RunLog) -> None:
    assert names(record.directory) == {"run.log", "metrics.jsonl"}


def test_the_labels_of_workers_are_written_when_they_become_known(record: RunLog) -> None:
    path = record.directory / "worker_labels.json"
    record.set_worker_labels({"alice": [0, 1], "bob": []})
    assert strict(path.read_text()) == record.worker_labels == {"alice": [0, 1], "bob": []}
    path.unlink()
    record.set_worker_labels({"alice": [0, 1], "bob": []})
    assert not path.exists(), "nothing new"
    record.set_worker_labels({"alice": [], "bob": [2]})
    assert strict(path.read_text()) == record.worker_labels == {"alice": [0, 1], "bob": [2]}, (
        "who is away is not forgotten"
    )


# --------------------------------------------------------------------------- the log


def test_every_line_is_in_the_file_with_its_time(record: RunLog) -> None:
    record.lines.emit("Training round 1/2", "\N{SNOWMAN}")
    log.debug("not for the file")
    record.close()
    log.warning("after the run")
    text = (record.directory / "run.log").read_text(encoding="utf-8").splitlines()
    assert [line.split(" | ", 1)[1] for line in text] == ["Training round 1/2", "\N{SNOWMAN}"]
    assert all(re.match(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} \| ", line) for line in text)


def test_the_file_has_every_line_also_where_nobody_set_up_logging(tmp_path: Path) -> None:
    log.setLevel(logging.ERROR)
    record = RunLog(tmp_path)
    record.open()
    record.lines.emit("Training round 1/2")
    record.close()
    assert "Training round 1/2" in (tmp_path / "run.log").read_text()


# --------------------------------------------------------------------------- metrics


_values = st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.lists(st.integers(), max_size=3)


@settings(deadline=None, max_examples=50)
@given(fields=st.dictionaries(st.sampled_from(["loss", "model", "round", "predicted_label_counts"]), _values))
def test_every_line_of_metrics_is_json(tmp_path_factory: pytest.TempPathFactory, fields: dict[str, Any]) -> None:
    record = RunLog(tmp_path_factory.mktemp("run"))
    record.open()
    try:
        record.write_record("evaluation", **fields)
        text = (record.directory / "metrics.jsonl").read_text(encoding="utf-8")
    finally:
        record.close()
    assert text.endswith("\n") and len(text.splitlines()) == 1
    assert strict(text) == {"kind": "evaluation", **{key: kept(value) for key, value in fields.items()}}


def kept(value: Any) -> Any:
    """What a record keeps of a value."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return to_printable(value) if isinstance(value, str) else value


def test_metrics_of_nodes_are_json_too(record: RunLog) -> None:
    record.write_record("round", round=1, metrics={"loss": math.nan, "mine": 0.5, "far": -math.inf})
    (line,) = (record.directory / "metrics.jsonl").read_text().splitlines()
    assert strict(line) == {"kind": "round", "round": 1, "metrics": {"loss": None, "mine": 0.5, "far": None}}
    assert math.isnan(record.records[0]["metrics"]["loss"])


def test_a_line_is_written_before_observers_see_it(record: RunLog) -> None:
    seen = []
    path = record.directory / "metrics.jsonl"
    record.observers.append(lambda found: seen.append((found, path.read_text().splitlines()[-1])))
    record.write_record("round", round=1, loss=math.nan)
    record.write_record("round", round=2)
    assert [strict(line)["round"] for _, line in seen] == [1, 2]
    assert [found for found, _ in seen] == record.records
    assert math.isnan(record.records[0]["loss"])


def test_a_full_disk_ends_the_run_in_words(record: RunLog, monkeypatch: pytest.MonkeyPatch) -> None:
    class Full:
        def write(self, text: str) -> None:
            raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(record, "_metrics_file", Full())
        with pytest.raises(RunFailed, match=r"the record in .* cannot be written: No space left on device"):
            record.write_record("round", round=1)


# --------------------------------------------------------------------------- models


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
    with pytest.raises(RunFailed, match=r"model\.safetensors cannot be written: .*No space left on device"):
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
    with pytest.raises(RunFailed, match=r"model.safetensors cannot be written: .*No space left on device"):
        record.write_results({"w": torch.zeros(1)}, Plan())


def test_what_a_killed_coordinator_left_of_its_results_is_replaced(record: RunLog) -> None:
    for name in ("model.safetensors.part", "curves.png.part"):
        (record.directory / name).write_bytes(b"half")
    record.write_results({"w": torch.zeros(1)}, Plan())
    assert names(record.directory) == {"run.log", "metrics.jsonl", "model.safetensors", "curves.png"}


def test_where_no_version_was_made_no_model_is_left(record: RunLog) -> None:
    record.write_results(None, Plan())
    assert names(record.directory) == {"run.log", "metrics.jsonl"}


# --------------------------------------------------------------------------- going on


def told(directory: Path) -> list[str]:
    """The lines of the log, without their times."""
    text = (directory / "run.log").read_text(encoding="utf-8")
    assert not text or text.endswith("\n")
    return [line.split(" | ", 1)[1] for line in text.splitlines()]


def written(directory: Path) -> list[Any]:
    return [strict(line) for line in (directory / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]


@pytest.fixture
def stopped(tmp_path: Path) -> tuple[RunLog, dict[str, Any]]:
    """A record that has gone on after its checkpoint of round 2, and the place that the checkpoint named."""
    record = RunLog(tmp_path)
    record.open()
    record.set_worker_labels({"alice": [0, 1]})
    record.lines.emit("Training round 1", "Training round 2 \N{SNOWMAN}")
    for round_number in (1, 2):
        record.write_record("round", round=round_number, seconds=0.25)
    scores = record.lines.reserve([2, "federated"])
    record.lines.emit("behind the scores")
    place = record.position()
    score = EvalResult(num_examples=10, loss=math.nan)
    record.write_record("evaluation", round=2, model="federated", accuracy=score.accuracy, **asdict(score))
    record.write_record("round", round=3)
    scores("scores of round 2")
    record.close()
    return record, place


def go_on(record: RunLog, place: dict[str, Any]) -> RunLog:
    again = RunLog(record.directory)
    again.truncate(2, json.loads(json.dumps(place)))
    return again


def test_what_came_after_the_checkpoint_is_cut_off(stopped: tuple[RunLog, dict[str, Any]]) -> None:
    """But for scores of rounds up to it, which would not come again."""
    record, place = stopped
    assert told(record.directory)[2:] == ["scores of round 2", "behind the scores"]
    again = go_on(*stopped)
    assert place["pending"] == [{"tag": [2, "federated"]}, {"lines": ["behind the scores"]}]
    assert told(record.directory) == ["Training round 1", "Training round 2 \N{SNOWMAN}"]
    assert again.records == written(record.directory)
    assert [(found["kind"], found["round"]) for found in again.records] == [
        ("round", 1),
        ("round", 2),
        ("evaluation", 2),
    ]
    assert again.worker_labels == {"alice": [0, 1]}
    again.open()
    again.lines.emit("Going on")
    again.write_record("round", round=3)
    again.close()
    assert told(record.directory)[-1] == "Going on"
    assert [found["round"] for found in written(record.directory)] == [1, 2, 2, 3]


def test_cutting_back_twice_is_cutting_back_once(stopped: tuple[RunLog, dict[str, Any]]) -> None:
    first = go_on(*stopped)
    before = told(first.directory), written(first.directory)
    assert go_on(*stopped).records == first.records
    assert (told(first.directory), written(first.directory)) == before


@pytest.mark.parametrize("rest", ['{"kind": "round", "rou', "\x00\x00\x00", '{"kind": "round"}\n', "7\n", '"text"\n'])
def test_a_record_that_is_not_whole_is_left_out(stopped: tuple[RunLog, dict[str, Any]], rest: str) -> None:
    record, _ = stopped
    with (record.directory / "metrics.jsonl").open("a") as file:
        file.write(rest)
    assert [found["round"] for found in go_on(*stopped).records] == [1, 2, 2]
    assert len(written(record.directory)) == 3


def test_a_log_that_lost_its_end_is_not_made_longer(stopped: tuple[RunLog, dict[str, Any]]) -> None:
    """As after a power failure, where the checkpoint was on the disk and the log was not."""
    record, place = stopped
    with (record.directory / "run.log").open("r+b") as file:
        file.truncate(place["log_bytes"] - 30)
    go_on(record, place)
    assert (record.directory / "run.log").stat().st_size == place["log_bytes"] - 30


def test_a_record_that_cannot_be_cut_back_is_said(
    stopped: tuple[RunLog, dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*given: Any) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr("os.truncate", full)
    with pytest.raises(RunFailed, match=r"^the record in .* cannot be cut back: Read-only file system$"):
        go_on(*stopped)
