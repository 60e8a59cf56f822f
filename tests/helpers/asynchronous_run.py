"""A run with the asynchronous scheduler and an algorithm that adds."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from fedws.core.errors import RejectedUpdate
from fedws.core.tensors import Tensors, find_mismatch
from fedws.protocol.messages import TaskResult
from fedws.scheduling.asynchronous import AsynchronousScheduler
from fedws.scheduling.base import TaskSpec
from fedws.scheduling.schedule_config import ScheduleConfig
from tests.helpers.scheduled_run import THREE, ScheduledRun, task_result


@dataclass(frozen=True)
class Adding:
    """An algorithm whose model is the sum of all results; its buffer lists them with their staleness. 13 is
    rejected."""

    buffer_size: int = 1

    def configure(self, model: Tensors, worker: str, round_number: int) -> TaskSpec:
        """Return a task that names the worker and the round."""
        return TaskSpec("adding.add", {"for": f"{worker} in {round_number}"}, model)

    def init(self) -> list[Any]:
        """Return an empty buffer."""
        return []

    def accumulate(self, model: Tensors, buffer: list[Any], report: TaskResult, staleness: int) -> list[Any]:
        """Return the buffer with one more result."""
        if (report.tensors["w"] == 13).any():
            raise RejectedUpdate("13 is bad luck")
        return [*buffer, [report.worker, staleness, report.tensors["w"]]]

    def server_update(self, model: Tensors, buffer: list[Any]) -> Tensors:
        """Return the sum of the model and the buffer; 1000 is rejected."""
        total = model["w"] + sum(tensor for _, _, tensor in buffer)
        if (total == 1000).any():
            raise RejectedUpdate("it is full")
        return {"w": total}

    def worker_model(self, model: Tensors, report: TaskResult) -> Tensors | None:
        """Return the model after this result alone."""
        if find_mismatch(report.tensors, model):
            raise RejectedUpdate(find_mismatch(report.tensors, model))
        return {"w": model["w"] + report.tensors["w"]}


class AsynchronousRun(ScheduledRun):
    """A run without rounds, where ``k`` results make a version."""

    def __init__(self, k: int = 1, quorum: int = 1, rounds: int = 20, here: Sequence[str] = THREE) -> None:
        config = ScheduleConfig(THREE, rounds, 7, quorum)
        super().__init__(AsynchronousScheduler[Any](Adding(k), config), here)

    def reports(self, *workers: str, value: float = 1.0, **tensors: Any) -> list[str]:
        """Let workers return results one after the other, each of its newest request."""
        return [
            request_id
            for worker in workers
            for request_id in self.take(task_result(self.open[worker], value, **tensors))
        ]

    @property
    def updates(self) -> list[tuple[str, int]]:
        """Worker and staleness of each result of the newest version."""
        return [(update["worker"], update["staleness"]) for update in self.record["updates"]]
