"""Collects the answers of a round: makes a Strategy of any round-based algorithm."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Generic, TypeVar

from fedws.errors import RejectedUpdate
from fedws.interfaces import Aggregator, RoundAlgorithm
from fedws.learning import order_seed
from fedws.messages import Event, Failure, Order, Report
from fedws.tensors import Tensors, difference

A = TypeVar("A")


@dataclass(frozen=True)
class RoundState(Generic[A]):
    """Where a round-based run stands."""

    model: Tensors
    workers: tuple[str, ...]
    round: int
    """The round being collected, from 1; one past the last when the run is done."""
    waiting: tuple[str, ...]
    """Ids of the orders not yet answered."""
    sum: A
    reason: str = ""
    """Why the run cannot go on."""


class Rounds(Generic[A]):
    """A :class:`fedws.interfaces.Strategy`: every worker is asked each round, and every answer is needed.

    Reports are aggregated as they arrive. An answer to an order that is not open is dropped. A failure ends the
    run, naming the worker.
    """

    def __init__(self, algorithm: RoundAlgorithm, aggregator: Aggregator[A], rounds: int, seed: int) -> None:
        self._algorithm = algorithm
        self._aggregator = aggregator
        self._rounds = rounds
        self._seed = seed

    def start(self, model: Tensors, workers: Sequence[str]) -> tuple[RoundState[A], Sequence[Order]]:
        """Ask every worker for round 1."""
        return self._ask(RoundState(model, tuple(workers), 1, (), self._aggregator.empty()))

    def react(self, state: RoundState[A], event: Event) -> tuple[RoundState[A], Sequence[Order]]:
        """Take an answer; when it is the round's last, step and ask for the next round."""
        if not isinstance(event, Report | Failure) or event.order not in state.waiting or state.reason:
            return state, ()
        if isinstance(event, Failure):
            return replace(state, reason=f"round {event.round}: {event.worker}: {event.reason}"), ()
        try:
            own = self._algorithm.worker_model(state.model, event)  # what comes first need not be what fits
            problem = "" if own is None else difference(own, state.model)
            if problem:
                raise RejectedUpdate(problem)
            sum = self._aggregator.add(state.sum, event)
        except RejectedUpdate as error:
            return replace(state, reason=f"round {event.round}: {event.worker}: its report was rejected: {error}"), ()
        waiting = tuple(order for order in state.waiting if order != event.order)
        state = replace(state, sum=sum, waiting=waiting)
        if waiting:
            return state, ()
        try:
            model = self._algorithm.step(state.model, self._aggregator.result(sum), state.round)
            problem = difference(model, state.model)
        except RejectedUpdate as error:
            problem = str(error)
        if problem:
            return replace(state, reason=f"round {state.round}: the reports do not fit the model: {problem}"), ()
        state = replace(state, model=model, round=state.round + 1, sum=self._aggregator.empty())
        return self._ask(state) if state.round <= self._rounds else (state, ())

    def model(self, state: RoundState[A]) -> Tensors:
        """The model after the last complete round."""
        return state.model

    def version(self, state: RoundState[A]) -> int:
        """Complete rounds."""
        return state.round - 1

    def failure(self, state: RoundState[A]) -> str:
        """Why the run cannot go on; empty while it can."""
        return state.reason

    def worker_model(self, state: RoundState[A], report: Report) -> Tensors | None:
        """The worker's own model of this round; None also when its report does not fit."""
        try:
            return self._algorithm.worker_model(state.model, report)
        except RejectedUpdate:
            return None

    def _ask(self, state: RoundState[A]) -> tuple[RoundState[A], Sequence[Order]]:
        orders = []
        for worker in state.workers:
            ask = self._algorithm.order(state.model, worker, state.round)
            orders.append(
                Order(
                    id=f"{state.round}/{worker}",
                    worker=worker,
                    round=state.round,
                    task=ask.task,
                    seed=order_seed(self._seed, worker, state.round),
                    settings=ask.settings,
                    tensors=ask.tensors,
                )
            )
        return replace(state, waiting=tuple(order.id for order in orders)), orders
