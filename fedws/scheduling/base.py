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
    """The coordinator's half of an algorithm: pure. Events in, requests out; no sockets, no clocks."""

    min_results: int
    """The fewest workers with which it can go on."""

    def start(self, model: Tensors, workers: Collection[str]) -> tuple[S, Sequence[TaskRequest]]:
        """Begin with the initial model and the workers that are there; others may join.

        A mapping of workers says how many samples each of them holds.
        """

    def resume(self, state: S, workers: Collection[str]) -> tuple[S, Sequence[TaskRequest]]:
        """Go on from a stored state with the workers that are there; its open requests will not be answered."""

    def react(self, state: S, event: Event) -> tuple[S, Sequence[TaskRequest]]:
        """Take one event; never computes more than a mean."""

    def model(self, state: S) -> Tensors:
        """The federated model as it stands."""

    def version(self, state: S) -> int:
        """How many rounds (or model versions) are complete."""

    def failure(self, state: S) -> str:
        """Why the run cannot go on; empty while it can."""

    def waiting_for(self, state: S) -> Sequence[str]:
        """The workers that are away and without whom it cannot go on; empty while enough are there."""

    def log_lines(self, state: S) -> Sequence[str]:
        """What a person should read of the last reaction: log lines."""

    def record(self, state: S) -> Json:
        """What the record says of the last complete version, beside its number."""

    def worker_model(self, state: S, result: TaskResult) -> Tensors | None:
        """A worker's own model; None for none, or if the result does not count. ``state`` is from before the
        result."""


@dataclass(frozen=True)
class TaskSpec:
    """What a round-based algorithm asks of a worker; the round's helper adds ids and seed."""

    task: str
    settings: Json
    tensors: Tensors


class RoundAlgorithm(Protocol):
    """A round-based algorithm: :class:`fedws.scheduling.synchronous.SynchronousScheduler` makes a :class:`Scheduler` of
    it.

    Factory: ``(training: fedws.core.task_settings.TrainSettings, *, options)``, registered as ``algorithm``.
    """

    def configure(self, model: Tensors, worker: str, round_number: int) -> TaskSpec:
        """What to ask of ``worker`` in ``round_number`` (counted from 1)."""

    def server_update(self, model: Tensors, aggregate: Tensors, round_number: int) -> Tensors:
        """The next model, from the aggregate of the results of ``round_number``. Raises RejectedUpdate if they do not
        fit."""

    def worker_model(self, model: Tensors, result: TaskResult) -> Tensors | None:
        """The worker's own model; ``model`` is the one its request carried. Raises RejectedUpdate if it does not
        fit."""


B = TypeVar("B")


class AsynchronousAlgorithm(Protocol[B]):
    """An algorithm without rounds: :class:`fedws.scheduling.asynchronous.AsynchronousScheduler` makes a
    :class:`Scheduler` of it.

    Factory: ``(training: fedws.core.task_settings.TrainSettings, *, options)``, registered as ``algorithm``.
    """

    @property
    def buffer_size(self) -> int:
        """How many results make a version of the model."""

    def configure(self, model: Tensors, worker: str, round_number: int) -> TaskSpec:
        """What to ask of ``worker``; ``round_number`` counts from 1, by as many results as there are workers."""

    def init(self) -> B:
        """The buffer before the first result of a version: a part of the state, so plain data."""

    def accumulate(self, model: Tensors, buffer: B, result: TaskResult, staleness: int) -> B:
        """Add a result, whose request is ``staleness`` versions old; may reuse the buffer. Raises RejectedUpdate."""

    def server_update(self, model: Tensors, buffer: B) -> Tensors:
        """The next version, from ``buffer_size`` results. Raises RejectedUpdate if they do not fit."""

    def worker_model(self, model: Tensors, result: TaskResult) -> Tensors | None:
        """The worker's own model; ``model`` is the newest. Raises RejectedUpdate if it does not fit."""


@dataclass(frozen=True)
class WorkerInfo:
    """What a sampler knows of a worker that could be asked."""

    name: str
    num_examples: int = 0
    """How many samples it holds; 0 where that is not known."""
    response_seconds: float = 0.0
    """How long its answers take, the newest counting most; 0 before the first."""
    rounds_since_selected: int = 0
    """Rounds since it was last asked, or since the run began."""


class Sampler(Protocol):
    """Who is asked in a round: the cohort. Factory: ``(*, options)``, registered as ``sampler``."""

    def cohort_size(self, num_workers: int) -> int:
        """How many make a cohort, of so many workers in the plan."""

    def rank(self, candidates: Sequence[WorkerInfo], rng: Random) -> Sequence[str]:
        """All candidates' names, whom to ask first in front. ``rng`` is seeded by run seed and round."""
