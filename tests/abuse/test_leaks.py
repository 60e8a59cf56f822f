"""A coordinator that infers labels from the outcome of its training requests."""

from pathlib import Path
from typing import Any

import pytest
import torch

import fedws
from fedws.core import registry
from fedws.core.errors import TaskError
from fedws.node.worker import Worker
from fedws.privacy.audit_chain import read_lines
from fedws.privacy.audit_log import AuditLog
from fedws.privacy.feature_release import FeatureRelease
from fedws.privacy.policy import Policy
from fedws.protocol.messages import TaskFailure, TaskRequest, TaskResult
from fedws.protocol.run_claim import RunClaim

UNIFORM = ("failed", "the task failed on its data (see the log of alice)", "")


class Few:
    """A data set of thirty points with labels from 0 to 9, which counts its reads."""

    def __init__(self) -> None:
        self.targets = torch.arange(30) % 10
        self.read = 0

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        self.read += 1
        return torch.ones(2), self.targets[index]


def worker(data: Any, folder: Path, tasks: Any = None, **policy: Any) -> Worker:
    node = Worker("alice", "few", data, tasks=tasks, policy=Policy(**policy), audit_log=AuditLog(folder / "log"))
    node.start_run(RunClaim("run", "lab"))
    data.read = 0  # the first sample is checked as the node starts
    return node


def gradient(number: int, outputs: int, task: str = "fedsgd.gradient", **settings: Any) -> TaskRequest:
    """Return a request for the gradient of a model with so few outputs that a label may be beyond them."""
    model = f"linear:inputs=2,outputs={outputs}"
    tensors = registry.build_piece("model", model).state_dict()
    asked = {"model": model, "dataset": "few", **settings}
    return TaskRequest(
        request_id=f"{number}", worker="alice", round=number, task=task, settings=asked, tensors=tensors, seed=number
    )


def told(answer: TaskResult | TaskFailure) -> Any:
    return (answer.kind, answer.reason, answer.code) if isinstance(answer, TaskFailure) else "a report"


@pytest.mark.parametrize(
    "size", [{"batch_size": 1, "max_local_batches": 1}, {"batch_size": 24, "max_local_batches": 1}]
)
def test_a_label_cannot_be_read_where_an_update_must_be_of_more_samples(size: dict[str, Any], tmp_path: Path) -> None:
    """The request failed for a label beyond the outputs, and was refused otherwise: 30 labels in 104 requests."""
    data = Few()
    node = worker(data, tmp_path, min_samples=25)
    answers = {told(node.execute(gradient(number, outputs=1 + number % 10, **size))) for number in range(1, 31)}
    used = size["batch_size"] * size["max_local_batches"]
    how = f"this request may use only {used}; use a larger --batch-size or more batches"
    assert answers == {("refused", f"policy: each released value requires at least 25 samples, {how}", "permanent")}
    assert data.read == 0, "nothing was computed"


def test_failures_on_data_are_one_answer_and_count_for_the_day(tmp_path: Path) -> None:
    """Each failure reveals one bit, such as whether all labels are below a number; a day allows as many as rounds."""
    node = worker(Few(), tmp_path, min_samples=25, max_answers_per_day=4)
    answers = [told(node.execute(gradient(number, outputs=number))) for number in (5, 10, 9, 11, 8, 7)]
    assert answers[:4] == [UNIFORM, "a report", UNIFORM, "a report"]
    assert [answer[2] for answer in answers[4:]] == 2 * ["retry_later"]
    counted = [line["counted_as"] for line in read_lines(tmp_path / "log") if line is not None]
    assert counted == 4 * ["request"] + 2 * [""]


class Raising(Few):
    """A data set whose last sample raises an error of its own; the node checks the first one at its start."""

    def __init__(self, error: BaseException | torch.Tensor) -> None:
        super().__init__()
        self._error = error

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        if index < 29:
            return super().__getitem__(index)
        if isinstance(self._error, BaseException):
            raise self._error
        return self._error, self.targets[0]


@pytest.mark.parametrize("task", ["fedsgd.gradient", "fedavg.fit"])
@pytest.mark.parametrize(
    "error",
    [ValueError("Smith"), TaskError("sample 29 is of Smith"), OSError(5, "Smith"), MemoryError(), torch.ones(3)],
    ids=["ValueError", "TaskError", "OSError", "MemoryError", "shape"],
)
def test_no_error_of_a_sample_reaches_the_coordinator(
    error: Any, task: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    node = worker(Raising(error), tmp_path)
    assert told(node.execute(gradient(1, 10, task))) == UNIFORM
    assert caplog.messages, "the node's own log has it"
    (line,) = read_lines(tmp_path / "log")
    assert line is not None and (line["payload"], line["reason"], line["counted_as"]) == (
        "reason",
        UNIFORM[1],
        "request",
    )


def test_what_a_request_alone_decides_keeps_its_text_and_does_not_count(tmp_path: Path) -> None:
    node = worker(Few(), tmp_path, max_answers_per_day=1)
    for asked, why in (
        (gradient(1, 10, loss="none"), "unknown loss 'none'"),
        (gradient(2, 10, "fedavg.fit", optimizer="none"), "unknown optimizer 'none'"),
        (gradient(3, 10, lr=-1.0), "settings: lr: "),
        (gradient(4, 10, model="linear:inputs=2,outputs=3"), "model 'linear:inputs=2,outputs=3' differs on alice"),
        (gradient(5, 10, drop_last=True, batch_size=31), "alice has 30 samples, less than one batch of 31"),
    ):
        answer = node.execute(asked)
        assert isinstance(answer, TaskFailure) and answer.reason.startswith(why), answer
    assert [line["counted_as"] for line in read_lines(tmp_path / "log") if line] == 5 * [""]


def test_a_failing_request_counts_also_while_an_upload_is_sent(tmp_path: Path) -> None:
    """Requests of a run with uploaded features were not counted before the task, nor were their failures after it."""

    @fedws.task_traits("features")
    def upload(order: TaskRequest, workspace: fedws.TaskContext) -> TaskResult:
        workspace.declare_release(order, FeatureRelease("bits", 2.0, 4.0, 1), lambda: None)
        return workspace.build_result(order, {}, {"features": torch.zeros(1, 1, dtype=torch.uint8)})

    tasks = {"upload": upload, "fedsgd.gradient": registry.find_piece("task", "fedsgd.gradient")}
    node = worker(Few(), tmp_path, tasks, max_answers_per_day=2)
    sent = [told(node.execute(gradient(number, 10, "upload"))) for number in (1, 2)]
    failed = [told(node.execute(gradient(number, 5))) for number in (3, 4, 5)]
    assert sent == 2 * ["a report"] and failed[0] == UNIFORM
    assert [it[2] for it in failed[1:]] == 2 * ["retry_later"]
    assert told(node.execute(gradient(6, 10, "upload"))) == "a report", "the rest of what was begun still leaves"
