"""A coordinator that requests new noise on the same samples under the id of another run, to average the noise out."""

from collections.abc import Iterator
from dataclasses import fields, make_dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from fedws.core import registry
from fedws.node.worker import Worker
from fedws.privacy.audit_chain import read_lines
from fedws.privacy.audit_entry import AuditEntry
from fedws.privacy.audit_log import AuditLog
from fedws.privacy.feature_release import FeatureRelease
from fedws.privacy.policy import Policy
from fedws.protocol.messages import TaskFailure, TaskRequest, TaskResult
from fedws.protocol.run_claim import RunClaim
from fedws.training.task_context import TaskContext
from tests.helpers.federation import Points, registered
from tests.helpers.mistnet_requests import extraction, order, part, strategy
from tests.helpers.plugin_cleanup import forgotten as forgotten

WHY = (
    "policy: the limit of 1 uploads for this coordinator is reached: another one has new noise on the same "
    "samples, so averaging them weakens the noise; to allow it, set max_uploads = 2 in the node's --policy"
)


@pytest.fixture(autouse=True, scope="module")
def _pieces() -> Iterator[None]:
    with registered():
        yield


def node(folder: Path, *, log: bool = True, dataset: str = "points", state: bool = True, **policy: Any) -> Worker:
    audit = AuditLog(folder / "log") if log else None
    kept = folder / "uploads" if state else None
    return Worker("alice", dataset, Points(Path(), True), policy=Policy(**policy), audit_log=audit, state_dir=kept)


def upload(worker: Worker, run: str, coordinator: str = "lab", peer: str = "", dataset: str = "points") -> str:
    """Request an upload of features; return the reason if it is refused."""
    worker.start_run(RunClaim(run, coordinator), *([peer] if peer else []))
    asked = extraction(changes={"dataset": dataset})
    for number, request in enumerate((asked, part(0, 60), part(60, 60), order(strategy().configure_acknowledgement()))):
        answer = worker.execute(request)
        if isinstance(answer, TaskFailure):
            return f"{number}: {answer.kind}, {answer.code}: {answer.reason}"
    return "sent"


REFUSED = f"0: refused, permanent: {WHY}"


@pytest.mark.parametrize("log", [True, False])
def test_one_upload_leaves_and_no_other_runs_is_made(log: bool, tmp_path: Path) -> None:
    """With epsilon 2, 31 runs revealed 99.999 % of the bits."""
    worker = node(tmp_path, log=log)
    assert [upload(worker, run) for run in ("first", "second", "third")] == ["sent", REFUSED, REFUSED]
    assert upload(worker, "first", "other lab") == REFUSED, "anyone can call himself anything"
    assert upload(worker, "first").startswith("1: refused, permanent: alice has deleted the features"), (
        "its own goes on"
    )
    if log:
        assert upload(node(tmp_path), "fourth") == REFUSED, "also after a new start"
        assert WHY in [line["reason"] for line in read_lines(tmp_path / "log") if line], "what to do is not cut off"
        left = {line["upload_id"] for line in read_lines(tmp_path / "log") if line and line["payload"] == "features"}
        assert len(left) == 1


@pytest.mark.usefixtures("forgotten")
def test_runs_without_an_id_get_no_features_of_any_task(tmp_path: Path) -> None:
    """All of them would count as one run, whose own upload does not count against it."""

    @registry.register("task", "sends.features", releases="features")
    def sends(order: TaskRequest, workspace: TaskContext) -> TaskResult:
        workspace.declare_release(order, FeatureRelease("bits", 1.0, 1.0, 1), lambda: None)
        return workspace.build_result(order, {}, {"x": torch.ones(1)})

    audit = AuditLog(tmp_path / "log")
    worker = Worker("alice", "points", Points(Path(), True), tasks={"sends.features": sends}, audit_log=audit)
    for run, kind in (("", TaskFailure), ("", TaskFailure), ("first", TaskResult)):
        worker.start_run(RunClaim(run, "lab"))
        answer = worker.execute(TaskRequest(request_id="1", worker="alice", round=1, task="sends.features"))
        assert isinstance(answer, kind), answer


