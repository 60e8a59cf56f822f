"""Every registered strategy: a pure machine that ends, with a model or with a reason, whatever happens to its workers.

Beside single promises there is one property over random schedules, :func:`test_a_run_ends_under_any_schedule`.
"""

import copy
import dataclasses
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from random import Random
from typing import Any, Literal

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fedws.coordinator.setup import prepare_run
from fedws.core import registry
from fedws.core.plan import build_plan
from fedws.core.tensors import Tensors, find_mismatch, find_nonfinite
from fedws.node.worker import Worker
from fedws.protocol.answer_size import compute_tensors_size
from fedws.protocol.messages import TaskFailure, TaskRequest, TaskResult
from fedws.scheduling.asynchronous import is_asynchronous
from fedws.scheduling.base import Scheduler
from fedws.scheduling.events import (
    Event,
    ResponseTimed,
    RoundTimeout,
    WorkerAvailable,
    WorkerConnected,
    WorkerDisconnected,
)
from fedws.split_learning.base import is_collect_then_train
from tests.helpers.federation import Points, registered
from tests.helpers.support import sent_over

NAMES = [
    name
    for name in registry.list_pieces("algorithm")
    if not is_collect_then_train(registry.find_piece("algorithm", name))
]
"""Those whose workers train; see ``test_collect_then_train.py`` for the others."""
WORKERS = ("alice", "bob", "charlie", "dora", "emil")
ROUNDS = 3
CALM = settings(deadline=None, max_examples=6, suppress_health_check=[HealthCheck.too_slow])
SHORT = {"fedbuff": "fedbuff:buffer_size=4"}
"""Of a strategy whose default takes too many reports for a short run."""


def has_rounds(name: str) -> bool:
    return not is_asynchronous(registry.find_piece("algorithm", name))


class Case:
    """A strategy, and the settings of a run with it."""

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
        """Whether every worker has a part in every round."""
        everybody = "sampler" not in self.more and self.more.get("min_results", 0) in (0, len(self.workers))
        return has_rounds(self.name) and everybody

    def made(self) -> tuple[Scheduler[Any], Tensors]:
        """The strategy as a run has it, and the model it begins with."""
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


@pytest.fixture(autouse=True, scope="module")
def _points() -> Iterator[None]:
    with registered():
        yield


def answer(order: TaskRequest) -> TaskResult:
    """What the worker itself answers, there and back over the wire."""
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
    """A run whose events the test makes. Whatever they are, these promises are held at every moment."""

    def __init__(self, case: Case, here: Sequence[str] | None = None) -> None:
        self.case = case
        self.strategy, self.initial = case.made()
        self.here = set(case.workers if here is None else here)
        """Who is there, as far as the strategy has heard."""
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
        """Let it react."""
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
        """Go on from a stored state."""
        self.here, self.open, self.waiting = set(here), {}, set()
        self.state, orders = self.strategy.resume(state, sorted(here))
        self._hold(orders)
        return orders

    def finish(self, random: Random, reply: Callable[[TaskRequest], TaskResult] | None = None) -> "Run":
        """Everybody answers, in any order; ``reply`` instead of the worker."""
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
            assert order.worker in self.here, "only who is there is asked"
            assert order.worker not in busy, "who is busy is not asked"
            assert order.worker not in self.excluded, "who is excluded is not asked"
            assert order.worker not in self.waiting, "who has refused until later is not asked before"
            assert order.task in registry.list_pieces("task") and bits(order.tensors) == bits(self.model)
            busy.add(order.worker)
            self.open[order.request_id] = order
            self.orders.append(order)
        assert len(self.orders) < 2000, "it asks on and on"
        reason, awaited = self.strategy.failure(self.state), self.strategy.waiting_for(self.state)
        assert reason.isprintable()
        assert not set(awaited) & (self.here | self.excluded), "who is awaited is away"
        if self.over:
            assert not orders and not awaited, "a run that is over asks nobody and waits for nobody"
            assert not (reason and self.ended)
        else:
            waiting = self.waiting & self.here - self.excluded
            assert self.open or awaited or waiting, "a worker must answer, come or have its time, or nothing happens"

    @property
    def model(self) -> Tensors:
        return self.strategy.model(self.state)


