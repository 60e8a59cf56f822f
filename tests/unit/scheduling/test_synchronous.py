"""The state machine of round-based algorithms: requests, races and cohorts, as sequences of events."""

import math
from collections.abc import Sequence
from dataclasses import FrozenInstanceError, dataclass, replace
from random import Random

import pytest

from fedws.core.seeds import request_seed
from fedws.protocol.messages import TaskRequest
from fedws.scheduling.base import WorkerInfo
from fedws.scheduling.events import (
    ResponseTimed,
    RoundTimeout,
    WorkerConnected,
    WorkerDisconnected,
)
from tests.helpers.scheduled_run import FIVE, START, THREE, TWO, task_failure, task_result
from tests.helpers.synchronous_run import Some, SynchronousRun, round_record

# --------------------------------------------------------------------------- orders


def test_every_worker_is_asked_once_with_the_model() -> None:
    run = SynchronousRun(TWO)
    told = [(order.request_id, order.worker, order.round, order.task, order.settings) for order in run.open.values()]
    assert told == [
        ("1/alice", "alice", 1, "adding.add", {"for": "alice in 1"}),
        ("1/bob", "bob", 1, "adding.add", {"for": "bob in 1"}),
    ]
    assert all(order.tensors is START and order.state_round == 0 for order in run.open.values())
    assert (run.model, run.version, run.failure, run.awaited) == ([0, 0], 0, "", [])
    assert run.said == ["Training round 1/3"]


def test_the_seed_of_an_order_is_that_of_run_worker_and_round() -> None:
    run = SynchronousRun(TWO)
    orders = list(run.open.values())
    run.reports(*TWO)
    orders += run.open.values()
    assert [order.seed for order in orders] == [request_seed(7, order.worker, order.round) for order in orders]
    assert len({order.seed for order in orders}) == len({order.request_id for order in orders}) == 4


def test_the_next_round_is_asked_when_the_last_answer_is_there() -> None:
    run = SynchronousRun(TWO)
    assert run.reports("bob", value=3) == [] and run.version == 0 and run.model == [0, 0]
    assert run.reports("alice", value=1) == ["2/alice", "2/bob"]
    assert run.version == 1 and run.model == [2, 2]
    assert all(order.tensors is run.state.model and order.state_round == 1 for order in run.open.values())
    assert run.said == ["Training round 2/3"]
    assert run.record == round_record(["alice", "bob"], [], 2)


def test_after_the_last_round_nobody_is_asked() -> None:
    run = SynchronousRun(TWO, rounds=1)
    orders = list(run.open.values())
    assert run.reports(*TWO) == []
    assert (run.version, run.model, run.failure, run.awaited) == (1, [1, 1], "", [])
    assert (
        run.drops(task_result(orders[0], 9))
        and run.drops(WorkerConnected(worker="bob"))
        and run.drops(RoundTimeout(version=1))
    )


def test_the_aggregate_of_a_round_holds_nothing_of_the_one_before() -> None:
    run = SynchronousRun(TWO)
    for value in (1.0, 10.0, 100.0):
        run.reports(*TWO, value=value)
    assert run.model == [111, 111]


# --------------------------------------------------------------------------- races


def test_a_report_that_comes_twice_counts_once() -> None:
    run = SynchronousRun(TWO)
    again = task_result(run.open["alice"], 50)
    run.reports("alice")
    assert run.drops(again)
    run.reports("bob", value=3)
    assert run.model == [2, 2]


@pytest.mark.parametrize("request_id", ["1/mallory", "2/alice", "", "1/alice/", "1/alice/1", "alice"])
def test_an_answer_to_an_order_that_was_never_given_is_dropped(request_id: str) -> None:
    run = SynchronousRun(TWO)
    foreign = TaskRequest(request_id=request_id, worker="alice", round=1, task="t")
    assert (
        run.drops(task_result(foreign))
        and run.drops(task_failure(foreign))
        and run.drops(task_failure(foreign, kind="lost"))
    )


def test_an_answer_to_anothers_order_is_dropped() -> None:
    run = SynchronousRun(TWO)
    assert run.drops(replace(task_result(run.open["alice"], 50), worker="bob"))


def test_a_failure_after_the_report_is_dropped() -> None:
    run = SynchronousRun(TWO)
    late = task_failure(run.open["alice"])
    run.reports("alice")
    assert run.drops(late)


