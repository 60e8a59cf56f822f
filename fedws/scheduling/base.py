"""Protocols of schedulers, of the algorithms that they run, and of samplers."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from random import Random
from typing import Protocol, TypeVar

from fedws.core.tensors import Tensors
from fedws.protocol.messages import Json, Order, Report
from fedws.scheduling.events import Event

S = TypeVar("S")


class Strategy(Protocol[S]):
    """The coordinator's half of an algorithm: pure. Events in, orders out; no sockets, no clocks."""

    quorum: int
    """The fewest workers with which it can go on."""

    def start(self, model: Tensors, workers: Collection[str]) -> tuple[S, Sequence[Order]]:
        """Begin with the initial model and the workers that are there; others may join.

        A mapping of workers says how many samples each of them holds.
        """

    def resume(self, state: S, workers: Collection[str]) -> tuple[S, Sequence[Order]]:
        """Go on from a stored state with the workers that are there; its open orders will not be answered."""

    def react(self, state: S, event: Event) -> tuple[S, Sequence[Order]]:
        """Take one event; never computes more than a mean."""

    def model(self, state: S) -> Tensors:
        """The federated model as it stands."""

    def version(self, state: S) -> int:
        """How many rounds (or model versions) are complete."""

    def failure(self, state: S) -> str:
        """Why the run cannot go on; empty while it can."""

    def awaited(self, state: S) -> Sequence[str]:
        """The workers that are away and without whom it cannot go on; empty while enough are there."""

    def said(self, state: S) -> Sequence[str]:
        """What a person should read of the last reaction: log lines."""

    def record(self, state: S) -> Json:
        """What the record says of the last complete version, beside its number."""

    def worker_model(self, state: S, report: Report) -> Tensors | None:
        """A worker's own model; None for none, or if the report does not count. ``state`` is from before the report."""


@dataclass(frozen=True)
class Ask:
    """What a round-based algorithm asks of a worker; the round's helper adds ids and seed."""

    task: str
    settings: Json
    tensors: Tensors


class RoundAlgorithm(Protocol):
    """A round-based algorithm: :class:`fedws.scheduling.synchronous.Rounds` makes a :class:`Strategy` of it.

    Factory: ``(training: fedws.core.plan.Training, *, options)``, registered as ``strategy``.
    """

    def order(self, model: Tensors, worker: str, round: int) -> Ask:
        """What to ask of ``worker`` in ``round`` (counted from 1)."""

    def step(self, model: Tensors, aggregated: Tensors, round: int) -> Tensors:
        """The next model, from the aggregate of the reports of ``round``. Raises RejectedUpdate if they do not fit."""

    def worker_model(self, model: Tensors, report: Report) -> Tensors | None:
        """The worker's own model; ``model`` is the one its order carried. Raises RejectedUpdate if it does not fit."""


B = TypeVar("B")


class AsynchronousAlgorithm(Protocol[B]):
    """An algorithm without rounds: :class:`fedws.scheduling.asynchronous.Asynchronous` makes a :class:`Strategy` of it.

    Factory: ``(training: fedws.core.plan.Training, *, options)``, registered as ``strategy``.
    """

    @property
    def k(self) -> int:
        """How many reports make a version of the model."""

    def order(self, model: Tensors, worker: str, round: int) -> Ask:
        """What to ask of ``worker``; ``round`` counts from 1, by as many reports as there are workers."""

    def empty(self) -> B:
        """The buffer before the first report of a version: a part of the state, so plain data."""

    def add(self, model: Tensors, buffer: B, report: Report, staleness: int) -> B:
        """Take in a report, whose order is ``staleness`` versions old; may reuse the buffer. Raises RejectedUpdate."""

    def step(self, model: Tensors, buffer: B) -> Tensors:
        """The next version, from ``k`` reports. Raises RejectedUpdate if they do not fit."""

    def worker_model(self, model: Tensors, report: Report) -> Tensors | None:
        """The worker's own model; ``model`` is the newest. Raises RejectedUpdate if it does not fit."""


@dataclass(frozen=True)
class Candidate:
    """What a chooser knows of a worker that could be asked."""

    worker: str
    samples: int = 0
    """How many samples it holds; 0 where that is not known."""
    seconds: float = 0.0
    """How long its answers take, the newest counting most; 0 before the first."""
    waited: int = 0
    """Rounds since it was last asked, or since the run began."""


class Chooser(Protocol):
    """Who is asked in a round: the cohort. Factory: ``(*, options)``, registered as ``chooser``."""

    def size(self, workers: int) -> int:
        """How many make a cohort, of so many workers in the plan."""

    def rank(self, candidates: Sequence[Candidate], random: Random) -> Sequence[str]:
        """All candidates' names, whom to ask first in front. ``random`` is seeded by run seed and round."""
