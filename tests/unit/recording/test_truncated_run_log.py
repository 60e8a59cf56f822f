"""The run log of a run that continues is truncated to its checkpoint."""

import json
import math
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from fedws.core.errors import RunFailed
from fedws.protocol.evaluation_result import EvalResult
from fedws.recording.run_log import RunLog
from tests.helpers.run_log_files import level as level
from tests.helpers.run_log_files import record as record
from tests.helpers.run_log_files import strict


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
    again.lines.emit("Continuing")
    again.write_record("round", round=3)
    again.close()
    assert told(record.directory)[-1] == "Continuing"
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
    with pytest.raises(RunFailed, match=r"^cannot truncate the record in .*: Read-only file system$"):
        go_on(*stopped)
