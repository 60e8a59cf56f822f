"""A run under an adversary that moves workers and links, and the expected number of strikes."""

import copy
import dataclasses
import re
from collections.abc import Sequence
from typing import Any

from fedws.core.tensors import Tensors, find_mismatch
from fedws.protocol.messages import TaskFailure, TaskRequest, TaskResult
from fedws.scheduling.events import (
    Event,
    ResponseTimed,
    RoundTimeout,
    WorkerAvailable,
    WorkerConnected,
    WorkerDisconnected,
)
from tests.helpers.contract_run import Case, Kind, Run, bits, failed, has_rounds, quick, told


class World(Run):
    """A run under an adversary that moves workers and links; the scheduler gets its events in their order.

    It is as fair as a network. When a link is lost, its open requests are answered as lost, and then the worker
    disconnects. A request to a worker without a link is answered as lost.
    """

    def __init__(self, case: Case, linked: Sequence[str]) -> None:
        self.linked = set(linked)
        self.queue: list[tuple[Event, bool]] = []
        """Events that the scheduler has not received, each with True if it is an unusable result."""
        self.given: dict[str, TaskRequest] = {}
        """Requests that workers have received and not answered, by id."""
        self.born: dict[str, int] = {}
        """Version of the model at which each request was made."""
        self.count: dict[str, int] = dict.fromkeys(case.workers, 0)
        """Number of consecutive strikes of each worker."""
        self.permanent: set[str] = set()
        """Workers that have refused for the whole run."""
        self.rows: dict[tuple[str, str], int] = {}
        """Consecutive losses or postponements of one request, by worker and kind."""
        self.fruitless: dict[str, int] = dict.fromkeys(case.workers, 0)
        """Number of requests to each worker since the last progress."""
        self.late = self.failed = 0
        """Number of late results since the last version; ``failed`` counts failed requests."""
        self.updates: list[dict[str, Any]] = []
        self.overdue: set[str] | None = None
        """Requests that were open at the round's deadline; None before it."""
        self.crashes = 0
        self.first = frozenset(linked)
        super().__init__(case, linked)
        self._keep()

    # -------------------------------------------------------------- what the adversary can do

    def answer(self, order: TaskRequest, tensors: Tensors | None = None) -> None:
        report = quick(order)
        bad = tensors is not None
        self._answered(order, dataclasses.replace(report, tensors=tensors) if tensors is not None else report, bad)

    def fail(self, order: TaskRequest, kind: Kind, code: str = "") -> None:
        self._answered(order, failed(order, kind, code=code), False)

    def cut(self, worker: str, code: str = "") -> None:
        self.linked.discard(worker)
        for order in [order for order in self.given.values() if order.worker == worker]:
            self.fail(order, "lost", code)
        self.queue.append((WorkerDisconnected(worker=worker, reason="the cable was cut"), False))

    def link(self, worker: str) -> None:
        self.linked.add(worker)
        self.queue.append((WorkerConnected(worker=worker, num_examples=7), False))

    def hear(self) -> None:
        found, bad = self.queue.pop(0)
        order = self.open.get(found.request_id) if isinstance(found, TaskResult | TaskFailure) else None
        version, state = self.strategy.version(self.state), self.state
        late = (
            isinstance(found, TaskResult)
            and order is not None
            and has_rounds(self.case.name)
            and order.round <= version
        )
        if order is not None and late:
            self.late += 1
            if not bad and not self.over:
                self._good(order.worker)
        elif order is not None and not self.over:
            self._expect(order, found, bad)
        rejected = bad and order is not None and not late
        if rejected and order is not None:
            assert isinstance(found, TaskResult)
            own = self.strategy.worker_model(state, found)
            assert own is None or find_mismatch(own, self.initial) == ""
            other = self.strategy.react(copy.deepcopy(state), failed(order, "rejected"))
        orders = self.take(found)
        if isinstance(found, TaskFailure) and order is not None and not self.ended:
            said = any(
                re.search("lost (3 times while|10 times during)", line) for line in self.strategy.log_lines(self.state)
            )
            row = {self.rows.get((found.worker, what)) for what in ("lost", "cut")}
            assert said == (found.kind == "lost" and row <= {0, None} and found.code != "transfer_progressed")
        if rejected:
            assert [told(order) for order in other[1]] == [told(order) for order in orders]
            assert bits(self.strategy.model(other[0])) == bits(self.model), "a report that is rejected moves nothing"
        if self.strategy.version(self.state) > version:
            self._closed(orders)
        assert self.overdue is None or self.over or len(self.updates) < self.strategy.min_results, (
            "its time was up before"
        )

    def time_is_up(self, version: int) -> None:
        before, now = self.state, self.strategy.version(self.state)
        if version == now and has_rounds(self.case.name):
            self.overdue = set(self.open)
        orders = self.take(RoundTimeout(version=version))
        if version < now:
            assert self.state is before and not orders, "its time was up when the version was made"
        if self.strategy.version(self.state) > now:
            self._closed(orders)
        assert self.overdue is None or self.over or len(self.updates) < self.strategy.min_results, "a quorum was enough"

    def crash(self) -> None:
        """Continue from the last checkpoint; everything since then is lost, and no event is repeated."""
        self.crashes += 1
        state, asked, self.excluded, self.count, self.permanent = copy.deepcopy(self.stored)
        self.rows, self.fruitless = {}, dict.fromkeys(self.case.workers, 0)
        self.late, self.failed, self.updates, self.overdue = 0, 0, [], None
        self.orders = self.orders[:asked]
        self.given, self.queue = {}, []
        self.linked = set(self.case.workers) if self.crashes % 2 else self.linked
        self.resume(state, sorted(self.linked))

    def repeat(self, number: int) -> None:
        """Check that a second answer to the same request changes nothing."""
        answers = (found for found in self.history if isinstance(found, TaskResult | TaskFailure))
        heard = [found for found in answers if found.request_id not in self.open]
        if heard:
            assert self.strategy.react(self.state, heard[number % len(heard)]) == (self.state, ())

    def probe(self) -> None:
        """Check that the run waits for workers only if it cannot continue with the answers of those connected."""
        strategy, open_orders, asked = self.strategy, list(self.open.values()), 0
        awaited, state = strategy.waiting_for(self.state), copy.deepcopy(self.state)
        for worker in sorted(self.waiting):
            state, orders = strategy.react(state, WorkerAvailable(worker=worker))
            open_orders += orders
            asked += len(orders)
        while open_orders:
            state, orders = strategy.react(state, quick(open_orders.pop(0)))
            open_orders += orders
            asked += len(orders)
        further = strategy.version(state) > strategy.version(self.state)
        if not awaited:
            assert self.over or further
        elif has_rounds(self.case.name):
            assert not further
        else:
            assert not asked, "what was asked before may still be enough"

    def fair(self) -> None:
        """Connect all workers, and let them answer until the run ends."""
        for worker in self.case.workers:
            if worker not in self.linked:
                self.link(worker)
        while not self.over:
            if self.queue:
                self.hear()
            elif self.given:
                self.answer(next(iter(self.given.values())))
            else:
                assert self.waiting, "with every worker there, one has an order"
                self.take(WorkerAvailable(worker=min(self.waiting)))

    # -------------------------------------------------------------- what is expected

    def _hold(self, orders: Sequence[TaskRequest]) -> None:
        round_number = self.strategy.version(self.state) + 1
        if has_rounds(self.case.name) and orders and any(order.round == round_number for order in self.orders):
            working = [
                request_id
                for request_id, order in self.open.items()
                if order.round == round_number and request_id not in (self.overdue or ())
            ]
            assert len(self.updates) + len(working) < self.strategy.min_results, "nobody else is asked without need"
        super()._hold(orders)
        for order in orders:
            before = [
                other for other in self.orders if other.worker == order.worker and other.request_id != order.request_id
            ]
            if before and before[-1].round != order.round:
                self._row_ends(order.worker)
            self.fruitless[order.worker] += 1
            assert self.fruitless[order.worker] <= FRUITLESS, "it asks without progress"
            self.born[order.request_id] = self.strategy.version(self.state)
            self.given[order.request_id] = order
            if order.worker not in self.linked:
                self.fail(order, "lost")
        struck = {worker for worker, strikes in self.count.items() if strikes >= 3}
        assert self.excluded == struck | self.permanent, "three strikes, or a permanent refusal, and nothing else"

    def _answered(self, order: TaskRequest, found: TaskResult | TaskFailure, bad: bool) -> None:
        del self.given[order.request_id]
        self.queue += [(ResponseTimed(worker=order.worker, seconds=1.0), False), (found, bad)]

    def _expect(self, order: TaskRequest, found: Event, bad: bool) -> None:
        if isinstance(found, TaskResult) and not bad:
            self._good(order.worker)
            staleness = self.strategy.version(self.state) - self.born[order.request_id]
            self.updates.append({"worker": order.worker, "staleness": staleness})
        else:
            self.failed += 1
            self.count[order.worker] += self._strikes(order.worker, found)

    def _strikes(self, worker: str, found: Event) -> bool:
        """Return whether a bad answer is a strike, according to a table that is independent of the product."""
        if not isinstance(found, TaskFailure):
            return True
        if found.code == "permanent":
            self.permanent.add(worker)
            return False
        if found.kind != "lost" and found.code != "retry_later":
            return True
        if found.code == "transfer_progressed":
            self.fruitless[worker] = 0
            self.rows.pop((worker, "lost"), None)
            self.rows.pop((worker, "cut"), None)
            return False
        what, most = {"": ("lost", 3), "transfer_interrupted": ("cut", 10), "retry_later": ("refused", 3)}[found.code]
        self.rows[worker, what] = self.rows.get((worker, what), 0) + 1
        if self.rows[worker, what] < most:
            return False
        for row in ("lost", "cut") if what != "refused" else (what,):
            self.rows[worker, row] = 0
        return True

    def _good(self, worker: str) -> None:
        self.count[worker] = self.fruitless[worker] = 0
        self._row_ends(worker)

    def _row_ends(self, worker: str) -> None:
        self.rows = {what: row for what, row in self.rows.items() if what[0] != worker}

    def _closed(self, orders: Sequence[TaskRequest]) -> None:
        """Check the record of a new version."""
        version, record = self.strategy.version(self.state), self.strategy.record(self.state)
        assert set(record.get("excluded", {})) == self.excluded
        assert (record["num_results"], record["num_failures"]) == (len(self.updates), self.failed)
        if has_rounds(self.case.name):
            asked = {order.worker for order in self.orders if order.round == version}
            reported = {update["worker"] for update in self.updates}
            assert record["num_late"] == self.late
            assert set(record["cohort"]) >= asked if self.crashes else set(record["cohort"]) == asked
            assert set(record["missing_workers"]) == set(record["cohort"]) - reported
            assert len(reported) == len(self.updates) >= self.strategy.min_results
        else:
            assert (record["updates"], record["version"]) == (self.updates, version)
        self.late, self.failed, self.updates, self.overdue = 0, 0, [], None
        self.fruitless = dict.fromkeys(self.case.workers, 0)
        self._keep()

    def _keep(self) -> None:
        self.stored = copy.deepcopy((self.state, len(self.orders), self.excluded, self.count, self.permanent))


FRUITLESS = 3 * (2 + 9 + 2 + 1)
"""Largest number of requests to one worker without a result, a version or progress of a transfer.

Before each of three strikes there may be two losses, nine losses in transfer and two refusals until later.
"""
