"""A run of any registered algorithm, whose events the test makes; each event is checked against the contract."""

import dataclasses
import math
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from random import Random
from typing import Any, Literal

import pytest
from hypothesis import HealthCheck, settings

from fedws.coordinator.setup import prepare_run
from fedws.core import registry
from fedws.core.plan import build_plan
from fedws.core.tensors import Tensors
from fedws.node.worker import Worker
from fedws.protocol.answer_size import compute_tensors_size
from fedws.protocol.messages import TaskFailure, TaskRequest, TaskResult
from fedws.scheduling.asynchronous import is_asynchronous
from fedws.scheduling.base import Scheduler
from fedws.scheduling.events import Event, WorkerAvailable, WorkerConnected, WorkerDisconnected
from fedws.split_learning.base import is_collect_then_train
from tests.helpers.federation import Points
from tests.helpers.support import sent_over

NAMES = [
    name
    for name in registry.list_pieces("algorithm")
    if not is_collect_then_train(registry.find_piece("algorithm", name))
]
"""Algorithms whose workers train; see ``test_collect_then_train.py`` for the others."""
WORKERS = ("alice", "bob", "charlie", "dora", "emil")
ROUNDS = 3
CALM = settings(deadline=None, max_examples=6, suppress_health_check=[HealthCheck.too_slow])
SHORT = {"fedbuff": "fedbuff:buffer_size=4"}
"""Options of algorithms whose defaults take too many results for a short run."""


def has_rounds(name: str) -> bool:
    return not is_asynchronous(registry.find_piece("algorithm", name))


class Case:
    """An algorithm, and the settings of a run with it."""

    def __init__(self, name: str, workers: int = 3, rounds: int = ROUNDS, seed: int = 1, **more: Any) -> None:
        self.name = name
        self.workers = WORKERS[:workers]
        self.rounds = rounds
        self.seed = seed
        self.more = more

    def __repr__(self) -> str:
        return f"{self.title} with {len(self.workers)} workers, {self.rounds} rounds, seed {self.seed}"

    @property
    def title(self) -> str:
        return ",".join([self.name, *(f"{name}={value}" for name, value in self.more.items())])

    @property
    def whole(self) -> bool:
        """True if every worker takes part in every round."""
        everybody = "sampler" not in self.more and self.more.get("min_results", 0) in (0, len(self.workers))
        return has_rounds(self.name) and everybody

    def made(self) -> tuple[Scheduler[Any], Tensors]:
        """Return the scheduler as a run has it, and the initial model."""
        basis = {"dataset": "points", "model": "points_linear", "batch_size": 8, "max_local_batches": 2}
        run = {"algorithm": SHORT.get(self.name, self.name), "rounds": self.rounds, "seed": self.seed}
        workers = {worker: f"memory://{worker}" for worker in self.workers}
        _, strategy, initial = prepare_run(build_plan({"workers": workers, **basis, **run, **self.more}))
        return strategy, initial


PARTIAL = (
    {"min_results": 2},
    {"sampler": "random:per_round=2"},
    {"sampler": "random:per_round=2", "min_results": 1, "over_selection": 0.5},
)
CASES = [Case(name, **more) for name in NAMES for more in ({}, *(PARTIAL if has_rounds(name) else PARTIAL[:1]))]
every = pytest.mark.parametrize("name", NAMES)
every_way = pytest.mark.parametrize("case", CASES, ids=lambda case: case.title)
Kind = Literal["refused", "failed", "rejected", "lost"]


def answer(order: TaskRequest) -> TaskResult:
    """Return the worker's own answer; request and answer are encoded and decoded on the way."""
    worker = Worker(order.worker, "points", Points(Path(), True))
    found = sent_over(worker.execute(sent_over(order)))
    assert isinstance(found, TaskResult), found
    assert order.max_result_bytes is not None and compute_tensors_size(found.tensors) <= order.max_result_bytes, (
        "its reported(model) is too small"
    )
    return found


def failed(order: TaskRequest, kind: Kind = "failed", reason: str = "the cable was cut", code: Any = "") -> TaskFailure:
    wait = 60.0 if code == "retry_later" else 0.0
    return TaskFailure(
        request_id=order.request_id,
        worker=order.worker,
        round=order.round,
        kind=kind,
        reason=reason,
        code=code,
        retry_after=wait,
    )


def bits(tensors: Tensors) -> dict[str, tuple[Any, ...]]:
    return {name: (tensor.dtype, tensor.shape, tensor.tolist()) for name, tensor in tensors.items()}


def told(order: TaskRequest) -> dict[str, Any]:
    return {**vars(order), "tensors": bits(order.tensors)}