# --------------------------------------------------------------------------- runs in which all goes well


@every_way
@CALM
@given(random=st.randoms(use_true_random=False))
def test_it_ends_with_a_model_however_the_answers_come(case: Case, random: Random) -> None:
    run = Run(case).finish(random)
    assert run.ended and not run.excluded
    assert find_mismatch(run.model, run.initial) == "" and find_nonfinite(run.model) == ""
    assert any(not torch.equal(run.model[key], run.initial[key]) for key in run.model), "it has learnt something"
    if case.whole:
        assert bits(run.model) == bits(by_the_book(case))
    if "sampler" not in case.more:
        assert {order.worker for order in run.orders} == set(case.workers)


@cache
def _by_the_book(name: str, workers: int, rounds: int, seed: int) -> Tensors:
    return Run(Case(name, workers, rounds, seed)).finish(Random(1)).model


def by_the_book(case: Case) -> Tensors:
    """The model of a run in which nothing goes wrong and everybody has a part."""
    return _by_the_book(case.name, len(case.workers), case.rounds, case.seed)


@every_way
def test_the_seed_decides_all_and_the_global_generator_nothing(case: Case) -> None:
    torch.manual_seed(1)
    one = Run(case).finish(Random(1)).model
    torch.manual_seed(2)
    before = torch.get_rng_state()
    assert bits(Run(case).finish(Random(1)).model) == bits(one)
    assert torch.equal(torch.get_rng_state(), before)
    assert bits(Run(Case(case.name, seed=2, **case.more)).finish(Random(1)).model) != bits(one)


@every_way
def test_every_order_has_a_seed_of_its_own(case: Case) -> None:
    run = Run(case).finish(Random(1))
    assert len({order.seed for order in run.orders}) == len(run.orders)


@every_way
def test_an_order_names_the_last_round_whose_report_was_taken(case: Case) -> None:
    """What a worker keeps for itself between rounds begins there."""
    run, taken = Run(case), dict.fromkeys(case.workers, 0)
    while run.open:
        order = run.open[min(run.open)]
        assert order.state_round == taken[order.worker] < order.round
        late = has_rounds(case.name) and order.round <= run.strategy.version(run.state)
        if not late:
            taken[order.worker] = order.round
        run.take(answer(order))


@every_way
def test_what_it_is_given_is_not_changed(case: Case) -> None:
    run = Run(case)
    kept: list[tuple[Tensors, dict[str, tuple[Any, ...]]]] = [(run.initial, bits(run.initial))]
    random = Random(1)
    while run.open:
        chosen = run.open[random.choice(sorted(run.open))]
        found = answer(chosen)
        kept += [(chosen.tensors, bits(chosen.tensors)), (found.tensors, bits(found.tensors))]
        model = run.strategy.worker_model(run.state, found)
        assert model is None or find_mismatch(model, run.initial) == ""
        run.take(found)
        kept.append((run.model, bits(run.model)))
    assert all(bits(tensors) == before for tensors, before in kept)


@every_way
def test_the_same_state_and_event_give_the_same_again(case: Case) -> None:
    """A state may be used up by reacting, as the mean's sum is; a copy of it gives the same."""
    run = Run(case)
    while run.open:
        found = answer(next(iter(run.open.values())))
        copied = copy.deepcopy(run.state)
        orders = run.take(found)
        state, others = run.strategy.react(copied, found)
        assert [told(order) for order in others] == [told(order) for order in orders]
        assert bits(run.strategy.model(state)) == bits(run.model)
        assert run.strategy.version(state) == run.strategy.version(run.state)
    one, other = (Run(case) for _ in range(2))
    assert [told(order) for order in one.orders] == [told(order) for order in other.orders]


@every_way
def test_its_state_is_a_frozen_dataclass_of_plain_things(case: Case) -> None:
    run = Run(case)
    while run.open:
        plain(run.state)
        order = next(iter(run.open.values()))
        run.take(failed(order) if len(run.orders) % 4 == 1 else answer(order))
    plain(run.state)


