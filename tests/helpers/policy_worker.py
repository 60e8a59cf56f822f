"""A worker with a policy, its data set of four samples, and requests to it."""

import threading
from typing import Any

import torch

from fedws.node.worker import Worker
from fedws.privacy.audit_log import AuditLog
from fedws.privacy.policy import Policy
from fedws.protocol.messages import TaskRequest, TaskResult
from fedws.training.task_context import TaskContext


def order(task: str = "fedavg.fit", number: int = 1, **settings: Any) -> TaskRequest:
    return TaskRequest(
        request_id=f"{number}/alice", worker="alice", round=number, task=task, settings={"model": "mlp", **settings}
    )


class Points:
    """A data set of four samples."""

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return torch.zeros(2), 0


class Training:
    """A task that sends tensors, and counts its executions."""

    def __init__(self) -> None:
        self.done = threading.Semaphore(0)
        self.times = 0

    def __call__(self, order: TaskRequest, workspace: TaskContext) -> TaskResult:
        self.times += 1
        return workspace.build_result(order, {"loss": 0.5}, {"w": torch.zeros(2)})


def worker(policy: Policy, task: Training, log: AuditLog | None = None) -> Worker:
    return Worker("alice", "points", Points(), tasks={"fedavg.fit": task}, policy=policy, audit_log=log)
