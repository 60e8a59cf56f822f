"""The lines of an audit log for a worker's answers, and answers that stay back where no line can be written."""

import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedws.core.limits import MessageLimits
from fedws.privacy.audit_chain import read_lines
from fedws.protocol.encoder import encode_message
from fedws.protocol.messages import TaskFailure, TaskResult
from fedws.protocol.run_claim import RunClaim
from tests.helpers.audit_logs import head, problems
from tests.helpers.audited_worker import TASKS, order, worker


def test_every_answer_is_a_line_whatever_it_is(tmp_path: Path) -> None:
    node, path = worker(tmp_path / "log"), tmp_path / "log"
    answers = [node.execute(order(task)) for task in [*TASKS, "unknown"]]
    lines = [line for line in read_lines(path) if line is not None]
    assert [(line["task"], line["outcome"], line["payload"]) for line in lines] == [
        ("trains", "result", "tensors"),
        ("scores", "result", "metrics"),
        ("will_not", "refused", "reason"),
        ("cannot", "failed", "reason"),
        ("stopped", "failed", "reason"),
        ("odd", "failed", "reason"),
        ("unknown", "refused", "reason"),
    ]
    assert [line["num_bytes"] for line in lines] == [encode_message(answer).size for answer in answers]
    first = lines[0]
    assert (first["node"], first["coordinator"], first["run"]) == ("alice", "coordinator", "01234567")
    assert (first["request_id"], first["round"], first["model"], first["epsilon"]) == ("1/alice", 7, "mlp", None)
    assert problems(path) == []


def test_why_nothing_left_is_in_its_line_and_in_the_nodes_log(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    node, path = worker(tmp_path / "log"), tmp_path / "log"
    refused = node.execute(order("will_not"))
    node.execute(order("trains"))
    assert isinstance(refused, TaskFailure) and refused.reason
    assert [line["reason"] for line in read_lines(path) if line is not None] == [refused.reason, ""]
    assert caplog.messages == [f"alice: task will_not refused: {refused.reason}"]


def test_a_report_above_the_limit_does_not_leave_and_is_not_said_to_have_left(tmp_path: Path) -> None:
    node, path = worker(tmp_path / "log"), tmp_path / "log"
    size = encode_message(node.execute(order("trains"))).size
    assert isinstance(node.execute(order("trains"), MessageLimits(size)), TaskResult)
    answer = node.execute(order("trains"), MessageLimits(size - 1, peer="the coordinator"))
    assert isinstance(answer, TaskFailure) and (answer.kind, answer.code) == ("refused", "permanent")
    limit = f"the coordinator's limit of {size - 1:,} bytes"
    assert answer.reason.startswith(f"the result has {size:,} bytes, which exceeds {limit}")
    assert [line["payload"] for line in read_lines(path) if line is not None] == ["tensors", "tensors", "reason"]


def test_where_it_cannot_be_written_nothing_leaves(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "logs" / "log"
    node = worker(path)
    assert isinstance(node.execute(order("trains")), TaskResult)
    head(path).unlink()
    head(path).mkdir()  # also for those who may write anything
    answer = node.execute(order("trains"))
    assert isinstance(answer, TaskFailure)
    assert (answer.kind, answer.reason) == ("failed", "cannot write the audit log, so no answer is sent")
    assert "alice: cannot write the audit log, so no answer is sent: " in caplog.text
    head(path).rmdir()
    path.unlink()
    assert isinstance(node.execute(order("trains")), TaskFailure)


def test_a_full_disk_lets_nothing_leave(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    node = worker(tmp_path / "log")

    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    assert isinstance(node.execute(order("trains")), TaskFailure)
    monkeypatch.undo()
    assert isinstance(node.execute(order("trains")), TaskResult)
    assert problems(tmp_path / "log") == []


@settings(deadline=None, max_examples=30)
@given(st.text(max_size=100), st.text(max_size=100), st.one_of(st.text(max_size=100), st.integers(), st.none()))
def test_what_a_coordinator_calls_things_cannot_break_a_line(
    tmp_path_factory: pytest.TempPathFactory, task: str, name: str, model: Any
) -> None:
    path = tmp_path_factory.mktemp("names") / "log"
    node = worker(path)
    node.start_run(RunClaim(name, name))
    node.execute(order(task, request_id=name, settings={"model": model}))
    assert problems(path) == []
    (line,) = read_lines(path)
    assert line is not None
    assert all(text.isprintable() and len(text) <= 300 for text in line.values() if isinstance(text, str))