def test_who_is_not_in_the_plan_is_not_heard() -> None:
    run = SynchronousRun(TWO)
    for event in (
        WorkerConnected(worker="mallory"),
        WorkerDisconnected(worker="mallory", reason=""),
        ResponseTimed(worker="mallory", seconds=1),
    ):
        assert run.drops(event)


# --------------------------------------------------------------------------- more than the cohort


@pytest.mark.parametrize(
    ("share", "count", "asked"), [(0.0, 4, 4), (0.1, 4, 5), (0.25, 4, 5), (0.3, 4, 6), (1.0, 4, 8), (9.0, 4, 10)]
)
def test_over_selection_asks_more_than_the_cohort(share: float, count: int, asked: int) -> None:
    run = SynchronousRun([f"w{number}" for number in range(10)], chooser=Some(count), over_select=share)
    assert len(run.asked) == asked == min(10, math.ceil(round((1 + share) * count, 9)))


@pytest.mark.parametrize("hundredths", range(101))
def test_over_selection_asks_nobody_for_a_rounding_error(hundredths: int) -> None:
    """0.07 of 100 is 7.000000000000001 in floats."""
    run = SynchronousRun([f"w{number}" for number in range(200)], chooser=Some(100), over_select=hundredths / 100)
    assert len(run.asked) == 100 + hundredths


def test_over_selected_the_round_closes_at_the_cohorts_size() -> None:
    run = SynchronousRun(FIVE, chooser=Some(2), over_select=1.0)
    assert run.asked == ["1/emil", "1/dora", "1/charlie", "1/bob"]
    run.reports("bob")
    assert run.reports("dora", value=3) == ["2/dora", "2/bob", "2/alice"], "the others are busy"
    assert run.model == [2, 2]
    assert run.record == round_record(["emil", "dora", "charlie", "bob"], ["emil", "charlie"], 2)
    run.reports("emil", value=50)
    run.reports("alice", "bob")
    assert run.record == round_record(["dora", "bob", "alice"], ["dora"], 2, late=1)
    assert run.model == [3, 3]


def test_those_asked_beyond_the_cohort_may_fail() -> None:
    run = SynchronousRun(FIVE, chooser=Some(2), over_select=0.5)
    assert run.asked == ["1/emil", "1/dora", "1/charlie"]
    assert run.fails("emil") == [] and run.reports("dora") == []
    assert run.fails("charlie") == ["1/emil/2", "1/charlie/2"], "now the quorum needs them"
    run.reports("charlie")
    assert run.version == 1


# --------------------------------------------------------------------------- the sampler


def test_choosers_know_who_has_waited() -> None:
    run = SynchronousRun(FIVE, chooser=Some(2, by_wait=True), rounds=9)
    asked = [run.asked, *(run.reports(*run.open) for _ in range(4))]
    assert [[request_id.partition("/")[2] for request_id in ids] for ids in asked] == [
        ["emil", "dora"],
        ["charlie", "bob"],
        ["alice", "emil"],
        ["dora", "charlie"],
        ["bob", "emil"],
    ]


def test_choosers_draw_by_run_seed_and_round() -> None:
    @dataclass(frozen=True)
    class Drawn(Some):
        def rank(self, candidates: Sequence[WorkerInfo], random: Random) -> Sequence[str]:
            drawn.append(random.random())
            return super().rank(candidates, random)

    drawn: list[float] = []
    for _ in range(2):
        run = SynchronousRun(chooser=Drawn(3))
        run.reports(*THREE)
    assert drawn == [Random("7/1").random(), Random("7/2").random()] * 2


# --------------------------------------------------------------------------- purity


def test_a_state_cannot_be_changed_and_a_new_one_leaves_the_old() -> None:
    run = SynchronousRun(TWO)
    first = run.state
    with pytest.raises(FrozenInstanceError):
        first.round = 5
    run.reports(*TWO)
    assert (first.round, list(first.participants.pending_requests), first.model) == (1, ["1/alice", "1/bob"], START)
    assert START["w"].tolist() == [0, 0]


def test_one_strategy_can_drive_two_runs() -> None:
    one, other = SynchronousRun(TWO), SynchronousRun(TWO)
    other.strategy = one.strategy
    one.reports("alice", value=1)
    other.reports("alice", value=5)
    one.reports("bob", value=1)
    other.reports("bob", value=5)
    assert (one.model, other.model) == ([1, 1], [5, 5])
