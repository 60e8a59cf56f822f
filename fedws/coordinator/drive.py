"""The loop that runs any strategy over links: orders out, answers in, one record a round."""

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Generic, TypeVar

from fedws.coordinator.link import Link
from fedws.coordinator.scoring import Scorer
from fedws.errors import RunFailed
from fedws.interfaces import Strategy
from fedws.messages import Event, Failure, Left, Order, Report
from fedws.plan import Plan
from fedws.runlog import RunLog, log
from fedws.scores import FEDERATED
from fedws.tensors import Tensors

S = TypeVar("S")
T = TypeVar("T")


class Driver(Generic[S]):
    """Drives ``strategy`` over the workers' links until it has no open order."""

    def __init__(
        self, plan: Plan, strategy: Strategy[S], links: Mapping[str, Link], scorer: Scorer | None, runlog: RunLog
    ) -> None:
        self._plan = plan
        self._strategy = strategy
        self._links = links
        self._scorer = scorer
        self._runlog = runlog
        self._scored_workers = set(list(links)[: plan.score_workers])
        self._events: asyncio.Queue[Event] = asyncio.Queue()
        self._open: dict[str, asyncio.Task[None]] = {}
        self._began = 0.0
        self._bytes = (0, 0)
        self._answers = {Report: 0, Failure: 0}
        self.version = 0
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="strategy")
        self.model: Tensors | None = None
        """The federated model after the last complete round; None before the first."""

    async def run(self, initial: Tensors) -> Tensors:
        """Run to the end; gives the final model. Raises RunFailed with the strategy's reason."""
        try:
            self._runlog.lines.say(self._title(1))
            self._begin_round()
            state, orders = await self._think(self._strategy.start, initial, list(self._links))
            self._issue(orders)
            while self._open:
                state = await self._take(state, await self._next_event())
                if self._strategy.failure(state):
                    raise RunFailed(self._strategy.failure(state))
            return self._strategy.model(state)
        finally:
            for task in self._open.values():
                task.cancel()
            await asyncio.gather(*self._open.values(), return_exceptions=True)
            self._thread.shutdown()

    async def _next_event(self) -> Event:
        """The next answer, however long a worker may train; but who is awaited is said."""
        while True:
            try:
                async with asyncio.timeout(self._plan.silence):
                    return await self._events.get()
            except TimeoutError:
                log.info(
                    "Waiting for the answer of %s", ", ".join(sorted(task.get_name() for task in self._open.values()))
                )

    async def _take(self, state: S, event: Event) -> S:
        """Feed one event to the strategy, send what it orders, and keep the record when a round closes."""
        if isinstance(event, Report | Failure):
            self._open.pop(event.order, None)
            self._answers[type(event)] += 1
        before = state
        state, orders = await self._think(self._strategy.react, state, event)
        if isinstance(event, Report) and not self._strategy.failure(state):
            await self._think(self._keep_worker_model, before, event)
        version = self._strategy.version(state)
        if version == self.version:
            self._issue(orders)
            return state
        self.model, self.version = self._strategy.model(state), version
        self._close_round(version)
        self._begin_round()
        self._issue(orders)
        if self._scorer is not None and self._plan.scored(version):
            await self._think(self._scorer.keep, version, FEDERATED, self.model)
            self._scorer.close_round(version, list(self._links))
        if version < self._plan.training_rounds:
            self._runlog.lines.say(self._title(version + 1))
        return state

    def _keep_worker_model(self, state: S, report: Report) -> None:
        if self._scorer is None or not self._plan.scored(report.round) or report.worker not in self._scored_workers:
            return
        model = self._strategy.worker_model(state, report)
        if model is not None:
            self._scorer.keep(report.round, report.worker, model)

    def _issue(self, orders: Sequence[Order]) -> None:
        for order in orders:
            self._open[order.id] = asyncio.create_task(self._carry(order), name=order.worker)

    async def _carry(self, order: Order) -> None:
        """One order to its one answer, whatever happens."""
        answer: Report | Failure
        try:
            answer = await self._links[order.worker].ask(order)
        except Exception as error:  # a bug here must end the run, not leave it waiting
            reason = f"{type(error).__name__}: {error}"
            answer = Failure(order=order.id, worker=order.worker, round=order.round, kind="failed", reason=reason)
        self._events.put_nowait(answer)
        if isinstance(answer, Failure) and answer.kind == "lost":
            self._events.put_nowait(Left(worker=order.worker, reason=answer.reason))

    def _begin_round(self) -> None:
        self._began = time.perf_counter()
        self._answers = {Report: 0, Failure: 0}
        self._bytes = self._transferred()

    def _close_round(self, number: int) -> None:
        sent, received = self._transferred()
        self._runlog.record(
            "round",
            round=number,
            seconds=round(time.perf_counter() - self._began, 6),
            bytes_sent=sent - self._bytes[0],
            bytes_received=received - self._bytes[1],
            answered=self._answers[Report],
            failed=self._answers[Failure],
        )

    def _transferred(self) -> tuple[int, int]:
        channels = [link.channel for link in self._links.values()]
        return sum(channel.sent for channel in channels), sum(channel.received for channel in channels)

    def _title(self, round: int) -> str:
        return f"Training round {round}/{self._plan.training_rounds}"

    async def _think(self, function: Callable[..., T], *arguments: Any) -> T:
        """Run the strategy in a thread of its own, in order, so that links go on while it adds."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, function, *arguments)
