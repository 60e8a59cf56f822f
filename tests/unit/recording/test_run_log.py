"""The run log: its files, the lines of the log, and the records of metrics."""

import logging
import math
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedws.core.errors import RunFailed
from fedws.core.untrusted_text import to_printable
from fedws.recording.run_log import RunLog, log
from tests.helpers.run_log_files import level as level
from tests.helpers.run_log_files import names, strict
from tests.helpers.run_log_files import record as record


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
        with pytest.raises(RunFailed, match=r"cannot write the record in .*: No space left on device"):
            record.write_record("round", round=1)
