"""Every registered strategy: a pure machine that ends, with a model or with a reason, however the answers come."""

import copy
import dataclasses
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fedws import registry
from fedws.coordinator.run import prepare
from fedws.interfaces import Strategy
from fedws.messages import Event, Failure, Joined, Left, Order, Report
from fedws.plan import make
from fedws.tensors import Tensors, difference
from fedws.wire import Decoder, encode
from fedws.worker import Worker
from tests.nodes import Points, registered

NAMES = registry.names("strategy")
WORKERS = ("alice", "bob", "charlie")
ROUNDS = 3
CALM = settings(deadline=None, max_examples=15, suppress_health_check=[HealthCheck.too_slow])
every = pytest.mark.parametrize("name", NAMES)


@pytest.fixture(autouse=True, scope="module")
def _points() -> Iterator[None]:
    with registered():
        yield


def made(name: str, seed: int = 1) -> tuple[Strategy[Any], Tensors]:
    """The strategy as a run has it, and the model it begins with."""
    return prepare(
        make(
            {
                "strategy": name,
                "dataset": "points",
                "model": "points_linear",
                "training_rounds": ROUNDS,
                "batch_size": 8,
                "federate_after_n_batches": 2,
                "seed": seed,
            }
        )
    )


def answer(order: Order) -> Report | Failure:
    """What the worker itself answers, there and back over the wire."""
    worker = Worker(order.worker, "points", Points(Path(), True))
    arrived, answered = over_the_wire(order), Decoder()
    assert isinstance(arrived, Order)
    for piece in encode(worker.answer(arrived)).fragments():
        answered.feed(piece)
    found = answered.message()
    assert isinstance(found, Report), found
    return found


def over_the_wire(order: Order) -> Any:
    decoder = Decoder()
    for piece in encode(order).fragments():
        decoder.feed(piece)
    return decoder.message()


def lost(order: Order, kind: Any = "lost", reason: str = "the cable was cut") -> Failure:
    return Failure(order=order.id, worker=order.worker, round=order.round, kind=kind, reason=reason)


class Run:
    """A run in which the test chooses whose answer comes next."""

    def __init__(self, name: str, seed: int = 1) -> None:
        self.strategy, self.initial = made(name, seed)
        self.open: dict[str, Order] = {}
        self.orders: list[Order] = []
        self.state, orders = self.strategy.start(self.initial, WORKERS)
        self._issue(orders)

    def _issue(self, orders: Sequence[Order]) -> None:
        for order in orders:
            assert order.id not in {other.id for other in self.orders}, "an id is used once"
            assert order.worker in WORKERS and order.task in registry.names("task")
            self.open[order.id] = order
            self.orders.append(order)
        assert len(self.orders) < 1000, "it asks on and on"

    def take(self, event: Event) -> None:
        version, model = self.strategy.version(self.state), self.strategy.model(self.state)
        if isinstance(event, Report | Failure):
            self.open.pop(event.order, None)
        self.state, orders = self.strategy.react(self.state, event)
        assert self.strategy.version(self.state) >= version
        if self.strategy.version(self.state) == version:
            assert self.strategy.model(self.state) is model, "a model of one version does not change"
        if self.strategy.failure(self.state):
            assert not orders, "a run that cannot go on asks nobody"
        self._issue(orders)

    def finish(self, random: Random) -> "Run":
        while self.open:
            self.take(answer(self.open[random.choice(sorted(self.open))]))
        return self


def bits(tensors: Tensors) -> dict[str, tuple[Any, ...]]:
    return {name: (tensor.dtype, tensor.shape, tensor.tolist()) for name, tensor in tensors.items()}


@every
@CALM
@given(random=st.randoms(use_true_random=False))
def test_it_ends_with_a_model_however_the_answers_come(name: str, random: Random) -> None:
    run = Run(name).finish(random)
    assert run.strategy.failure(run.state) == "" and run.strategy.version(run.state) == ROUNDS
    model = run.strategy.model(run.state)
    assert difference(model, run.initial) == "" and all(torch.isfinite(tensor).all() for tensor in model.values())
    assert any(not torch.equal(model[key], run.initial[key]) for key in model), "it has learnt something"
    assert {order.worker for order in run.orders} == set(WORKERS)


@every
@CALM
@given(random=st.randoms(use_true_random=False), data=st.data())
def test_a_failure_at_any_point_is_borne_or_ends_the_run_with_its_reason(
    name: str, random: Random, data: st.DataObject
) -> None:
    run = Run(name)
    for _ in range(data.draw(st.integers(0, ROUNDS * len(WORKERS) - 1))):
        run.take(answer(run.open[random.choice(sorted(run.open))]))
    chosen = run.open[random.choice(sorted(run.open))]
    run.take(lost(chosen, data.draw(st.sampled_from(["refused", "failed", "rejected", "lost"]))))
    run.take(Left(worker=chosen.worker, reason="the cable was cut"))
    run.finish(random)
    reason = run.strategy.failure(run.state)
    if run.strategy.version(run.state) < ROUNDS:
        assert chosen.worker in reason and "the cable was cut" in reason and "\n" not in reason
    assert difference(run.strategy.model(run.state), run.initial) == ""