def test_features_of_two_runs_that_were_made_first_leave_once(tmp_path: Path) -> None:
    worker = node(tmp_path)
    for run in ("first", "second"):
        worker.start_run(RunClaim(run, "lab"))
        assert isinstance(worker.execute(extraction()), TaskResult)
    sent = []
    for run in ("first", "second", "first"):
        worker.start_run(RunClaim(run, "lab"))
        sent.append(worker.execute(part(0, 60)))
    assert [isinstance(answer, TaskResult) for answer in sent] == [True, False, True]
    assert isinstance(sent[1], TaskFailure) and sent[1].reason == WHY


def test_the_owner_can_allow_more(tmp_path: Path) -> None:
    worker = node(tmp_path, max_uploads=2)
    assert [upload(worker, run) for run in ("first", "second")] == 2 * ["sent"]
    assert upload(worker, "third") == REFUSED.replace("limit of 1", "limit of 2").replace("= 2", "= 3")


def test_each_coordinator_with_a_certificate_gets_one_of_each_data_set(tmp_path: Path) -> None:
    worker = node(tmp_path)
    assert upload(worker, "first", "lab", "lab") == "sent"
    assert upload(worker, "second", "lab", "lab") == REFUSED
    assert upload(worker, "third", "clinic", "clinic") == "sent"
    why = upload(worker, "fourth", "ward")
    assert why == REFUSED.replace("= 2", "= 3"), "without a certificate it may be one of them"
    other = node(tmp_path, dataset="others")
    assert upload(other, "fifth", "lab", "lab", dataset="others") == "sent"
    assert upload(other, "sixth", "ward", dataset="others") == REFUSED


def test_an_upload_to_who_showed_no_certificate_counts_for_all(tmp_path: Path) -> None:
    worker = node(tmp_path)
    assert upload(worker, "first", "lab") == "sent"
    assert upload(worker, "second", "lab", "lab") == REFUSED


def test_new_noise_for_a_run_whose_noise_is_lost_counts_as_another_upload(tmp_path: Path) -> None:
    """A node without a folder loses its noised features when it ends, but not its audit log."""
    assert upload(node(tmp_path, state=False), "first") == "sent"
    assert upload(node(tmp_path, state=False), "first") == REFUSED


def test_uploads_in_a_log_of_an_earlier_version_count_for_every_data_set_and_coordinator(tmp_path: Path) -> None:
    assert upload(node(tmp_path), "first") == "sent"
    new, old = AuditLog(tmp_path / "log"), AuditLog(tmp_path / "old")
    kept = [field for field in fields(AuditEntry) if field.name not in ("dataset", "peer", "counted_as", "resent")]
    earlier: Any = make_dataclass("Earlier", [(field.name, Any) for field in kept])
    for line in read_lines(new.path):
        assert line is not None
        old.append(earlier(**{field.name: line[field.name] for field in kept}))
    worker = Worker("alice", "others", Points(Path(), True), audit_log=old, policy=Policy(max_answers_per_day=9))
    assert upload(worker, "second", "clinic", "clinic", "others") == REFUSED
    assert len(old.answer_ages("alice")) == 1, "the upload, of which there are two lines"


def test_features_of_another_data_set_do_not_leave_under_the_name_of_this_one(tmp_path: Path) -> None:
    """They would count for the wrong data set, so another upload of the right one would be allowed."""
    worker = node(tmp_path)
    worker.start_run(RunClaim("first", "lab"))
    assert isinstance(worker.execute(extraction()), TaskResult)
    other = node(tmp_path, dataset="others")
    other.start_run(RunClaim("first", "lab"))
    answer = other.execute(part(0, 60))
    assert (
        isinstance(answer, TaskFailure)
        and answer.reason == "the features of this run are from 'points', but alice has 'others'"
    )
    assert upload(node(tmp_path), "second") == "sent"
    assert upload(node(tmp_path), "first") == REFUSED