class Run:
    """A run whose events the test makes; it checks the guarantees of the contract after each event."""

    def __init__(self, case: Case, here: Sequence[str] | None = None) -> None:
        self.case = case
        self.strategy, self.initial = case.made()
        self.here = set(case.workers if here is None else here)
        """Workers that the scheduler regards as connected."""
        self.open: dict[str, TaskRequest] = {}
        self.orders: list[TaskRequest] = []
        self.excluded: set[str] = set()
        self.waiting: set[str] = set()
        """Workers that have refused until later."""
        self.history: list[Event] = []
        state, orders = self.strategy.start(self.initial, sorted(self.here))
        self.state = state
        self._hold(orders)

    @property
    def over(self) -> bool:
        return self.ended or bool(self.strategy.failure(self.state))

    @property
    def ended(self) -> bool:
        return self.strategy.version(self.state) >= self.case.rounds

    def take(self, event: Event) -> Sequence[TaskRequest]:
        """Pass an event to the scheduler, and check its requests."""
        strategy, before = self.strategy, self.state
        version, model = strategy.version(before), strategy.model(before)
        if isinstance(event, TaskResult | TaskFailure):
            self.open.pop(event.request_id, None)
        if isinstance(event, WorkerConnected):
            self.here.add(event.worker)
        elif isinstance(event, WorkerDisconnected) or (isinstance(event, TaskFailure) and event.kind == "lost"):
            self.here.discard(event.worker)
        self.history.append(event)
        if isinstance(event, TaskFailure) and event.code == "retry_later":
            self.waiting.add(event.worker)
        elif isinstance(event, WorkerAvailable):
            self.waiting.discard(event.worker)
        self.state, orders = strategy.react(before, event)
        assert version <= strategy.version(self.state) <= version + 1
        if strategy.version(self.state) == version:
            assert strategy.model(self.state) is model, "a model of one version does not change"
        self._hold(orders)
        return orders

    def resume(self, state: Any, here: Sequence[str]) -> Sequence[TaskRequest]:
        """Continue from a stored state."""
        self.here, self.open, self.waiting = set(here), {}, set()
        self.state, orders = self.strategy.resume(state, sorted(here))
        self._hold(orders)
        return orders

    def finish(self, random: Random, reply: Callable[[TaskRequest], TaskResult] | None = None) -> "Run":
        """Let all workers answer, in any order; ``reply`` replaces their answers."""
        while self.open:
            self.take((reply or answer)(self.open[random.choice(sorted(self.open))]))
        return self

    def _hold(self, orders: Sequence[TaskRequest]) -> None:
        said = self.strategy.log_lines(self.state)
        assert all(line and line.isprintable() for line in said)
        busy = {order.worker for order in self.open.values()}
        gone = {worker for worker in self.case.workers if any(line.startswith(f"{worker} is excl") for line in said)}
        self.excluded |= gone
        for order in orders:
            assert order.request_id not in {other.request_id for other in self.orders}, "an id is used once"
            assert order.worker in self.here, "only connected workers get requests"
            assert order.worker not in busy, "a busy worker gets no request"
            assert order.worker not in self.excluded, "an excluded worker gets no request"
            assert order.worker not in self.waiting, "a worker that has refused until later gets no request before"
            assert order.task in registry.list_pieces("task") and bits(order.tensors) == bits(self.model)
            busy.add(order.worker)
            self.open[order.request_id] = order
            self.orders.append(order)
        assert len(self.orders) < 2000, "it makes requests without end"
        reason, awaited = self.strategy.failure(self.state), self.strategy.waiting_for(self.state)
        assert reason.isprintable()
        assert not set(awaited) & (self.here | self.excluded), "the run waits only for disconnected workers"
        if self.over:
            assert not orders and not awaited, "an ended run makes no requests and does not wait"
            assert not (reason and self.ended)
        else:
            waiting = self.waiting & self.here - self.excluded
            assert self.open or awaited or waiting, "a worker must answer, come or have its time, or nothing happens"

    @property
    def model(self) -> Tensors:
        return self.strategy.model(self.state)


# --------------------------------------------------------------------------- runs in which all goes well


@cache
def _by_the_book(name: str, workers: int, rounds: int, seed: int) -> Tensors:
    return Run(Case(name, workers, rounds, seed)).finish(Random(1)).model


def by_the_book(case: Case) -> Tensors:
    """Return the model of a run without faults in which every worker takes part."""
    return _by_the_book(case.name, len(case.workers), case.rounds, case.seed)


# --------------------------------------------------------------------------- runs in which something goes wrong


@cache
def _template(task: str) -> TaskResult:
    orders = [order for name in NAMES for order in Run(Case(name)).orders if order.task == task]
    return answer(orders[0])


def quick(order: TaskRequest) -> TaskResult:
    """Return an answer with the names, shapes and dtypes of the worker's own.

    Its values depend on the seed and the model of the request.
    """
    like = _template(order.task)
    told = sum(float(tensor.double().sum()) for tensor in order.tensors.values())
    shift = (order.seed % 1009 / 1009 + math.sin(told)) / 64
    tensors = {
        key: tensor + shift if tensor.is_floating_point() else tensor.clone() for key, tensor in like.tensors.items()
    }
    return dataclasses.replace(
        like, request_id=order.request_id, worker=order.worker, round=order.round, tensors=tensors
    )


@cache
def _undisturbed(name: str, workers: int, rounds: int) -> Tensors:
    return Run(Case(name, workers, rounds)).finish(Random(1), quick).model


def undisturbed(case: Case) -> Tensors:
    """Return the model of ``by_the_book``, with quick answers."""
    return _undisturbed(case.name, len(case.workers), case.rounds)