@every
def test_when_all_fail_the_run_ends_with_a_reason(name: str) -> None:
    run = Run(name)
    while run.open:
        run.take(lost(next(iter(run.open.values()))))
    assert run.strategy.failure(run.state)
    assert bits(run.strategy.model(run.state)) == bits(run.initial)


@every
def test_tensors_that_do_not_fit_end_the_run_with_a_reason(name: str) -> None:
    spoils: tuple[Callable[[Tensors], Tensors], ...] = (
        lambda tensors: {},
        lambda tensors: {key: tensor[..., None] for key, tensor in tensors.items()},
        lambda tensors: {key: tensor.flatten()[:1] for key, tensor in tensors.items()},
        lambda tensors: {key: tensor.to(torch.float64) for key, tensor in tensors.items()},
    )
    for spoil in spoils:
        for who in (WORKERS, WORKERS[:1], WORKERS[-1:]):
            run = Run(name)
            while run.open:
                order = next(iter(run.open.values()))
                report = answer(order)
                assert isinstance(report, Report)
                if order.worker in who:
                    report = dataclasses.replace(report, tensors=spoil(report.tensors))
                run.take(report)
            assert run.strategy.failure(run.state) and run.strategy.version(run.state) == 0


@every
def test_answers_nobody_asked_for_change_nothing(name: str) -> None:
    run = Run(name)
    first = answer(run.orders[0])
    run.take(first)
    foreign = dataclasses.replace(first, order="0/mallory")
    for event in (first, foreign, lost(run.orders[0]), Joined(worker="mallory")):
        before = run.state
        after, orders = run.strategy.react(run.state, event)
        assert not orders and after == before
    run.finish(Random(1))
    assert bits(run.strategy.model(run.state)) == bits(again(name))
    last = run.state
    assert run.strategy.react(last, first) == (last, ())


def again(name: str, order: int = 1, seed: int = 1) -> Tensors:
    run = Run(name, seed).finish(Random(order))
    return run.strategy.model(run.state)


@every
def test_the_seed_decides_all_and_the_global_generator_nothing(name: str) -> None:
    torch.manual_seed(1)
    one = again(name)
    torch.manual_seed(2)
    before = torch.get_rng_state()
    assert bits(again(name)) == bits(one)
    assert torch.equal(torch.get_rng_state(), before)
    assert bits(again(name, seed=2)) != bits(one)


@every
def test_every_order_has_a_seed_of_its_own(name: str) -> None:
    run = Run(name).finish(Random(1))
    assert len({order.seed for order in run.orders}) == len(run.orders)


@every
def test_what_it_is_given_is_not_changed(name: str) -> None:
    run = Run(name)
    kept: list[tuple[Tensors, dict[str, tuple[Any, ...]]]] = [(run.initial, bits(run.initial))]
    random = Random(1)
    while run.open:
        chosen = run.open[random.choice(sorted(run.open))]
        found = answer(chosen)
        assert isinstance(found, Report)
        kept += [(chosen.tensors, bits(chosen.tensors)), (found.tensors, bits(found.tensors))]
        model = run.strategy.worker_model(run.state, found)
        assert model is None or difference(model, run.initial) == ""
        run.take(found)
        kept.append((run.strategy.model(run.state), bits(run.strategy.model(run.state))))
    assert all(bits(tensors) == before for tensors, before in kept)


@every
def test_the_same_state_and_event_give_the_same_again(name: str) -> None:
    """A state may be used up by reacting, as the mean's sum is; a copy of it gives the same."""
    run = Run(name)
    while run.open:
        found = answer(next(iter(run.open.values())))
        copied = copy.deepcopy(run.state)
        run.take(found)
        state, orders = run.strategy.react(copied, found)
        assert [told(order) for order in orders] == [
            told(order) for order in run.orders[len(run.orders) - len(orders) :]
        ]
        assert bits(run.strategy.model(state)) == bits(run.strategy.model(run.state))
        assert run.strategy.version(state) == run.strategy.version(run.state)
    one, other = (Run(name) for _ in range(2))
    assert [told(order) for order in one.orders] == [told(order) for order in other.orders]


def told(order: Order) -> dict[str, Any]:
    return {**vars(order), "tensors": bits(order.tensors)}


@every
def test_its_state_is_a_frozen_dataclass_of_plain_things(name: str) -> None:
    run = Run(name)
    while run.open:
        plain(run.state)
        run.take(answer(next(iter(run.open.values()))))
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
