"""The loop that runs any strategy over links: orders out, answers in, a checkpoint and a record for each version."""

import asyncio
import math
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any, Generic, TypeVar

from fedws.coordinator.evaluation import Scorer
from fedws.coordinator.fleet import Fleet, clock
from fedws.coordinator.one_time_log import Remarks
from fedws.core.durations import duration
from fedws.core.errors import RejectedUpdate, RunFailed
from fedws.core.plan import Plan
from fedws.core.tensors import Tensors
from fedws.protocol.messages import COORDINATOR, Order, Report
from fedws.recording.checkpoint import Checkpoint, Checkpoints
from fedws.recording.run_log import RunLog, log
from fedws.recording.score_lines import FEDERATED
from fedws.scheduling.base import Strategy
from fedws.scheduling.events import Deadline, Event, Joined
from fedws.scheduling.participants import rejected
from fedws.split_learning.feature_store import FeatureStore
from fedws.split_learning.scheduler import Gathering
from fedws.split_learning.scheduler_state import GatheringState

S = TypeVar("S")
T = TypeVar("T")


class Driver(Generic[S]):
    """Drives ``strategy`` over a fleet until it has made its last version of the model, or cannot go on."""

    def __init__(
        self,
        plan: Plan,
        strategy: Strategy[S],
        fleet: Fleet,
        scorer: Scorer | None,
        runlog: RunLog,
        checkpoints: Checkpoints,
        remarks: Remarks,
        store: FeatureStore | None = None,
    ) -> None:
        self._plan = plan
        self._strategy = strategy
        self._fleet = fleet
        self._scorer = scorer
        self._runlog = runlog
        self._checkpoints = checkpoints
        self._remarks = remarks
        self._store = store
        self._scored_workers = set(list(fleet.links)[: plan.score_workers])
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="strategy")
        self._began = 0.0
        self._bytes = (0, 0)
        self._deadline = math.inf
        self._lost = math.inf
        """When the quorum is given up."""
        self._told = math.inf
        """When it is said who is awaited; all by the loop's clock."""
        self.version = 0
        self.model: Tensors | None = None
        """The newest version of the model; None before the first."""

    async def run(self, initial: Tensors, here: Collection[str], stored: Checkpoint | None = None) -> Tensors:
        """Run to the end, from ``stored`` or from the start; gives the model.

        Raises RunFailed with the strategy's reason, or naming who was awaited.
        """
        try:
            self._begin_version()
            lines: Sequence[str] = ()
            if stored is None:
                state, orders = await self._think(self._strategy.start, initial, here)
                self._remarks.begin(orders, self._plan)  # before the checkpoint, so that a resumed run has it once
                await self._save(state)
            else:
                self.version = self._strategy.version(stored.state)
                self.model = self._strategy.model(stored.state) if self.version else None
                if not stored.extra.get("said"):
                    lines = self._strategy.said(stored.state)  # said after the checkpoint, and so cut off
                state = stored.state
                if self._store is not None and isinstance(state, GatheringState):
                    state = state.found(self._store.chunks())
                state, orders = await self._think(self._strategy.resume, state, here)
            self._runlog.lines.say(*dict.fromkeys([*lines, *self._strategy.said(state)]))
            self._issue(orders)
            while self.version < self._plan.training_rounds:
                if self._strategy.failure(state):
                    raise RunFailed(self._strategy.failure(state))
                state = await self._take(state, await self._next(state))
            return self._strategy.model(state)
        finally:
            self._thread.shutdown()

    async def _next(self, state: S) -> Event:
        """The next event, however long a worker may train; who is awaited is said, and a lost quorum has its time."""
        loop, silence = asyncio.get_running_loop(), self._plan.silence
        if self._fleet.heard and loop.time() < self._deadline:  # before anything is said of waiting
            return await self._fleet.next()
        awaited = self._strategy.awaited(state)
        if not awaited:
            self._lost = math.inf
        elif self._lost == math.inf:
            self._lost = loop.time() + silence
            bound = "" if self._plan.wait == "forever" else f", at most {silence:g} s; then the run ends"
            self._runlog.lines.say(f"Waiting for {', '.join(awaited)}{bound}")
        while True:
            until = min(self._told, self._deadline, self._lost if self._plan.wait != "forever" else math.inf)
            try:
                async with asyncio.timeout_at(until):
                    return await self._fleet.next()
            except TimeoutError:
                now = loop.time()
            stood = now - until
            if stood > silence / 30:  # this process was stopped: that time is nobody's
                self._told, self._deadline, self._lost = (at + stood for at in (self._told, self._deadline, self._lost))
            if now >= self._deadline:
                self._deadline += self._plan.deadline
                return Deadline(version=self.version)
            if now >= self._lost and self._plan.wait != "forever":
                raise RunFailed(self._fleet.unreached(set(awaited)))
            if now >= self._told:
                self._told = now + silence
                if self._fleet.waiting:
                    log.info("Waiting for the answer of %s", ", ".join(self._fleet.waiting))
                for worker, left in self._fleet.postponed.items():
                    log.info("Waiting for %s, which gets its next request in %s", worker, duration(left))

    async def _take(self, before: S, event: Event) -> S:
        """Feed one event to the strategy, send what it orders, and keep the record when it has made a version."""
        if isinstance(event, Joined):
            self._runlog.know(self._fleet.groups)
        if self._store is not None:
            event = await self._think(self._put_away, self._store, before, event)
        state, orders = await self._think(self._strategy.react, before, event)
        if isinstance(event, Report):
            self._remarks.hear(event.metrics)
            await self._think(self._keep_worker_model, before, event)
        version = self._strategy.version(state)
        if version == self.version:
            if isinstance(state, GatheringState) and isinstance(before, GatheringState) and state.passes(before):
                await self._save(state)
            if state is not before:
                self._go_on(state, orders)
            return state
        self.model, self.version = self._strategy.model(state), version
        record = self._record(self._strategy.record(state))
        self._begin_version()
        self._issue(orders)
        if self._scorer is not None and self._plan.scored(version):
            await self._think(self._scorer.keep, version, FEDERATED, self.model)
            self._scorer.close_round(version, list(self._fleet.links))
        self._runlog.record("round", **record)
        await self._save(state)
        self._runlog.lines.say(*self._strategy.said(state))
        return state

    def _put_away(self, store: FeatureStore, state: S, event: Event) -> Event:
        """Store the features of a report before the strategy hears of it, and needs them no more."""
        if not isinstance(event, Report):
            return event
        assert isinstance(self._strategy, Gathering)
        try:
            place = self._strategy.chunk(state, event)
        except RejectedUpdate as error:
            return rejected(event, str(error))
        if place is None:
            return event
        store.put(*place, event.tensors)
        return replace(event, tensors={})

    def _go_on(self, state: S, orders: Sequence[Order]) -> None:
        self._runlog.lines.say(*self._strategy.said(state))
        self._issue(orders)

    def _issue(self, orders: Sequence[Order]) -> None:
        for order in orders:
            self._fleet.give(order)
        if self._deadline == math.inf and any(order.worker != COORDINATOR for order in orders):
            self._deadline = asyncio.get_running_loop().time() + self._plan.deadline

    def _keep_worker_model(self, state: S, report: Report) -> None:
        version = self._strategy.version(state) + 1
        if self._scorer is None or not self._plan.scored(version) or report.worker not in self._scored_workers:
            return
        model = self._strategy.worker_model(state, report)
        if model is not None:
            self._scorer.keep(version, report.worker, model)

    async def _save(self, state: S) -> None:
        """Store the state: what was complete before this call survives whatever happens to this process."""
        place = self._runlog.place()
        await self._think(self._runlog.sync)
        await self._think(self._checkpoints.save, self.version, state, place)

    def _begin_version(self) -> None:
        self._began = clock()
        self._bytes = self._fleet.transferred
        self._deadline = math.inf
        self._told = asyncio.get_running_loop().time() + self._plan.silence

    def _record(self, told: dict[str, Any]) -> dict[str, Any]:
        """What the record says of the version that is complete; a line says whose reports made an asynchronous one."""
        if "updates" in told:
            of = ", ".join(f"{update['worker']} (staleness {update['staleness']})" for update in told["updates"])
            self._runlog.lines.say(f"Model version {self.version}/{self._plan.training_rounds}: {of}")
        sent, received = self._fleet.transferred
        return {
            "round": self.version,
            "version": self.version,
            "seconds": round(clock() - self._began, 6),
            "bytes_sent": sent - self._bytes[0],
            "bytes_received": received - self._bytes[1],
            **told,
        }

    async def _think(self, function: Callable[..., T], *arguments: Any) -> T:
        """Run the strategy in a thread of its own, in order, so that links go on while it adds."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, function, *arguments)
