"""What a run stored is checked when it is read: no value that a node once sent ends in a traceback."""

import json
from pathlib import Path
from typing import Any

import pytest

from fedws.recording import stored_records
from fedws.recording.evaluation_lines import format_evaluation
from fedws.recording.run_log import RunLog

SCORE = {
    "kind": "evaluation", "round": 1, "model": "alice", "accuracy": 0.5, "num_examples": 4, "loss": 1.5,
    "num_correct": 2, "predicted_label_counts": [1, 3],
}  # fmt: skip
WRONG: dict[str, Any] = {
    "no object": [1],
    "no round": {"kind": "round"},
    "a round of text": {**SCORE, "round": "1"},
    "metrics that are no numbers": {"kind": "round", "round": 1, "metrics": {"loss": "x"}},
    "no samples": {**SCORE, "num_examples": 0},
    "samples below 0": {**SCORE, "num_examples": -4},
    "samples of text": {**SCORE, "num_examples": "4"},
    "a negative count": {**SCORE, "predicted_label_counts": [-1, 5]},
    "a long histogram": {**SCORE, "predicted_label_counts": [0] * 100_001},
    "more correct than samples": {**SCORE, "num_correct": 5},
    "a histogram without correct": {**SCORE, "num_correct": None},
    "an accuracy of text": {**SCORE, "accuracy": "high"},
    "an accuracy of 2": {**SCORE, "accuracy": 2.0},
    "a loss of text": {**SCORE, "loss": "x" * 500_000},
    "seconds of text": {"kind": "round", "round": 1, "seconds": "long"},
    "seconds below 0": {"kind": "round", "round": 1, "seconds": -1},
    "seconds that no float holds": {"kind": "round", "round": 1, "seconds": 10**400},
    "a number that no float holds": {"kind": "round", "round": 1, "num_results": 10**400},
    "half a surrogate pair": {"kind": "round", "round": 1, "metrics": {"\ud800": 1.0}},
    "a model of half a surrogate pair": {**SCORE, "model": "\ud800"},
    "no model": {key: value for key, value in SCORE.items() if key != "model"},
    "no loss": {key: value for key, value in SCORE.items() if key != "loss"},
}


@pytest.mark.parametrize("loss", [1.5, None, 1, 1e300])
def test_a_record_that_can_be_is_read_as_it_is(loss: Any) -> None:
    record = {**SCORE, "loss": loss}
    assert stored_records.parse_record(json.dumps(record)) == record
    assert all(len(line) < 100 for line in format_evaluation(record, [[0], [1, 9]]))


@pytest.mark.parametrize("what", WRONG)
def test_a_record_that_cannot_be_is_dropped_with_a_line(what: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError) as caught:
        stored_records.parse_record(json.dumps(WRONG[what]))
    assert len(str(caught.value)) < 300
    log = RunLog(tmp_path)
    log.open()
    log.write_record("round", round=1)
    log.close()
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write(json.dumps(WRONG[what]) + "\n")
    again = RunLog(tmp_path)
    again.truncate(1, {"log_bytes": 0})
    again.open()
    again.close()
    assert [record["kind"] for record in again.records] == ["round"]
    text = (tmp_path / "run.log").read_text()
    assert what == "no object" or "metrics.jsonl: line 2 was dropped (" in text


STORY = {"format": 2, "run_id": "cafe", "secret": "0a" * 32, "finished": False, "plan": {}}


def test_what_a_run_wrote_about_itself_can_be_used() -> None:
    assert stored_records.run_info_problem(STORY) == ""


@pytest.mark.parametrize(
    ("changes", "wrong"),
    [
        ({"plan": "x"}, "plan: "),
        ({"plan": None}, "plan: "),
        ({"finished": "no"}, "finished: "),
        ({"run_id": 5}, "run_id: "),
        ({"run_id": "x" * 65}, "run_id: "),
        ({"run_id": ""}, "run_id: "),
    ],
)
def test_what_cannot_be_used_is_named(changes: dict[str, Any], wrong: str) -> None:
    found = stored_records.run_info_problem({**STORY, **changes})
    assert found.startswith(wrong) and len(found) < 300


@pytest.mark.parametrize("labels", [[-1], [1, 0], [0, 0], [100_000], list(range(1001)), ["1"], [True], 7, None])
def test_labels_that_cannot_be_are_dropped_with_a_line(labels: Any, tmp_path: Path) -> None:
    path = tmp_path / "worker_labels.json"
    path.write_text(json.dumps({"alice": labels, "bob": [0, 7]}))
    known, (line,) = stored_records.load_worker_labels(path)
    assert known == {"bob": [0, 7]}
    assert line.startswith("worker_labels.json: the labels of alice were dropped (") and len(line) < 300


@pytest.mark.parametrize("text", ["", "7", "[" * 100_000, '"x"', "\x00"])
def test_a_file_of_something_else_holds_no_labels(text: str, tmp_path: Path) -> None:
    (tmp_path / "worker_labels.json").write_text(text)
    assert stored_records.load_worker_labels(tmp_path / "worker_labels.json") == ({}, [])
    assert stored_records.load_worker_labels(tmp_path / "nowhere") == ({}, [])
