"""A worker with an audit log, and tasks that end in every way."""

from pathlib import Path
from typing import Any

import torch

from fedws.core.errors import TaskCancelled, TaskError
from fedws.node.worker import Worker
from fedws.privacy.audit_log import AuditLog
from fedws.protocol.messages import TaskRequest, TaskResult
from fedws.protocol.run_claim import RunClaim
from fedws.training.task_context import TaskContext


class Points:
    """A data set of four samples."""

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return torch.zeros(2), 0


def trains(order: TaskRequest, workspace: TaskContext) -> TaskResult:
    return workspace.build_result(order, {"loss": 0.5}, {"w": torch.zeros(3)})


def scores(order: TaskRequest, workspace: TaskContext) -> TaskResult:
    return workspace.build_result(order, {"loss": 0.5})


def will_not(order: TaskRequest, workspace: TaskContext) -> TaskResult:
    raise TaskError("no")


def cannot(order: TaskRequest, workspace: TaskContext) -> TaskResult:
    raise RuntimeError("out of order")


def stopped(order: TaskRequest, workspace: TaskContext) -> TaskResult:
    raise TaskCancelled("stopped")


def odd(order: TaskRequest, workspace: TaskContext) -> TaskResult:
    return workspace.build_result(order, {}, {"w": torch.zeros(3).to_sparse()})


TASKS: dict[str, Any] = {f.__name__: f for f in (trains, scores, will_not, cannot, stopped, odd)}


def worker(path: Path) -> Worker:
    made = Worker("alice", "points", Points(), tasks=TASKS, audit_log=AuditLog(path))
    made.start_run(RunClaim("0123456789abcdef", "coordinator"))
    return made


def order(task: str, **changes: Any) -> TaskRequest:
    settings = {"model": "mlp", **changes.pop("settings", {})}
    return TaskRequest(
        **{"request_id": "1/alice", "worker": "alice", "round": 7, "task": task, "settings": settings, **changes}
    )
