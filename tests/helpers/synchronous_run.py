"""A run with the synchronous scheduler, an algorithm that adds, and a sampler with a fixed order."""

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

from fedws.core.errors import RejectedUpdate
from fedws.core.tensors import Tensors, find_mismatch
from fedws.protocol.messages import TaskResult
from fedws.scheduling.base import Sampler, TaskSpec, WorkerInfo
from fedws.scheduling.events import RoundTimeout
from fedws.scheduling.samplers.all import AllSampler
from fedws.scheduling.schedule_config import ScheduleConfig
from fedws.scheduling.synchronous import SynchronousScheduler
from fedws.updates.aggregators.mean import MeanAggregator
from tests.helpers.scheduled_run import THREE, ScheduledRun, task_result


@dataclass(frozen=True)
class Adding:
    """An algorithm whose model is the sum of the rounds' means; 13 is rejected."""

    def configure(self, model: Tensors, worker: str, round_number: int) -> TaskSpec:
        """Return a task that names the worker and the round."""
        return TaskSpec("adding.add", {"for": f"{worker} in {round_number}"}, model)

    def server_update(self, model: Tensors, aggregated: Tensors, round_number: int) -> Tensors:
        """Return the sum of the model and the aggregate."""
        if (aggregated["w"] == 13).any():
            raise RejectedUpdate("13 is bad luck")
        return aggregated if find_mismatch(aggregated, model) else {"w": model["w"] + aggregated["w"]}

    def worker_model(self, model: Tensors, report: TaskResult) -> Tensors | None:
        """Return the model after this result alone."""
        return self.server_update(model, report.tensors, report.round)


@dataclass(frozen=True)
class Some:
    """A sampler of a fixed number of workers: the last of the plan first, or with ``by_wait`` the longest wait
    first."""

    count: int
    by_wait: bool = False

    def cohort_size(self, workers: int) -> int:
        """Return the number of workers in a cohort."""
        return min(self.count, workers)

    def rank(self, candidates: Sequence[WorkerInfo], random: Random) -> Sequence[str]:
        """Return the candidates in their order."""
        names = [candidate.name for candidate in reversed(candidates)]
        waited = {candidate.name: candidate.rounds_since_selected for candidate in candidates}
        return sorted(names, key=lambda name: -waited[name]) if self.by_wait else names


def round_record(
    cohort: list[str], missing: list[str], results: int, *, failed: int = 0, late: int = 0
) -> dict[str, Any]:
    """Return the expected record of a round."""
    return {
        "cohort": cohort,
        "missing_workers": missing,
        "num_results": results,
        "num_failures": failed,
        "num_late": late,
    }


class SynchronousRun(ScheduledRun):
    """A run in rounds; all workers are connected unless ``here`` names those that are."""

    def __init__(
        self,
        workers: Sequence[str] = THREE,
        quorum: int = 0,
        chooser: Sampler | None = None,
        over_select: float = 0.0,
        rounds: int = 3,
        here: Sequence[str] | None = None,
        algorithm: Any = None,
    ) -> None:
        chooser = chooser or AllSampler()
        config = ScheduleConfig(tuple(workers), rounds, 7, quorum or chooser.cohort_size(len(workers)), over_select)
        scheduler = SynchronousScheduler(algorithm or Adding(), MeanAggregator(), chooser, config)
        super().__init__(scheduler, workers if here is None else here)

    def reports(self, *workers: str, value: float = 1.0, **tensors: Any) -> list[str]:
        """Let workers return results, all before the next requests are read."""
        return self.take(*(task_result(self.open[worker], value, **tensors) for worker in workers))

    def deadline(self) -> list[str]:
        """End the time of the round."""
        return self.take(RoundTimeout(version=self.version))
