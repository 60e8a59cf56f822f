"""Which errors of a task the coordinator gets: those from before the samples were read, and those declared for it."""

from typing import Any

import pytest
import torch

from fedws.core.errors import RequestError, TaskCancelled, TaskError, TaskFailed, UsageError
from fedws.core.limits import NO_MESSAGE_LIMITS
from fedws.node.worker import Worker
from fedws.privacy.feature_release import FeatureRelease
from fedws.protocol.messages import TaskFailure, TaskRequest, TaskResult
from fedws.protocol.run_claim import RunClaim
from fedws.training.client_state import ClientState
from fedws.training.task_context import TaskContext
from tests.helpers.mistnet_requests import on_data

ERRORS = [TaskError, TaskFailed, UsageError, ValueError, TaskCancelled, KeyError]


class Points:
    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return torch.zeros(2), 0


def answer(task: Any, *, base: int = 0, **options: Any) -> TaskResult | TaskFailure:
    node = Worker("alice", "points", Points(), tasks={"t": task}, **options)
    return node.execute(TaskRequest(request_id="1", worker="alice", round=2, task="t", state_round=base))


def raising(error: Exception, *before: str) -> Any:
    """A task that gets those attributes of its workspace, and then fails."""

    def task(order: TaskRequest, workspace: TaskContext) -> TaskResult:
        for name in before:
            getattr(workspace, name)
        raise error

    return task


@pytest.mark.parametrize("kind", ERRORS)
def test_the_first_access_to_the_samples_decides(kind: type[Exception]) -> None:
    before, after = answer(raising(kind("Smith"), "held", "node")), answer(raising(kind("Smith"), "data"))
    assert not on_data(before) and on_data(after)


def test_an_error_that_is_declared_to_depend_on_the_request_keeps_its_text() -> None:
    found = answer(raising(RequestError("more samples a batch, please"), "data"))
    assert isinstance(found, TaskFailure)
    assert (found.kind, found.code, found.reason) == ("refused", "permanent", "more samples a batch, please")


def test_what_a_task_kept_of_the_samples_is_of_the_samples() -> None:
    def task(order: TaskRequest, workspace: TaskContext) -> TaskResult:
        workspace.load_state(order)
        raise ValueError("Smith")

    node = Worker("alice", "points", Points(), tasks={"t": task})
    node.start_run(RunClaim("run"))
    kept = TaskRequest(request_id="1", worker="alice", round=1, task="t")
    assert isinstance(node._context.client_state, ClientState) and not on_data(node.execute(kept))
    node._context.client_state.save_state(kept, {"w": torch.zeros(1)})
    assert on_data(node.execute(TaskRequest(request_id="2", worker="alice", round=2, task="t", state_round=1)))


def test_each_request_begins_with_nothing_read() -> None:
    node = Worker(
        "alice", "points", Points(), tasks={"t": raising(TaskError("no"), "data"), "u": raising(TaskError("no"))}
    )
    answers = [node.execute(TaskRequest(request_id="1", worker="alice", round=1, task=task)) for task in "tu"]
    assert [on_data(found) for found in answers] == [True, False]


def test_what_is_no_report_and_what_cannot_be_sent_are_failures_on_data() -> None:
    assert on_data(answer(lambda order, workspace: workspace.data and None))

    def task(order: TaskRequest, workspace: TaskContext) -> TaskResult:
        return workspace.build_result(order, {"odd": object() if workspace.data else 0})

    node = Worker("alice", "points", Points(), tasks={"t": task})
    order = TaskRequest(request_id="1", worker="alice", round=1, task="t")
    node.execute(order)
    assert on_data(node.releases.record_unsendable(order, UsageError("odd: Smith cannot travel"), NO_MESSAGE_LIMITS))


def test_a_task_that_was_told_to_stop_says_so() -> None:
    def task(order: TaskRequest, workspace: TaskContext) -> TaskResult:
        assert workspace.data
        workspace.stop.set()
        raise TaskCancelled("told to stop")

    found = answer(task)
    assert isinstance(found, TaskFailure) and found.reason == "told to stop"


def test_a_node_whose_data_the_coordinator_may_see_tells_all() -> None:
    found = answer(raising(TaskError("the head gives two"), "data"), send_error_details=True)
    assert isinstance(found, TaskFailure) and (found.kind, found.reason) == ("refused", "the head gives two")


def test_features_leave_only_from_a_task_that_is_registered_for_them() -> None:
    """Else the uploads of a node would not be counted."""

    def task(order: TaskRequest, workspace: TaskContext) -> TaskResult:
        workspace.declare_release(order, FeatureRelease("bits", 2.0, 4.0, 1), lambda: None)
        return workspace.build_result(order, {}, {"features": torch.zeros(4, 1, dtype=torch.uint8)})

    found = answer(task)
    why = "the task is registered to release update, but its result contains features"
    assert isinstance(found, TaskFailure) and found.reason == why
