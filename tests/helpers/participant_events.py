"""Requests to participants, and their results and failures."""

from typing import Any, Literal

import torch

from fedws.core.tensors import Tensors
from fedws.protocol.messages import TaskFailure, TaskRequest, TaskResult
from fedws.scheduling.base import TaskSpec
from fedws.scheduling.participants import Participants

THREE = ("alice", "bob", "charlie")
ASK = TaskSpec("t.do", {"lr": 1}, {"w": torch.ones(1)})
Kind = Literal["refused", "failed", "rejected", "lost"]


def ordered(
    roster: Participants, worker: str = "bob", round_number: int = 1, version: int = 0
) -> tuple[Participants, TaskRequest]:
    return roster.create_request(worker, round_number, version, 7, ASK)


def report(order: TaskRequest, tensors: Tensors | None = None, samples: int = 5) -> TaskResult:
    return TaskResult(
        request_id=order.request_id, worker=order.worker, round=order.round, num_examples=samples, tensors=tensors or {}
    )


def failure(order: TaskRequest, kind: Kind = "failed", reason: str = "no power", **more: Any) -> TaskFailure:
    return TaskFailure(
        request_id=order.request_id, worker=order.worker, round=order.round, kind=kind, reason=reason, **more
    )


def failing(roster: Participants, kind: Kind, times: int, round_number: int = 1, **more: Any) -> Participants:
    """Return so many consecutive answers of bob to one request."""
    for _ in range(times):
        roster, order = ordered(roster, round_number=round_number)
        roster, _ = roster.apply(failure(order, kind, **more))
    return roster