def plain(value: Any) -> None:
    """Frozen dataclasses, tensors, numbers, strings, and lists and dicts of these: what can be stored generically."""
    if dataclasses.is_dataclass(value):
        assert value.__dataclass_params__.frozen, f"{type(value).__name__} is not frozen"  # type: ignore[union-attr]
        for field in dataclasses.fields(value):
            plain(getattr(value, field.name))
    elif isinstance(value, dict):
        for key, inner in value.items():
            assert isinstance(key, str)
            plain(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            plain(inner)
    else:
        assert isinstance(value, torch.Tensor | str | int | float | bool | None), type(value)


# --------------------------------------------------------------------------- runs in which something goes wrong


@cache
def _template(task: str) -> TaskResult:
    orders = [order for name in NAMES for order in Run(Case(name)).orders if order.task == task]
    return answer(orders[0])


def quick(order: TaskRequest) -> TaskResult:
    """An answer as the worker's own in names, shapes and dtypes; its values hang on the order's seed and model."""
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
    """As :func:`by_the_book`, with quick answers."""
    return _undisturbed(case.name, len(case.workers), case.rounds)


@every_way
@pytest.mark.parametrize("kind", ["refused", "failed", "rejected"])
def test_when_all_fail_the_run_ends_with_a_reason(case: Case, kind: Kind) -> None:
    run = Run(case)
    while run.open:
        run.take(failed(next(iter(run.open.values())), kind))
    reason = run.strategy.failure(run.state)
    assert len(run.excluded) == len(case.workers) - run.strategy.min_results + 1
    assert all(f"{worker}: " in reason for worker in run.excluded) and reason.count("the cable was cut") >= 1
    assert bits(run.model) == bits(run.initial)
    assert run.strategy.react(run.state, WorkerConnected(worker="alice")) == (run.state, ())


@every
def test_who_is_lost_is_waited_for_and_asked_for_the_same_again(name: str) -> None:
    run = Run(Case(name))
    first = run.open["1/bob"]
    run.take(failed(first, "lost"))
    run.take(WorkerDisconnected(worker="bob", reason="the cable was cut"))
    assert "bob" not in {order.worker for order in run.open.values()}
    assert list(run.strategy.waiting_for(run.state)) == (["bob"] if run.case.whole else [])
    (again,) = run.take(WorkerConnected(worker="bob"))
    assert (
        told(dataclasses.replace(again, request_id=first.request_id)) == told(first)
        and again.request_id != first.request_id
    )
    assert run.strategy.waiting_for(run.state) == ()
    assert run.finish(Random(1), quick).ended and not run.excluded


def loses(run: Run, code: str = "") -> None:
    """The link of alice is lost while she has a request, and comes back."""
    (order,) = run.open.values()
    run.take(failed(order, "lost", code=code))
    run.take(WorkerDisconnected(worker="alice", reason="the cable was cut"))
    run.take(WorkerConnected(worker="alice"))


@every
def test_a_worker_that_is_lost_with_each_request_is_excluded(name: str) -> None:
    """One that dies of it, as of a lack of memory, would be asked for ever."""
    run = Run(Case(name, 1))
    task, losses = next(iter(run.open.values())).task, 0
    while run.open:
        loses(run)
        losses += 1
    why = f"alice: failed: lost 3 times while it worked on {task}; was its memory short?, three times in a row"
    assert losses == 9 and why in run.strategy.failure(run.state)


@every
def test_a_worker_whose_transfers_progress_is_asked_as_often_as_it_joins(name: str) -> None:
    run = Run(Case(name, 1))
    for _ in range(30):
        loses(run, "transfer_progressed")
    assert run.finish(Random(1), quick).ended and not run.excluded


@every
def test_a_permanent_refusal_excludes_at_once(name: str) -> None:
    run = Run(Case(name, min_results=2))
    run.take(failed(run.open["1/bob"], "refused", code="permanent"))
    assert run.excluded == {"bob"} and run.finish(Random(1), quick).ended
    assert sum(order.worker == "bob" for order in run.orders) == 1
    run = Run(Case(name))
    run.take(failed(run.open["1/bob"], "refused", code="permanent"))
    if run.case.whole:
        assert "bob: refused its order: the cable was cut" in run.strategy.failure(run.state)


@every
def test_a_refusal_until_later_is_waited_for(name: str) -> None:
    run = Run(Case(name))
    run.take(failed(run.open["1/bob"], "refused", code="retry_later"))
    run.finish(Random(1), quick)
    if not run.ended:
        (again,) = run.take(WorkerAvailable(worker="bob"))
        assert again.worker == "bob" and run.finish(Random(1), quick).ended
    assert not run.excluded


NAN, INF = math.nan, math.inf
SPOILS: Mapping[str, Callable[[Tensors], Tensors]] = {
    "nothing": lambda tensors: {},
    "NaN": lambda tensors: {**tensors, **filled(tensors, NAN)},
    "Inf": lambda tensors: {**tensors, **filled(tensors, -INF)},
    "one more": lambda tensors: {**tensors, "more\x1b[2J\n": torch.ones(1)},
    "other names": lambda tensors: {f"{key}\n": tensor for key, tensor in tensors.items()},
    "a dimension more": lambda tensors: {key: tensor[..., None] for key, tensor in tensors.items()},
    "other shapes": lambda tensors: {key: tensor.flatten()[:1] for key, tensor in tensors.items()},
    "other dtypes": lambda tensors: {key: tensor.to(torch.float64) for key, tensor in tensors.items()},
}


def filled(tensors: Tensors, value: float) -> Tensors:
    """The last float with one such value."""
    name = [key for key, tensor in tensors.items() if tensor.is_floating_point()][-1]
    spoilt = tensors[name].clone()
    spoilt.view(-1)[-1] = value
    return {name: spoilt}


@every
@pytest.mark.parametrize("spoilt", SPOILS)
@pytest.mark.parametrize("who", ["alice", "charlie"])
def test_tensors_that_do_not_fit_are_rejected_and_their_sender_in_the_end(name: str, spoilt: str, who: str) -> None:
    """Whether its report comes first or last. With min_results those who are left the run is theirs."""
    for quorum in (0, 2):
        run = Run(Case(name, min_results=quorum))
        while run.open:
            order = run.open[min(run.open)]
            report = quick(order)
            if order.worker == who:
                report = dataclasses.replace(report, tensors=SPOILS[spoilt](report.tensors))
            run.take(report)
        assert run.excluded == {who} or (run.ended and not run.excluded), "it may end before the third"
        if run.case.whole:
            reason = run.strategy.failure(run.state)
            assert f"{who}: sent a report that was rejected: " in reason and "three times in a row" in reason
            assert run.strategy.version(run.state) == 0
        else:
            assert run.ended and find_nonfinite(run.model) == ""


@every_way
def test_answers_nobody_asked_for_change_nothing(case: Case) -> None:
    run = Run(case)
    first = quick(run.orders[0])
    run.take(first)
    foreign = dataclasses.replace(first, request_id="0/mallory")
    thief = dataclasses.replace(quick(run.orders[1]), worker=first.worker)
    again = [failed(run.orders[0]), failed(run.orders[0], "lost")]
    events: list[Event] = [first, foreign, thief, *again, WorkerConnected(worker="mallory")]
    for found in events:
        assert run.strategy.react(run.state, found) == (run.state, ())
    run.finish(Random(1), quick)
    later: list[Event] = [first, WorkerConnected(worker="alice"), RoundTimeout(version=run.strategy.version(run.state))]
    for found in later:
        assert run.strategy.react(run.state, found) == (run.state, ())


@every_way
@CALM
@given(random=st.randoms(use_true_random=False), answers=st.integers(0, 8))
def test_a_run_that_goes_on_from_a_stored_state_asks_the_same_again(case: Case, random: Random, answers: int) -> None:
    run = Run(case)
    for _ in range(answers):
        if run.open and not run.over:
            run.take(quick(run.open[random.choice(sorted(run.open))]))
    stored, before = copy.deepcopy(run.state), run.open
    orders = run.resume(stored, case.workers)
    if run.over:
        return
    assert {order.request_id for order in orders}.isdisjoint(before)
    seeds = {order.seed for order in orders}
    assert {order.seed for order in before.values() if order.round > run.strategy.version(stored)} <= seeds
    run.finish(random, quick)
    assert run.ended and find_mismatch(run.model, run.initial) == ""
    if case.whole:
        assert bits(run.model) == bits(undisturbed(case))


# --------------------------------------------------------------------------- runs in which nothing goes well


class World(Run):
    """A run under an adversary that moves workers and links; what it does is heard in the order in which it happened.

    It is as fair as a network: a link that goes down answers its open orders as lost, then tells that the worker left,
    and an order to a worker without a link is answered as lost.
    """

    def __init__(self, case: Case, linked: Sequence[str]) -> None:
        self.linked = set(linked)
        self.queue: list[tuple[Event, bool]] = []
        """What was not heard yet; and whether it is a report that cannot be used."""
        self.given: dict[str, TaskRequest] = {}
        """Orders that workers have and have not answered."""
        self.born: dict[str, int] = {}
        """The version at which an order was made."""
        self.count: dict[str, int] = dict.fromkeys(case.workers, 0)
        """Strikes in a row."""
        self.permanent: set[str] = set()
        """Workers that have refused for the whole run."""
        self.rows: dict[tuple[str, str], int] = {}
        """How often in a row each worker was lost, or put off, with one request."""
        self.fruitless: dict[str, int] = dict.fromkeys(case.workers, 0)
        """Requests to each worker since anything made progress."""
        self.late = self.failed = 0
        """Reports that came too late, and orders that failed, since the last version."""
        self.updates: list[dict[str, Any]] = []
        self.overdue: set[str] | None = None
        """The orders that were open when the time of the round was up; None before."""
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
        """The coordinator goes on from its last checkpoint; what was under way is lost, and said again by nobody."""
        self.crashes += 1
        state, asked, self.excluded, self.count, self.permanent = copy.deepcopy(self.stored)
        self.rows, self.fruitless = {}, dict.fromkeys(self.case.workers, 0)
        self.late, self.failed, self.updates, self.overdue = 0, 0, [], None
        self.orders = self.orders[:asked]
        self.given, self.queue = {}, []
        self.linked = set(self.case.workers) if self.crashes % 2 else self.linked
        self.resume(state, sorted(self.linked))

    def repeat(self, number: int) -> None:
        """What was heard before says nothing, if it was an answer."""
        answers = (found for found in self.history if isinstance(found, TaskResult | TaskFailure))
        heard = [found for found in answers if found.request_id not in self.open]
        if heard:
            assert self.strategy.react(self.state, heard[number % len(heard)]) == (self.state, ())

    def probe(self) -> None:
        """Somebody is awaited exactly when those who are there could not go on, were they to answer all."""
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
        """From now on everybody is there and answers."""
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
        """Whether an answer that is no good is a strike: as the design words it, in a table of its own."""
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
        """A version was made: what it says of itself."""
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
"""Requests to one worker, at most, without a report, a version or a transfer that progresses: before each of three
strikes there may be two losses, nine in transfer and two refusals until later.
"""
FEW = ["answer", "answer", "refused", "spoil", "cut", "link", "deadline", "old deadline", "again", "probe", "crash"]
MOODS = {
    "any": ["answer", "answer", "failed", "rejected", *FEW],
    "late": ["retry_later", "retry_later", "retry_later", "available", "available", "cut", "link", "permanent", *FEW],
    "dying": ["cut", "link", "cut", "link", "cut", "link", "transfer_progressed", "link", *FEW],
    "cutting": ["transfer_interrupted", "link", "transfer_interrupted", "link", "transfer_interrupted", "link"],
    "rude": ["refused", "failed", "rejected", "spoil", "spoil", *FEW],
    "flaky": ["cut", "cut", "cut", "link", "link", "link", *FEW],
    "slow": ["answer", "answer", "answer", "answer", "deadline", "deadline", "deadline", *FEW],
}
"""What the adversary likes to do, each as often as it stands there."""


@st.composite
def scripts(draw: st.DrawFn) -> list[tuple[str, int, bool]]:
    """Moves, each with a number that says whose, and whether all is heard at once."""
    mood = draw(st.sampled_from(sorted(MOODS)))
    whose = st.sampled_from([0, 0, 0, 0, 1]) if mood in ("dying", "cutting", "late") else st.integers(0, 39)
    move = st.tuples(st.sampled_from(MOODS[mood]), whose, st.booleans())
    length = draw(st.integers(0, 60))
    return draw(st.lists(move, min_size=length, max_size=length))


@st.composite
def cases(draw: st.DrawFn, name: str) -> Case:
    """Any settings that a run may have."""
    workers, rounds = draw(st.integers(1, len(WORKERS))), draw(st.integers(1, 4))
    more: dict[str, Any] = {}
    size = workers
    if has_rounds(name) and draw(st.booleans()):
        chooser = draw(st.sampled_from([name for name in registry.list_pieces("sampler") if name != "all"]))
        size = draw(st.integers(1, workers))
        more = {"sampler": f"{chooser}:per_round={size}"}
        if size < workers:
            more["over_selection"] = draw(st.sampled_from([0.0, 0.3, 2.0]))
    return Case(name, workers, rounds, min_results=draw(st.integers(0, size)), **more)


@every
@settings(CALM, max_examples=100)
@given(data=st.data(), script=scripts())
def test_a_run_ends_under_any_schedule(name: str, data: st.DataObject, script: list[tuple[str, int, bool]]) -> None:
    """Whatever the adversary does, and whenever that is heard: with a model, or with a reason that is true."""
    case = data.draw(cases(name), "case")
    world = World(case, [worker for worker in case.workers if data.draw(st.booleans(), f"{worker} is there")])
    for move, number, now in script:
        if world.over:
            break
        orders, workers = list(world.given.values()), sorted(case.workers)
        order = orders[number % len(orders)] if orders else None
        worker = workers[number % len(workers)]
        match move:
            case "answer" if order:
                world.answer(order)
            case "refused" | "failed" | "rejected" if order:
                world.fail(order, move)
            case "spoil" if order:
                spoils = list(SPOILS.values())
                world.answer(order, spoils[number % len(spoils)](quick(order).tensors))
            case "permanent" | "retry_later" if order:
                world.fail(order, "refused", move)
            case "available" if worker in world.waiting:
                world.queue.append((WorkerAvailable(worker=worker), False))
            case "cut" | "transfer_progressed" | "transfer_interrupted" if worker in world.linked:
                world.cut(worker, "" if move == "cut" else move)
            case "link" if worker not in world.linked:
                world.link(worker)
            case "deadline":
                world.time_is_up(world.strategy.version(world.state))
            case "old deadline":
                world.time_is_up(world.strategy.version(world.state) - 1)
            case "again":
                world.repeat(number)
            case "probe":
                world.probe()
            case "crash":
                world.crash()
        while world.queue and now and not world.over:
            world.hear()
    world.fair()
    reason = world.strategy.failure(world.state)
    if reason:
        assert len(case.workers) - len(world.excluded) < world.strategy.min_results
        assert all(worker in reason for worker in world.excluded)
    else:
        assert find_mismatch(world.model, world.initial) == "" and find_nonfinite(world.model) == ""
        if case.whole:
            assert bits(world.model) == bits(undisturbed(case)), "no fault shows in the model"
    assert world.strategy.react(world.state, world.history[-1]) == (world.state, ())
    if not world.crashes:
        again = Run(case, sorted(world.first))
        for happened in world.history:
            again.take(happened)
        assert [told(order) for order in again.orders] == [told(order) for order in world.orders]
        assert bits(again.model) == bits(world.model)
