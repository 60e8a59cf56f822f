"""Takes every answer as it comes: makes a Strategy of any asynchronous algorithm."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
from typing import Generic, TypeVar

from fedws.core.errors import RejectedUpdate
from fedws.core.tensors import Tensors
from fedws.protocol import answer_size
from fedws.protocol.messages import Json, Order, Report
from fedws.scheduling.base import AsynchronousAlgorithm
from fedws.scheduling.events import Deadline, Event
from fedws.scheduling.participants import STRIKES, Asked, Roster, Terms, excluded, made, rejected, unusable
from fedws.updates import metrics

B = TypeVar("B")


@dataclass(frozen=True)
class AsynchronousState(Generic[B]):
    """Where an asynchronous run stands."""

    model: Tensors
    version: int
    roster: Roster
    buffer: B
    updates: tuple[Json, ...] = ()
    """Worker and staleness of each report in the buffer."""
    numbers: tuple[metrics.Numbers, ...] = ()
    """The numbers of each report in the buffer."""
    reports: int = 0
    """Reports taken since the run began."""
    spoilt: int = 0
    """Times in a row that the buffer was full and no version could be made."""
    record: Json = field(default_factory=dict)
    reason: str = ""
    """Why the run cannot go on."""


def without_rounds(algorithm: object) -> bool:
    """Whether an algorithm is one for :class:`Asynchronous`."""
    return hasattr(algorithm, "add")


class Asynchronous(Generic[B]):
    """A :class:`fedws.scheduling.base.Strategy` of a :class:`fedws.scheduling.base.AsynchronousAlgorithm`.

    There is no barrier: a worker gets its next order, with the newest model, as soon as its answer is in. The
    staleness of a report is the number of versions made since its order.
    """

    def __init__(self, algorithm: AsynchronousAlgorithm[B], terms: Terms) -> None:
        self._algorithm = algorithm
        self._terms = terms
        self.quorum = terms.quorum

    def start(self, model: Tensors, workers: Collection[str]) -> tuple[AsynchronousState[B], Sequence[Order]]:
        """Ask everybody."""
        roster = Roster.of(self._terms.workers, workers)
        return self._ask(AsynchronousState(model, 0, roster, self._algorithm.empty()))

    def resume(
        self, state: AsynchronousState[B], workers: Collection[str]
    ) -> tuple[AsynchronousState[B], Sequence[Order]]:
        """Ask everybody for the order that was lost."""
        return self._ask(replace(state, roster=state.roster.again(workers, self._terms.workers)))

    def react(self, state: AsynchronousState[B], event: Event) -> tuple[AsynchronousState[B], Sequence[Order]]:
        """Take an event; a report may make the next version of the model."""
        if self._ended(state) or isinstance(event, Deadline):
            return state, ()
        roster, asked = state.roster.hear(event)
        if roster is state.roster:
            return state, ()
        state = replace(state, roster=roster)
        if isinstance(event, Report) and asked is not None:
            state = self._take(state, event, asked)
        lacking = state.roster.lacking(self.quorum)
        if lacking and not state.reason:
            state = replace(state, reason=f"version {state.version + 1}: {lacking}")
        return self._ask(state)

    def model(self, state: AsynchronousState[B]) -> Tensors:
        """The newest version."""
        return state.model

    def version(self, state: AsynchronousState[B]) -> int:
        """How many versions were made."""
        return state.version

    def failure(self, state: AsynchronousState[B]) -> str:
        """Why the run cannot go on; empty while it can."""
        return state.reason

    def awaited(self, state: AsynchronousState[B]) -> Sequence[str]:
        """Who is away, while too few are there."""
        enough = self._ended(state) or len(state.roster.present()) >= self.quorum
        return () if enough else state.roster.away()

    def said(self, state: AsynchronousState[B]) -> Sequence[str]:
        """The log lines of the last reaction."""
        return state.roster.said

    def record(self, state: AsynchronousState[B]) -> Json:
        """Of which reports the last version was made: worker and staleness of each."""
        return state.record

    def worker_model(self, state: AsynchronousState[B], report: Report) -> Tensors | None:
        """The worker's own model; None also when its report does not count."""
        if report.order not in state.roster.open or unusable(self._algorithm, state.model, report):
            return None
        return self._algorithm.worker_model(state.model, report)

    def _take(self, state: AsynchronousState[B], report: Report, asked: Asked) -> AsynchronousState[B]:
        """Add a report to the buffer; when it is full, make a version."""
        staleness = state.version - asked.version
        problem = unusable(self._algorithm, state.model, report)
        try:
            buffer = state.buffer if problem else self._algorithm.add(state.model, state.buffer, report, staleness)
        except RejectedUpdate as error:
            problem = str(error)
        if problem:
            return replace(state, roster=state.roster.fail(rejected(report, problem)))
        updates = (*state.updates, {"worker": report.worker, "staleness": staleness})
        numbers = (*state.numbers, metrics.reported(report))
        new = replace(state, buffer=buffer, updates=updates, numbers=numbers, reports=state.reports + 1)
        accepted = replace(new, roster=state.roster.accept(report))
        if len(updates) < self._algorithm.k:
            return accepted
        stepped = self._step(accepted)
        if not isinstance(stepped, str):
            return stepped
        # finite reports may add up to what is not: they are dropped, and the last is rejected
        roster, spoilt = state.roster.fail(rejected(report, stepped)), state.spoilt + 1
        never = spoilt >= STRIKES * len(self._terms.workers)  # those before the last get no strike for it
        reason = f"version {state.version + 1}: the reports do not fit the model: {stepped}" if never else ""
        new = replace(new, buffer=self._algorithm.empty(), updates=(), numbers=())
        return replace(new, roster=roster, spoilt=spoilt, reason=reason)

    def _step(self, state: AsynchronousState[B]) -> AsynchronousState[B] | str:
        """Make a version, or say why that cannot be."""
        model, problem = made(lambda: self._algorithm.step(state.model, state.buffer), state.model)
        if problem:
            return problem
        roster, failed = state.roster.counted()
        record: Json = {"updates": list(state.updates), "answered": len(state.updates), "failed": failed}
        if means := metrics.mean(state.numbers):
            record["metrics"] = means
        out = excluded(roster)
        return replace(
            state,
            model=model,
            version=state.version + 1,
            roster=roster,
            buffer=self._algorithm.empty(),
            updates=(),
            numbers=(),
            spoilt=0,
            record={**record, "excluded": out} if out else record,
        )

    def _ask(self, state: AsynchronousState[B]) -> tuple[AsynchronousState[B], Sequence[Order]]:
        """Give everybody an order who has none, as long as a quorum is there."""
        if self._ended(state) or len(state.roster.present()) < self.quorum:
            return state, ()
        orders, roster = [], state.roster
        round, idle = 1 + state.reports // len(self._terms.workers), roster.idle()
        answer = answer_size.expected(self._algorithm, state.model) if idle else 0
        for worker in idle:
            member = roster.members[worker]
            # asked again until its report is taken: the same order with the same seed
            number = member.round if member.round > member.base else member.round + 1
            ask = self._algorithm.order(state.model, worker, round)
            roster, order = roster.order(worker, number, state.version, self._terms.seed, ask, answer)
            orders.append(order)
        return replace(state, roster=roster), orders

    def _ended(self, state: AsynchronousState[B]) -> bool:
        return bool(state.reason) or state.version >= self._terms.rounds
