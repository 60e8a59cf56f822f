"""Protocols of schedulers, of the algorithms that they run, and of samplers."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from random import Random
from typing import Protocol, TypeVar

from fedws.core.tensors import Tensors
from fedws.protocol.messages import Json, TaskRequest, TaskResult
from fedws.scheduling.events import Event

S = TypeVar("S")


class Scheduler(Protocol[S]):
    """The coordinator's part of an algorithm, as a pure state machine that maps events to requests.

    A scheduler uses neither sockets nor clocks.
    """

    min_results: int
    """Minimum number of workers with which the run can continue."""

    def start(self, model: Tensors, workers: Collection[str]) -> tuple[S, Sequence[TaskRequest]]:
        """Return the initial state and the first requests.

        ``model`` is the initial model. ``workers`` are the connected workers; others may join later. The values of a
        mapping are the workers' numbers of samples.
        """

    def resume(self, state: S, workers: Collection[str]) -> tuple[S, Sequence[TaskRequest]]:
        """Return the state and the requests with which a run continues from a stored state.

        ``workers`` are the connected workers. The pending requests of ``state`` are lost and are not answered.
        """

    def react(self, state: S, event: Event) -> tuple[S, Sequence[TaskRequest]]:
        """Return the state and the requests after an event.

        An implementation must not compute more than a mean.
        """

    def model(self, state: S) -> Tensors:
        """Return the current federated model."""

    def version(self, state: S) -> int:
        """Return the number of complete rounds, or of model versions."""

    def failure(self, state: S) -> str:
        """Return why the run cannot continue, or an empty string if it can."""

    def waiting_for(self, state: S) -> Sequence[str]:
        """Return the disconnected workers that the run needs to continue; empty while enough are connected."""

    def log_lines(self, state: S) -> Sequence[str]:
        """Return the log lines about the last event."""

    def record(self, state: S) -> Json:
        """Return the fields of the last complete version's record, except its number."""

    def worker_model(self, state: S, result: TaskResult) -> Tensors | None:
        """Return the worker's own model, or None if it has none or its result does not count.

        ``state`` is the state before the result.
        """


@dataclass(frozen=True)
class TaskSpec:
    """A task that an algorithm requests from a worker; the scheduler adds the ids and the seed."""

    task: str
    settings: Json
    tensors: Tensors


class RoundAlgorithm(Protocol):
    """An algorithm with rounds, which ``fedws.scheduling.synchronous.SynchronousScheduler`` runs.

    Its factory is ``(training: fedws.core.task_settings.TrainSettings, *, options)``, registered as ``algorithm``.
    """

    def configure(self, model: Tensors, worker: str, round_number: int) -> TaskSpec:
        """Return the task to request from ``worker`` in ``round_number``, which counts from 1."""

    def server_update(self, model: Tensors, aggregate: Tensors, round_number: int) -> Tensors:
        """Return the next model, from the aggregate of the results of ``round_number``.

        Raises RejectedUpdate if the results do not fit the model.
        """

    def worker_model(self, model: Tensors, result: TaskResult) -> Tensors | None:
        """Return the worker's own model, or None if it has none.

        ``model`` is the model in the worker's request. Raises RejectedUpdate if the result does not fit it.
        """


B = TypeVar("B")


class AsynchronousAlgorithm(Protocol[B]):
    """An algorithm without rounds, which ``fedws.scheduling.asynchronous.AsynchronousScheduler`` runs.

    Its factory is ``(training: fedws.core.task_settings.TrainSettings, *, options)``, registered as ``algorithm``.
    """

    @property
    def buffer_size(self) -> int:
        """Number of results from which a version of the model is made."""

    def configure(self, model: Tensors, worker: str, round_number: int) -> TaskSpec:
        """Return the task to request from ``worker``.

        ``round_number`` counts from 1. It increases by 1 after as many results as the run has workers.
        """

    def init(self) -> B:
        """Return the buffer before the first result of a version.

        The buffer is a part of the stored state, so it must be plain data.
        """

    def accumulate(self, model: Tensors, buffer: B, result: TaskResult, staleness: int) -> B:
        """Return the buffer with a result added; ``buffer`` itself may be modified.

        ``staleness`` is the number of versions made since the request. Raises RejectedUpdate if the result does not
        fit.
        """

    def server_update(self, model: Tensors, buffer: B) -> Tensors:
        """Return the next version of the model, from ``buffer_size`` results.

        Raises RejectedUpdate if the results do not fit the model.
        """

    def worker_model(self, model: Tensors, result: TaskResult) -> Tensors | None:
        """Return the worker's own model, or None if it has none.

        ``model`` is the newest version. Raises RejectedUpdate if the result does not fit it.
        """


@dataclass(frozen=True)
class WorkerInfo:
    """The data about an idle worker that a sampler gets."""

    name: str
    num_examples: int = 0
    """Number of samples that the worker holds; 0 if it is unknown."""
    response_seconds: float = 0.0
    """Response time in seconds, averaged with most weight on the newest answer; 0 before the first answer."""
    rounds_since_selected: int = 0
    """Number of rounds since the worker was last selected, or since the run began."""


class Sampler(Protocol):
    """A rule that selects the cohort of a round.

    Its factory is ``(*, options)``, registered as ``sampler``.
    """

    def cohort_size(self, num_workers: int) -> int:
        """Return the size of a cohort, for a plan with ``num_workers`` workers."""

    def rank(self, candidates: Sequence[WorkerInfo], rng: Random) -> Sequence[str]:
        """Return the names of all candidates, in the order in which they are selected.

        ``rng`` is seeded with the seed of the run and the round.
        """
