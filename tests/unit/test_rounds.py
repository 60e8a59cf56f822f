"""The state machine of round-based algorithms: every race is a sequence of events."""

from collections.abc import Sequence
from dataclasses import FrozenInstanceError, dataclass
from typing import Any

import pytest
import torch

from fedws.aggregators.mean import Mean, Sum
from fedws.errors import RejectedUpdate
from fedws.interfaces import Ask
from fedws.learning import order_seed
from fedws.messages import Event, Failure, Joined, Left, Order, Report
from fedws.rounds import Rounds, RoundState
from fedws.tensors import Tensors, difference

START = {"w": torch.zeros(2)}
WORKERS = ("alice", "bob")
State = RoundState[Sum]


@dataclass(frozen=True)
class Adding:
    """Workers report any number; the model is the sum of the rounds' means."""

    def order(self, model: Tensors, worker: str, round: int) -> Ask:
        return Ask("adding.add", {"for": f"{worker} in {round}"}, model)

    def step(self, model: Tensors, aggregated: Tensors, round: int) -> Tensors:
        if aggregated["w"].isnan().any():
            raise RejectedUpdate("no number")
        return aggregated if difference(aggregated, model) else {"w": model["w"] + aggregated["w"]}

    def worker_model(self, model: Tensors, report: Report) -> Tensors | None:
        return self.step(model, report.tensors, report.round)


def rounds(count: int = 2) -> Rounds[Sum]:
    return Rounds(Adding(), Mean(), count, seed=7)


def report(order: Order, value: float = 1.0, **tensors: torch.Tensor) -> Report:
    found = {"w": torch.full((2,), float(value)), **tensors}
    return Report(order=order.id, worker=order.worker, round=order.round, samples=1, tensors=found)


def failure(order: Order) -> Failure:
    return Failure(order=order.id, worker=order.worker, round=order.round, kind="failed", reason="no power")


def take(strategy: Rounds[Sum], state: State, events: Sequence[Event]) -> tuple[State, list[Order]]:
    orders: list[Order] = []
    for event in events:
        state, more = strategy.react(state, event)
        orders += more
    return state, orders


# --------------------------------------------------------------------------- orders


def test_every_worker_is_asked_once_with_the_model() -> None:
    strategy = rounds()
    state, orders = strategy.start(START, WORKERS)
    assert [(order.id, order.worker, order.round, order.task, order.settings) for order in orders] == [
        ("1/alice", "alice", 1, "adding.add", {"for": "alice in 1"}),
        ("1/bob", "bob", 1, "adding.add", {"for": "bob in 1"}),
    ]
    assert all(order.tensors is START for order in orders)
    assert (strategy.model(state), strategy.version(state), strategy.failure(state)) == (START, 0, "")


def test_the_seed_of_an_order_is_that_of_run_worker_and_round() -> None:
    strategy = rounds()
    state, first = strategy.start(START, WORKERS)
    _, second = take(strategy, state, [report(order) for order in first])
    for order in [*first, *second]:
        assert order.seed == order_seed(7, order.worker, order.round)
    assert len({order.seed for order in [*first, *second]}) == len({order.id for order in [*first, *second]}) == 4


def test_the_next_round_is_asked_when_the_last_answer_is_there() -> None:
    strategy = rounds()
    state, first = strategy.start(START, WORKERS)
    state, orders = strategy.react(state, report(first[1], 3))
    assert not orders and strategy.version(state) == 0 and state.waiting == ("1/alice",)
    assert strategy.model(state) is START
    state, orders = strategy.react(state, report(first[0], 1))
    assert [order.id for order in orders] == ["2/alice", "2/bob"]
    assert strategy.version(state) == 1 and strategy.model(state)["w"].tolist() == [2, 2]
    assert all(order.tensors is strategy.model(state) for order in orders)


def test_after_the_last_round_nobody_is_asked() -> None:
    strategy = rounds(1)
    state, orders = strategy.start(START, WORKERS)
    state, more = take(strategy, state, [report(order) for order in orders])
    assert not more and (strategy.version(state), state.waiting, strategy.failure(state)) == (1, (), "")
    assert strategy.model(state)["w"].tolist() == [1, 1]
    after, more = take(strategy, state, [report(order, 9) for order in orders])
    assert after is state and not more


def test_the_aggregate_of_a_round_holds_nothing_of_the_one_before() -> None:
    strategy = rounds(3)
    state, orders = strategy.start(START, WORKERS)
    for value in (1.0, 10.0, 100.0):
        state, orders = take(strategy, state, [report(order, value) for order in orders])
    assert strategy.model(state)["w"].tolist() == [111, 111]


# --------------------------------------------------------------------------- races


def dropped(strategy: Rounds[Sum], state: State, event: Event) -> bool:
    after, orders = strategy.react(state, event)
    return after is state and not orders


def test_a_report_that_comes_twice_counts_once() -> None:
    strategy = rounds()
    state, (alice, bob) = strategy.start(START, WORKERS)
    state, _ = strategy.react(state, report(alice, 1))
    assert dropped(strategy, state, report(alice, 50))
    state, _ = strategy.react(state, report(bob, 3))
    assert strategy.model(state)["w"].tolist() == [2, 2]


def test_a_report_of_the_round_before_is_dropped() -> None:
    strategy = rounds()
    state, orders = strategy.start(START, WORKERS)
    state, _ = take(strategy, state, [report(order) for order in orders])
    assert all(dropped(strategy, state, report(order, 50)) for order in orders)


