"""Collects the answers of a round: makes a Strategy of any round-based algorithm."""

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
from random import Random
from typing import Generic, TypeVar

from fedws.core.errors import RejectedUpdate
from fedws.core.tensors import Tensors
from fedws.protocol import answer_size
from fedws.protocol.messages import Json, Order, Report
from fedws.scheduling.base import Chooser, RoundAlgorithm
from fedws.scheduling.events import Deadline, Event
from fedws.scheduling.participants import Roster, Terms, excluded, made, rejected, unusable
from fedws.updates import metrics
from fedws.updates.base import Aggregator

A = TypeVar("A")


@dataclass(frozen=True)
class RoundState(Generic[A]):
    """Where a round-based run stands."""

    model: Tensors
    roster: Roster
    round: int
    """The round being collected, from 1; one past the last when the run is done."""
    cohort: tuple[str, ...]
    """Who is asked in this round; empty while too few are there to begin it."""
    size: int
    """So many reports close the round at once: the cohort without those selected over."""
    reported: tuple[str, ...]
    sum: A
    numbers: tuple[metrics.Numbers, ...] = ()
    """The numbers of each report in ``reported``."""
    due: bool = False
    """Whether the round's time is up: it closes with a quorum."""
    overdue: tuple[str, ...] = ()
    """Ids of its orders that were open then; they stay good, but nobody relies on them."""
    late: int = 0
    """Reports that came after their round was closed, and were dropped; since the last record."""
    record: Json = field(default_factory=dict)
    reason: str = ""
    """Why the run cannot go on."""


