"""The limit on answers a day, counted in the audit log."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from fedws.core.errors import UsageError
from fedws.privacy.audit_chain import read_lines
from fedws.privacy.audit_entry import AuditEntry
from fedws.privacy.audit_log import AuditLog
from fedws.privacy.policy import Policy
from fedws.protocol.messages import TaskFailure
from fedws.protocol.run_claim import RunClaim
from tests.helpers.policy_worker import Training, order, worker


@pytest.mark.parametrize("numbers", [(1, 2, 3, 4), (1, 1, 1, 1)])
def test_a_days_rounds_are_counted_by_answers_whatever_the_coordinator_calls_them(
    numbers: tuple[int, ...], tmp_path: Path
) -> None:
    """It numbers the rounds and names the runs, so the same number again is another round."""
    task, path = Training(), tmp_path / "audit.jsonl"
    node = worker(Policy(max_answers_per_day=3), task, AuditLog(path))
    node.start_run(RunClaim("first"))
    kinds = [type(node.execute(order(number=number))).__name__ for number in numbers]
    assert kinds == ["TaskResult", "TaskResult", "TaskResult", "TaskFailure"]
    again = worker(Policy(max_answers_per_day=3), task, AuditLog(path))
    again.start_run(RunClaim("second"))
    refused = again.execute(order(number=9))
    assert isinstance(refused, TaskFailure) and "answers a day" in refused.reason, (
        "also after a new start, in another run"
    )
    assert task.times == 3
    assert [line["payload"] for line in read_lines(path) if line] == 3 * ["tensors"] + 2 * ["reason"]


def test_what_counted_yesterday_and_what_does_not_count_is_left_out(tmp_path: Path) -> None:
    log = AuditLog(tmp_path / "audit.jsonl")
    now = datetime.now(UTC)

    def entry(hours: float, data: str) -> AuditEntry:
        time = (now - timedelta(hours=hours)).isoformat(timespec="milliseconds")
        fixed: dict[str, Any] = dict.fromkeys(("node", "coordinator", "run", "request_id", "task", "model"), "x")
        counts: Any = "request" if data == "tensors" else ""
        return AuditEntry(**fixed, time=time, round=1, outcome="result", payload=data, num_bytes=1, counted_as=counts)

    for hours, data in ((30, "tensors"), (24.1, "tensors"), (23.9, "tensors"), (1, "metrics"), (0, "tensors")):
        log.append(entry(hours, data))
    assert len(log.answer_ages("x")) == 2
    assert len(log.answer_ages("y")) == 0, "another node, in the same log"
    log.append(entry(0, "tensors"))
    log.append(entry(0, "reason"))
    assert (len(log.answer_ages("x")), len(AuditLog(log.path).answer_ages("x"))) == (3, 3)
    assert len(log.answer_ages("x", timedelta(hours=40))) == 3, "what is older than a day is forgotten"
    assert len(AuditLog(log.path).answer_ages("x", timedelta(hours=24.5))) == 4


def test_lines_of_the_future_count_from_now_for_a_day_and_the_newest_line_gives_the_age(tmp_path: Path) -> None:
    """The clock was ahead when they were written, and is right again; by more than a day, they do not count."""
    log, now = AuditLog(tmp_path / "audit.jsonl"), datetime.now(UTC)
    fixed: dict[str, Any] = dict.fromkeys(("node", "coordinator", "run", "request_id", "task", "model"), "x")
    fixed |= {"round": 1, "outcome": "result", "num_bytes": 1}
    lines = ((5, ""), (-48, ""), (-0.01, ""), (3, "u"), (1, "u"), (-48, "u"), (0.5, "u"), (1, "v"), (-2, "v"))
    for hours, upload in lines:
        time = (now - timedelta(hours=hours)).isoformat(timespec="milliseconds")
        log.append(
            AuditEntry(**fixed, time=time, payload="", upload_id=upload, counted_as="upload" if upload else "request")
        )
    wanted = {"number 1": 5.0, "number 3": 0.0, "upload u": 0.5, "upload v": 0.0}
    assert {what: round(age / 3600, 3) for what, age in log.answer_ages("x").items()} == wanted


def test_rounds_cannot_be_limited_where_nothing_is_written_down() -> None:
    with pytest.raises(UsageError, match="max_answers_per_day of a policy requires an audit log"):
        worker(Policy(max_answers_per_day=3), Training())
