"""What counts for an owner's limits: names that a line has in another form, a clock that moves, other processes."""

import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import torch

from fedws.core import registry
from fedws.node.worker import Worker
from fedws.privacy import audit_log, usage_counts
from fedws.privacy.audit_log import Audit, read
from fedws.privacy.policy import Policy
from fedws.privacy.spending import Features
from fedws.privacy.usage_counts import Counts
from fedws.protocol.messages import Failure, Order, Report
from fedws.protocol.run_claim import Claim
from fedws.training.task_context import Workspace
from tests.helpers.federation import Points

BITS = Features("bits", 2.0, 4.0, 1)
TENSORS = {"features": torch.zeros(4, 1, dtype=torch.uint8)}


def order(number: int = 1) -> Order:
    return Order(id=f"{number}", worker="alice", round=number, task="t")


@registry.releasing("metrics")
def score(order: Order, workspace: Workspace) -> Report:
    return workspace.report(order, {"loss": float(len(workspace.data))})


def node(folder: Path, task: Any = score, name: str = "alice", dataset: str = "points", **policy: Any) -> Worker:
    log = Audit(folder / "log")
    return Worker(name, dataset, Points(Path(), True), tasks={"t": task}, audit=log, policy=Policy(**policy))


def told(answer: Report | Failure) -> str:
    return f"{answer.kind} {answer.code}" if isinstance(answer, Failure) else "sent"


@pytest.mark.parametrize("name", ["alice", "ali\u200dce"])
def test_rounds_of_a_node_whose_name_is_not_printable_count(name: str, tmp_path: Path) -> None:
    worker = node(tmp_path, name=name, rounds_per_day=1)
    assert [told(worker.answer(order(number))) for number in (1, 2)] == ["sent", "refused later"]


@pytest.mark.parametrize("names", [("alice", "poi\u200dnts"), ("ali\u200dce", "points")])
def test_uploads_of_names_that_are_not_printable_count(names: tuple[str, str], tmp_path: Path) -> None:
    """A line has a question mark there, so that no upload was found for the name as it is."""

    @registry.releasing("features")
    def task(order: Order, workspace: Workspace) -> Report:
        workspace.announce(order, BITS, lambda: None)
        return workspace.report(order, {}, TENSORS)

    worker = node(tmp_path, task, *names)
    worker.begin(Claim("first", "lab"))
    assert told(worker.answer(order(1))) == "sent"
    worker.begin(Claim("second", "lab"))
    assert told(worker.answer(order(2))) == "refused permanent"
    assert len(Audit(tmp_path / "log").uploads(*names, "")) == 1


@pytest.mark.parametrize(
    ("back", "again"), [(0.5, "refused later"), (3600, "refused later"), (86_000, "refused later"), (200_000, "sent")]
)
def test_a_clock_that_is_set_back_frees_no_round(
    back: float, again: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By more than a day, the clock was wrong before, and would else keep the node from answering for as long."""
    worker = node(tmp_path, rounds_per_day=1)
    assert told(worker.answer(order(1))) == "sent"

    class Earlier(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> Any:
            return datetime.now(tz) - timedelta(seconds=back)

    monkeypatch.setattr(usage_counts, "datetime", Earlier)
    monkeypatch.setattr(audit_log, "datetime", Earlier)
    assert told(worker.answer(order(2))) == again
    refused = worker.answer(order(3))
    assert isinstance(refused, Failure) and 0 < refused.wait <= 86_400


@pytest.mark.parametrize("features", [False, True])
def test_of_two_processes_that_compute_at_once_one_sends(features: bool, tmp_path: Path) -> None:
    """Both requests were allowed before either had its line."""
    both = threading.Barrier(2)

    @registry.releasing("features" if features else "metrics")
    def task(order: Order, workspace: Workspace) -> Report:
        assert workspace.data
        if features:
            workspace.announce(order, BITS, lambda: None)
        both.wait(60)
        return workspace.report(order, {"loss": 1.0}, TENSORS if features else None)

    policy: dict[str, Any] = {} if features else {"rounds_per_day": 1}
    workers, found = [node(tmp_path, task, **policy) for _ in range(2)], []
    for number, worker in enumerate(workers):
        worker.begin(Claim(f"{number}", "lab"))
    threads = [threading.Thread(target=lambda w=w: found.append(told(w.answer(order())))) for w in workers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(found) == ["refused permanent" if features else "refused later", "sent"]
    lines = {line["answer"]: (line["counts"], line["data"]) for line in read(tmp_path / "log") if line}
    assert lines == {
        "report": ("upload", "features") if features else ("request", "numbers"),
        "refused": ("", "reason"),
    }


def test_without_a_limit_for_a_day_nothing_is_kept_for_one(tmp_path: Path) -> None:
    """A coordinator may ask any number of times, and nothing would delete what was kept."""
    line = {"number": 1, "node": "alice", "time": datetime.now(UTC).isoformat(), "counts": "request"}
    endless, limited = Counts(), Counts(days=True)
    for number in range(10):
        for kept in (endless, limited):
            kept.add({**line, "number": number})
            kept.add({**line, "counts": "upload", "upload": "a5"})
            kept.add({**line, "number": 90 + number, "time": (datetime.now(UTC) - timedelta(days=3)).isoformat()})
    assert not endless._recent
    assert len(limited._recent) == 11, "all parts of an upload are one"
    worker = node(tmp_path)
    assert told(worker.answer(order(1))) == "sent"
    log = Audit(tmp_path / "log")
    assert not log.uploads("alice", "points", "")
    assert len(log.left("alice")) == 1, "what was read before is counted"
