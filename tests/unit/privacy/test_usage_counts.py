"""What counts for an owner's limits: names that a line has in another form, a clock that moves, other processes."""

import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import torch

from fedws.core import registry
from fedws.node.worker import Worker
from fedws.privacy import audit_entry, usage_counts
from fedws.privacy.audit_chain import read_lines
from fedws.privacy.audit_log import AuditLog
from fedws.privacy.feature_release import FeatureRelease
from fedws.privacy.policy import Policy
from fedws.privacy.usage_counts import UsageCounts
from fedws.protocol.messages import TaskFailure, TaskRequest, TaskResult
from fedws.protocol.run_claim import RunClaim
from fedws.training.task_context import TaskContext
from tests.helpers.federation import Points

BITS = FeatureRelease("bits", 2.0, 4.0, 1)
TENSORS = {"features": torch.zeros(4, 1, dtype=torch.uint8)}


def order(number: int = 1) -> TaskRequest:
    return TaskRequest(request_id=f"{number}", worker="alice", round=number, task="t")


@registry.task_traits("metrics")
def score(order: TaskRequest, workspace: TaskContext) -> TaskResult:
    return workspace.build_result(order, {"loss": float(len(workspace.data))})


def node(folder: Path, task: Any = score, name: str = "alice", dataset: str = "points", **policy: Any) -> Worker:
    log = AuditLog(folder / "log")
    return Worker(name, dataset, Points(Path(), True), tasks={"t": task}, audit_log=log, policy=Policy(**policy))


def told(answer: TaskResult | TaskFailure) -> str:
    return f"{answer.kind} {answer.code}" if isinstance(answer, TaskFailure) else "sent"


@pytest.mark.parametrize("name", ["alice", "ali\u200dce"])
def test_rounds_of_a_node_whose_name_is_not_printable_count(name: str, tmp_path: Path) -> None:
    worker = node(tmp_path, name=name, max_answers_per_day=1)
    assert [told(worker.execute(order(number))) for number in (1, 2)] == ["sent", "refused retry_later"]


@pytest.mark.parametrize("names", [("alice", "poi\u200dnts"), ("ali\u200dce", "points")])
def test_uploads_of_names_that_are_not_printable_count(names: tuple[str, str], tmp_path: Path) -> None:
    """A line has a question mark there, so that no upload was found for the name as it is."""

    @registry.task_traits("features")
    def task(order: TaskRequest, workspace: TaskContext) -> TaskResult:
        workspace.declare_release(order, BITS, lambda: None)
        return workspace.build_result(order, {}, TENSORS)

    worker = node(tmp_path, task, *names)
    worker.start_run(RunClaim("first", "lab"))
    assert told(worker.execute(order(1))) == "sent"
    worker.start_run(RunClaim("second", "lab"))
    assert told(worker.execute(order(2))) == "refused permanent"
    assert len(AuditLog(tmp_path / "log").sent_upload_ids(*names, "")) == 1


@pytest.mark.parametrize(
    ("back", "again"),
    [(0.5, "refused retry_later"), (3600, "refused retry_later"), (86_000, "refused retry_later"), (200_000, "sent")],
)
def test_a_clock_that_is_set_back_frees_no_round(
    back: float, again: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By more than a day, the clock was wrong before, and would else keep the node from answering for as long."""
    worker = node(tmp_path, max_answers_per_day=1)
    assert told(worker.execute(order(1))) == "sent"

    class Earlier(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> Any:
            return datetime.now(tz) - timedelta(seconds=back)

    monkeypatch.setattr(usage_counts, "datetime", Earlier)
    monkeypatch.setattr(audit_entry, "datetime", Earlier)
    assert told(worker.execute(order(2))) == again
    refused = worker.execute(order(3))
    assert isinstance(refused, TaskFailure) and 0 < refused.retry_after <= 86_400


@pytest.mark.parametrize("features", [False, True])
def test_of_two_processes_that_compute_at_once_one_sends(features: bool, tmp_path: Path) -> None:
    """Both requests were allowed before either had its line."""
    both = threading.Barrier(2)

    @registry.task_traits("features" if features else "metrics")
    def task(order: TaskRequest, workspace: TaskContext) -> TaskResult:
        assert workspace.data
        if features:
            workspace.declare_release(order, BITS, lambda: None)
        both.wait(60)
        return workspace.build_result(order, {"loss": 1.0}, TENSORS if features else None)

    policy: dict[str, Any] = {} if features else {"max_answers_per_day": 1}
    workers, found = [node(tmp_path, task, **policy) for _ in range(2)], []
    for number, worker in enumerate(workers):
        worker.start_run(RunClaim(f"{number}", "lab"))
    threads = [threading.Thread(target=lambda w=w: found.append(told(w.execute(order())))) for w in workers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(found) == ["refused permanent" if features else "refused retry_later", "sent"]
    lines = {line["outcome"]: (line["counted_as"], line["payload"]) for line in read_lines(tmp_path / "log") if line}
    assert lines == {
        "result": ("upload", "features") if features else ("request", "metrics"),
        "refused": ("", "reason"),
    }


def test_without_a_limit_for_a_day_nothing_is_kept_for_one(tmp_path: Path) -> None:
    """A coordinator may ask any number of times, and nothing would delete what was kept."""
    line = {"number": 1, "node": "alice", "time": datetime.now(UTC).isoformat(), "counted_as": "request"}
    endless, limited = UsageCounts(), UsageCounts(track_recent=True)
    for number in range(10):
        for kept in (endless, limited):
            kept.add({**line, "number": number})
            kept.add({**line, "counted_as": "upload", "upload_id": "a5"})
            kept.add({**line, "number": 90 + number, "time": (datetime.now(UTC) - timedelta(days=3)).isoformat()})
    assert not endless._latest_times
    assert len(limited._latest_times) == 11, "all parts of an upload are one"
    worker = node(tmp_path)
    assert told(worker.execute(order(1))) == "sent"
    log = AuditLog(tmp_path / "log")
    assert not log.sent_upload_ids("alice", "points", "")
    assert len(log.answer_ages("alice")) == 1, "what was read before is counted"