@pytest.mark.parametrize("id", ["1/mallory", "2/alice", "", "1/alice/", "alice"])
def test_an_answer_to_an_order_that_was_never_given_is_dropped(id: str) -> None:
    strategy = rounds()
    state, _ = strategy.start(START, WORKERS)
    foreign = Order(id=id, worker="alice", round=1, task="t")
    assert dropped(strategy, state, report(foreign)) and dropped(strategy, state, failure(foreign))


def test_a_failure_after_the_report_is_dropped() -> None:
    strategy = rounds()
    state, orders = strategy.start(START, WORKERS)
    state, _ = strategy.react(state, report(orders[0]))
    assert dropped(strategy, state, failure(orders[0]))


def test_coming_and_going_alone_changes_nothing() -> None:
    """Who leaves has failed its order before."""
    strategy = rounds()
    state, _ = strategy.start(START, WORKERS)
    assert dropped(strategy, state, Joined(worker="mallory"))
    assert dropped(strategy, state, Left(worker="alice", reason="gone"))


# --------------------------------------------------------------------------- ends


def test_a_failure_ends_the_run_and_names_the_worker() -> None:
    strategy = rounds()
    state, orders = strategy.start(START, WORKERS)
    state, more = strategy.react(state, failure(orders[1]))
    assert not more and strategy.failure(state) == "round 1: bob: no power"
    assert dropped(strategy, state, report(orders[0])) and dropped(strategy, state, failure(orders[0]))
    assert strategy.failure(state) == "round 1: bob: no power"


def test_after_a_failure_the_model_is_that_of_the_last_complete_round() -> None:
    strategy = rounds()
    state, orders = strategy.start(START, WORKERS)
    state, orders = take(strategy, state, [report(order) for order in orders])
    state, _ = take(strategy, state, [report(orders[0], 50), failure(orders[1])])
    assert strategy.version(state) == 1 and strategy.model(state)["w"].tolist() == [1, 1]
    assert strategy.failure(state) == "round 2: bob: no power"


def test_a_report_unlike_the_others_ends_the_run_and_names_the_worker() -> None:
    strategy = rounds()
    state, orders = strategy.start(START, WORKERS)
    state, more = take(strategy, state, [report(orders[0]), report(orders[1], w=torch.ones(3))])
    assert not more
    assert strategy.failure(state) == "round 1: bob: its report was rejected: w has shape [3], not [2]"
    assert strategy.version(state) == 0 and strategy.model(state) is START


UNFIT = pytest.mark.parametrize(
    ("tensors", "text"),
    [
        ({"x": torch.ones(1)}, "x is not known here"),
        ({"w": torch.ones(2, 2)}, "w has shape [2, 2], not [2]"),
        ({"w": torch.ones(2).double()}, "w is float64, not float32"),
        ({"w": torch.full((2,), torch.nan)}, "no number"),
    ],
)


@UNFIT
@pytest.mark.parametrize("place", [0, 1])
def test_who_sends_another_model_is_named_whoever_comes_first(tensors: dict[str, Any], text: str, place: int) -> None:
    strategy = rounds()
    state, orders = strategy.start(START, WORKERS)
    answers = [report(orders[0], **tensors), report(orders[1])]
    state, more = take(strategy, state, [answers[place], answers[1 - place]])
    assert not more and strategy.failure(state) == f"round 1: alice: its report was rejected: {text}"
    assert strategy.version(state) == 0 and strategy.model(state) is START


@UNFIT
def test_an_algorithm_without_models_of_workers_has_its_result_checked(tensors: dict[str, Any], text: str) -> None:
    @dataclass(frozen=True)
    class Silent(Adding):
        def worker_model(self, model: Tensors, report: Report) -> None:
            return None

    strategy = Rounds(Silent(), Mean(), 2, seed=7)
    state, orders = strategy.start(START, WORKERS)
    state, more = take(strategy, state, [report(order, **tensors) for order in orders])
    assert not more and strategy.failure(state) == f"round 1: the reports do not fit the model: {text}"
    assert strategy.version(state) == 0 and strategy.model(state) is START


def test_a_workers_own_model_is_of_the_model_it_was_sent() -> None:
    strategy = rounds()
    state, orders = strategy.start(START, WORKERS)
    state, orders = take(strategy, state, [report(order) for order in orders])
    found = strategy.worker_model(state, report(orders[0], 5))
    assert found is not None and found["w"].tolist() == [6, 6]
    assert strategy.worker_model(state, report(orders[0], torch.nan)) is None


# --------------------------------------------------------------------------- purity


def test_a_state_cannot_be_changed_and_a_new_one_leaves_the_old() -> None:
    strategy = rounds()
    state, orders = strategy.start(START, WORKERS)
    with pytest.raises(FrozenInstanceError):
        state.round = 5  # type: ignore[misc]
    take(strategy, state, [report(order) for order in orders])
    assert (state.round, state.waiting, state.model) == (1, ("1/alice", "1/bob"), START)
    assert START["w"].tolist() == [0, 0]


def test_one_strategy_can_drive_two_runs() -> None:
    strategy = rounds()
    one, orders = strategy.start(START, WORKERS)
    other, others = strategy.start({"w": torch.ones(2)}, WORKERS)
    one, _ = strategy.react(one, report(orders[0], 1))
    other, _ = strategy.react(other, report(others[0], 5))
    one, _ = strategy.react(one, report(orders[1], 1))
    other, _ = strategy.react(other, report(others[1], 5))
    assert (strategy.model(one)["w"].tolist(), strategy.model(other)["w"].tolist()) == ([1, 1], [6, 6])