class Rounds(Generic[A]):
    """A :class:`fedws.scheduling.base.Strategy` of a :class:`fedws.scheduling.base.RoundAlgorithm`.

    A round closes when the cohort's size is reached, or when every order is answered or its time is up and a quorum
    has reported. With fewer, those missing are asked again as soon as they can be. Reports are aggregated as they
    arrive; an answer to an order of a closed round is dropped here, and counted.
    """

    def __init__(self, algorithm: RoundAlgorithm, aggregator: Aggregator[A], chooser: Chooser, terms: Terms) -> None:
        self._algorithm = algorithm
        self._aggregator = aggregator
        self._chooser = chooser
        self._terms = terms
        self.quorum = terms.quorum

    # ------------------------------------------------------------------ what the run sees

    def start(self, model: Tensors, workers: Collection[str]) -> tuple[RoundState[A], Sequence[Order]]:
        """Ask the first cohort."""
        roster = Roster.of(self._terms.workers, workers)
        return self._begin(RoundState(model, roster, 1, (), 0, (), self._aggregator.empty()))

    def resume(self, state: RoundState[A], workers: Collection[str]) -> tuple[RoundState[A], Sequence[Order]]:
        """Ask the cohort of the round that was going on, all over; with other workers, choose it again."""
        roster = state.roster.again(workers, self._terms.workers)
        if roster.members.keys() != state.roster.members.keys():
            state = replace(state, cohort=())
        if state.reason or state.round > self._terms.rounds:
            return replace(state, roster=roster), ()
        if state.cohort:
            roster = roster.say(self._title(state.round))
        state = replace(state, roster=roster, due=False, overdue=())
        state = replace(state, reported=(), sum=self._aggregator.empty(), numbers=())
        return self._go_on(state)

    def react(self, state: RoundState[A], event: Event) -> tuple[RoundState[A], Sequence[Order]]:
        """Take an event; when it closes the round, step and begin the next."""
        if state.reason or state.round > self._terms.rounds:
            return state, ()
        if isinstance(event, Deadline):
            return self._time_is_up(state) if event.version == state.round - 1 else (state, ())
        roster, asked = state.roster.hear(event)
        if roster is state.roster:
            return state, ()
        state = replace(state, roster=roster)
        if isinstance(event, Report) and asked is not None:
            state = self._drop(state, event) if asked.round < state.round else self._count(state, event)
        return self._go_on(state)

    def model(self, state: RoundState[A]) -> Tensors:
        """The model after the last complete round."""
        return state.model

    def version(self, state: RoundState[A]) -> int:
        """Complete rounds."""
        return state.round - 1

    def failure(self, state: RoundState[A]) -> str:
        """Why the run cannot go on; empty while it can."""
        return state.reason

    def awaited(self, state: RoundState[A]) -> Sequence[str]:
        """Who is away, while those who are there cannot make a quorum."""
        if state.reason or state.round > self._terms.rounds:
            return ()
        away = state.roster.away()
        can = [worker for worker in state.roster.present() if worker not in state.reported]
        if len(state.reported) + len(can) >= self.quorum:
            return ()
        return [worker for worker in away if worker not in state.reported]

    def said(self, state: RoundState[A]) -> Sequence[str]:
        """The log lines of the last reaction."""
        return state.roster.said

    def record(self, state: RoundState[A]) -> Json:
        """Who was asked in the last complete round, and how many answers came too late."""
        return state.record

    def worker_model(self, state: RoundState[A], report: Report) -> Tensors | None:
        """The worker's own model of this round; None also when its report does not count."""
        asked = state.roster.open.get(report.order)
        if asked is None or asked.round != state.round or unusable(self._algorithm, state.model, report):
            return None
        return self._algorithm.worker_model(state.model, report)

    # ------------------------------------------------------------------ a round

    def _begin(self, state: RoundState[A]) -> tuple[RoundState[A], Sequence[Order]]:
        """Choose the next cohort, as soon as a quorum can be asked."""
        idle = len(state.roster.idle())
        if idle < self.quorum:
            return state, ()
        size = min(self._chooser.size(len(self._terms.workers)), idle)
        most = size + math.ceil(round(self._terms.over_select * size, 9))  # 1.1 times 50 is above 55
        cohort = tuple(self._rank(state))[:most]
        roster = state.roster.say(self._title(state.round))
        return self._ask(replace(state, roster=roster, cohort=cohort, size=size), cohort)

    def _rank(self, state: RoundState[A]) -> Sequence[str]:
        random = Random(f"{self._terms.seed}/{state.round}")
        return self._chooser.rank(state.roster.candidates(state.round), random)

    def _count(self, state: RoundState[A], report: Report) -> RoundState[A]:
        """Take a report of this round."""
        problem = unusable(self._algorithm, state.model, report)
        try:
            sum = state.sum if problem else self._aggregator.add(state.sum, report)
        except RejectedUpdate as error:
            problem = str(error)
        if problem:
            return replace(state, roster=state.roster.fail(rejected(report, problem)))
        state = replace(state, numbers=(*state.numbers, metrics.reported(report)))
        reported = (*state.reported, report.worker)
        return replace(state, sum=sum, reported=reported, roster=state.roster.accept(report))

    def _drop(self, state: RoundState[A], report: Report) -> RoundState[A]:
        """Count a report that came after its round was closed; if it is good it still ends a row of strikes."""
        good = not unusable(self._algorithm, state.model, report)
        roster = state.roster.good(report.worker) if good else state.roster
        return replace(state, roster=roster, late=state.late + 1)

    def _go_on(self, state: RoundState[A]) -> tuple[RoundState[A], Sequence[Order]]:
        """Close the round if it can be closed, or ask again where that is needed and possible."""
        lacking = state.roster.lacking(self.quorum)
        if lacking:
            return replace(state, reason=f"round {state.round}: {lacking}"), ()
        if not state.cohort:
            return self._begin(state)
        orders = [order for order, asked in state.roster.open.items() if asked.round == state.round]
        working = [order for order in orders if order not in state.overdue]
        enough = len(state.reported) >= self.quorum
        if len(state.reported) >= state.size or (enough and (state.due or not working)):
            return self._close(state)
        if len(state.reported) + len(working) >= self.quorum:
            return state, ()
        state = self._recruit(state)
        idle = set(state.roster.idle())
        if working:  # who has just refused or failed is given until then
            idle -= {worker for worker in idle if state.roster.failed(worker, state.round)}
        missing = [worker for worker in state.cohort if worker in idle and worker not in state.reported]
        return self._ask(state, missing)

    def _recruit(self, state: RoundState[A]) -> RoundState[A]:
        """Put others beside those who are away, excluded or overdue, where they leave too few for a quorum."""
        open = {asked.worker for order, asked in state.roster.open.items() if order in state.overdue}
        able = set(state.roster.able()) - open | set(state.reported)
        others = [worker for worker in self._rank(state) if worker not in state.cohort]
        lacking = self.quorum - sum(worker in able for worker in state.cohort)
        return replace(state, cohort=(*state.cohort, *others[: max(0, lacking)]))

    def _time_is_up(self, state: RoundState[A]) -> tuple[RoundState[A], Sequence[Order]]:
        if not state.cohort:
            return state, ()
        missing = [worker for worker in state.cohort if worker not in state.reported]
        here = f"Round {state.round}: {len(state.reported)} of {len(state.cohort)} reports at the deadline"
        roster = replace(state.roster, said=(f"{here}; missing: {', '.join(missing)}",))
        overdue = tuple(order for order, asked in roster.open.items() if asked.round == state.round)
        return self._go_on(replace(state, roster=roster, due=True, overdue=overdue))

    def _ask(self, state: RoundState[A], workers: Collection[str]) -> tuple[RoundState[A], Sequence[Order]]:
        orders, roster = [], state.roster
        answer = answer_size.expected(self._algorithm, state.model) if workers else 0
        for worker in workers:
            ask = self._algorithm.order(state.model, worker, state.round)
            roster, order = roster.order(worker, state.round, state.round - 1, self._terms.seed, ask, answer)
            orders.append(order)
        return replace(state, roster=roster), orders

    def _close(self, state: RoundState[A]) -> tuple[RoundState[A], Sequence[Order]]:
        """Step to the next model, and begin the next round."""
        aggregated = self._aggregator.result(state.sum)
        model, problem = made(lambda: self._algorithm.step(state.model, aggregated, state.round), state.model)
        if problem:
            return replace(state, reason=f"round {state.round}: the reports do not fit the model: {problem}"), ()
        missing = [worker for worker in state.cohort if worker not in state.reported]
        roster, failed = state.roster.counted()
        record: Json = {"cohort": list(state.cohort), "missing": missing}
        record |= {"answered": len(state.reported), "failed": failed, "late": state.late}
        if means := metrics.mean(state.numbers):
            record["metrics"] = means
        out = excluded(roster)
        state = replace(
            state,
            model=model,
            roster=roster,
            round=state.round + 1,
            cohort=(),
            reported=(),
            sum=self._aggregator.empty(),
            numbers=(),
            due=False,
            overdue=(),
            late=0,
            record={**record, "excluded": out} if out else record,
        )
        return self._begin(state) if state.round <= self._terms.rounds else (state, ())

    def _title(self, round: int) -> str:
        return f"Training round {round}/{self._terms.rounds}"
