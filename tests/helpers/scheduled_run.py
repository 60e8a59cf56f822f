"""A scheduler under test without workers: the test makes the events, and reads the scheduler's state."""

from collections.abc import Iterable
from typing import Any, Literal

import torch

from fedws.protocol.messages import TaskFailure, TaskRequest, TaskResult
from fedws.scheduling.base import Scheduler
from fedws.scheduling.events import Event, WorkerConnected, WorkerDisconnected

START = {"w": torch.zeros(2)}
"""Initial model of all these runs."""
TWO = ("alice", "bob")
THREE = ("alice", "bob", "charlie")
FIVE = (*THREE, "dora", "emil")
Kind = Literal["refused", "failed", "rejected", "lost"]


def task_result(request: TaskRequest, value: float = 1.0, **tensors: torch.Tensor) -> TaskResult:
    """Return a result of a request whose tensor ``w`` holds one value, unless ``tensors`` has it."""
    found = {"w": torch.full((2,), float(value)), **tensors}
    return TaskResult(
        request_id=request.request_id, worker=request.worker, round=request.round, num_examples=1, tensors=found
    )


def task_failure(request: TaskRequest, kind: Kind = "failed") -> TaskFailure:
    """Return a failure of a request."""
    return TaskFailure(
        request_id=request.request_id, worker=request.worker, round=request.round, kind=kind, reason="no power"
    )


class ScheduledRun:
    """A run from START with these workers connected."""

    state: Any

    def __init__(self, scheduler: Scheduler[Any], connected: Iterable[str]) -> None:
        self.strategy = scheduler
        self.state, requests = scheduler.start(START, [*connected])
        self.open = {request.worker: request for request in requests}
        """The open request of each worker."""
        self.asked = [request.request_id for request in requests]
        """Ids of the first requests."""

    def take(self, *events: Event) -> list[str]:
        """Pass events to the scheduler, and return the ids of its new requests."""
        asked = []
        for event in events:
            if isinstance(event, TaskResult | TaskFailure):
                del self.open[event.worker]
            self.state, requests = self.strategy.react(self.state, event)
            self.open |= {request.worker: request for request in requests}
            asked += [request.request_id for request in requests]
        return asked

    def drops(self, event: Event) -> bool:
        """Return whether an event changes nothing."""
        after, requests = self.strategy.react(self.state, event)
        return after is self.state and not requests

    def fails(self, *workers: str, kind: Kind = "failed") -> list[str]:
        """Let the open requests of workers fail."""
        return self.take(*(task_failure(self.open[worker], kind) for worker in workers))

    def leaves(self, worker: str) -> list[str]:
        """Disconnect a worker: its open request is lost first, as a link reports it."""
        asked = self.fails(worker, kind="lost") if worker in self.open else []
        return asked + self.take(WorkerDisconnected(worker=worker, reason="the cable was cut"))

    def joins(self, *workers: str) -> list[str]:
        """Connect workers."""
        return self.take(*(WorkerConnected(worker=worker) for worker in workers))

    @property
    def version(self) -> int:
        """Number of versions of the model so far."""
        return self.strategy.version(self.state)

    @property
    def model(self) -> list[float]:
        """Values of the tensor ``w`` of the model."""
        values: list[float] = self.strategy.model(self.state)["w"].tolist()
        return values

    @property
    def failure(self) -> str:
        """Reason why the run cannot continue, or an empty string."""
        return self.strategy.failure(self.state)

    @property
    def awaited(self) -> list[str]:
        """Workers without which the run cannot continue."""
        return list(self.strategy.waiting_for(self.state))

    @property
    def said(self) -> list[str]:
        """Log lines of the last event."""
        return list(self.strategy.log_lines(self.state))

    @property
    def record(self) -> dict[str, Any]:
        """The record of the last version."""
        return self.strategy.record(self.state)
