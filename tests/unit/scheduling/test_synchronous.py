"""The state machine of round-based algorithms: every race is a sequence of events."""

import math
from collections.abc import Sequence
from dataclasses import FrozenInstanceError, dataclass, replace
from random import Random
from typing import Any, Literal

import pytest
import torch

from fedws.core.errors import RejectedUpdate
from fedws.core.seeds import request_seed
from fedws.core.tensors import Tensors, find_mismatch
from fedws.protocol.messages import TaskFailure, TaskRequest, TaskResult
from fedws.scheduling.base import Sampler, TaskSpec, WorkerInfo
from fedws.scheduling.events import (
    Event,
    ResponseTimed,
    RoundTimeout,
    WorkerAvailable,
    WorkerConnected,
    WorkerDisconnected,
)
from fedws.scheduling.samplers.all import AllSampler
from fedws.scheduling.schedule_config import ScheduleConfig
from fedws.scheduling.synchronous import SynchronousScheduler, SynchronousState
from fedws.updates.aggregators.mean import MeanAccumulator, MeanAggregator

START = {"w": torch.zeros(2)}
TWO = ("alice", "bob")
THREE = ("alice", "bob", "charlie")
FIVE = (*THREE, "dora", "emil")
State = SynchronousState[MeanAccumulator]


@dataclass(frozen=True)
class Adding:
    """Workers report any number; the model is the sum of the rounds' means."""

    def configure(self, model: Tensors, worker: str, round_number: int) -> TaskSpec:
        return TaskSpec("adding.add", {"for": f"{worker} in {round_number}"}, model)

    def server_update(self, model: Tensors, aggregated: Tensors, round_number: int) -> Tensors:
        if (aggregated["w"] == 13).any():
            raise RejectedUpdate("13 is bad luck")
        return aggregated if find_mismatch(aggregated, model) else {"w": model["w"] + aggregated["w"]}

    def worker_model(self, model: Tensors, report: TaskResult) -> Tensors | None:
        return self.server_update(model, report.tensors, report.round)


@dataclass(frozen=True)
class Some:
    """A chooser of so many, the last of the plan first; or by the greatest wait, with ``by_wait``."""

    count: int
    by_wait: bool = False

    def cohort_size(self, workers: int) -> int:
        return min(self.count, workers)

    def rank(self, candidates: Sequence[WorkerInfo], random: Random) -> Sequence[str]:
        names = [candidate.name for candidate in reversed(candidates)]
        waited = {candidate.name: candidate.rounds_since_selected for candidate in candidates}
        return sorted(names, key=lambda name: -waited[name]) if self.by_wait else names


def told(cohort: list[str], missing: list[str], answered: int, *, failed: int = 0, late: int = 0) -> dict[str, Any]:
    """The record of a round."""
    return {
        "cohort": cohort,
        "missing_workers": missing,
        "num_results": answered,
        "num_failures": failed,
        "num_late": late,
    }


class Table:
    """A run in which the test plays the workers. All of them are there unless ``connected`` says who is."""

    def __init__(
        self,
        workers: Sequence[str] = THREE,
        quorum: int = 0,
        chooser: Sampler | None = None,
        over_select: float = 0.0,
        rounds: int = 3,
        here: Sequence[str] | None = None,
        algorithm: Any = None,
    ) -> None:
        chooser = chooser or AllSampler()
        terms = ScheduleConfig(tuple(workers), rounds, 7, quorum or chooser.cohort_size(len(workers)), over_select)
        self.strategy = SynchronousScheduler(algorithm or Adding(), MeanAggregator(), chooser, terms)
        state, orders = self.strategy.start(START, workers if here is None else here)
        self.state: State = state
        self.open = {order.worker: order for order in orders}
        self.asked = [order.request_id for order in orders]

    def take(self, *events: Event) -> list[str]:
        """Let it react; gives the ids of the new orders."""
        asked = []
        for event in events:
            if isinstance(event, TaskResult | TaskFailure):
                del self.open[event.worker]
            self.state, orders = self.strategy.react(self.state, event)
            self.open |= {order.worker: order for order in orders}
            asked += [order.request_id for order in orders]
        return asked

    def reports(self, *workers: str, value: float = 1.0, **tensors: torch.Tensor) -> list[str]:
        return self.take(*(report(self.open[worker], value, **tensors) for worker in workers))

    def fails(self, *workers: str, kind: "Kind" = "failed") -> list[str]:
        return self.take(*(failure(self.open[worker], kind) for worker in workers))

    def leaves(self, worker: str) -> list[str]:
        """As a link tells it: the open order is lost, then the worker has left."""
        asked = self.fails(worker, kind="lost") if worker in self.open else []
        return asked + self.take(WorkerDisconnected(worker=worker, reason="the cable was cut"))

    def joins(self, *workers: str) -> list[str]:
        return self.take(*(WorkerConnected(worker=worker) for worker in workers))

    def deadline(self) -> list[str]:
        return self.take(RoundTimeout(version=self.version))

    @property
    def version(self) -> int:
        return self.strategy.version(self.state)

    @property
    def model(self) -> list[float]:
        return self.strategy.model(self.state)["w"].tolist()

    @property
    def failure(self) -> str:
        return self.strategy.failure(self.state)

    @property
    def awaited(self) -> list[str]:
        return list(self.strategy.waiting_for(self.state))

    @property
    def said(self) -> list[str]:
        return list(self.strategy.log_lines(self.state))

    @property
    def record(self) -> dict[str, Any]:
        return self.strategy.record(self.state)

    def drops(self, event: Event) -> bool:
        """Whether an event changes nothing."""
        after, orders = self.strategy.react(self.state, event)
        return after is self.state and not orders


Kind = Literal["refused", "failed", "rejected", "lost"]


def report(order: TaskRequest, value: float = 1.0, **tensors: torch.Tensor) -> TaskResult:
    found = {"w": torch.full((2,), float(value)), **tensors}
    return TaskResult(
        request_id=order.request_id, worker=order.worker, round=order.round, num_examples=1, tensors=found
    )


def failure(order: TaskRequest, kind: Kind = "failed") -> TaskFailure:
    return TaskFailure(
        request_id=order.request_id, worker=order.worker, round=order.round, kind=kind, reason="no power"
    )


# --------------------------------------------------------------------------- orders


def test_every_worker_is_asked_once_with_the_model() -> None:
    table = Table(TWO)
    told = [(order.request_id, order.worker, order.round, order.task, order.settings) for order in table.open.values()]
    assert told == [
        ("1/alice", "alice", 1, "adding.add", {"for": "alice in 1"}),
        ("1/bob", "bob", 1, "adding.add", {"for": "bob in 1"}),
    ]
    assert all(order.tensors is START and order.state_round == 0 for order in table.open.values())
    assert (table.model, table.version, table.failure, table.awaited) == ([0, 0], 0, "", [])
    assert table.said == ["Training round 1/3"]


def test_the_seed_of_an_order_is_that_of_run_worker_and_round() -> None:
    table = Table(TWO)
    orders = list(table.open.values())
    table.reports(*TWO)
    orders += table.open.values()
    assert [order.seed for order in orders] == [request_seed(7, order.worker, order.round) for order in orders]
    assert len({order.seed for order in orders}) == len({order.request_id for order in orders}) == 4


def test_the_next_round_is_asked_when_the_last_answer_is_there() -> None:
    table = Table(TWO)
    assert table.reports("bob", value=3) == [] and table.version == 0 and table.model == [0, 0]
    assert table.reports("alice", value=1) == ["2/alice", "2/bob"]
    assert table.version == 1 and table.model == [2, 2]
    assert all(order.tensors is table.state.model and order.state_round == 1 for order in table.open.values())
    assert table.said == ["Training round 2/3"]
    assert table.record == told(["alice", "bob"], [], 2)


def test_after_the_last_round_nobody_is_asked() -> None:
    table = Table(TWO, rounds=1)
    orders = list(table.open.values())
    assert table.reports(*TWO) == []
    assert (table.version, table.model, table.failure, table.awaited) == (1, [1, 1], "", [])
    assert (
        table.drops(report(orders[0], 9))
        and table.drops(WorkerConnected(worker="bob"))
        and table.drops(RoundTimeout(version=1))
    )


def test_the_aggregate_of_a_round_holds_nothing_of_the_one_before() -> None:
    table = Table(TWO)
    for value in (1.0, 10.0, 100.0):
        table.reports(*TWO, value=value)
    assert table.model == [111, 111]


# --------------------------------------------------------------------------- races


def test_a_report_that_comes_twice_counts_once() -> None:
    table = Table(TWO)
    again = report(table.open["alice"], 50)
    table.reports("alice")
    assert table.drops(again)
    table.reports("bob", value=3)
    assert table.model == [2, 2]


@pytest.mark.parametrize("request_id", ["1/mallory", "2/alice", "", "1/alice/", "1/alice/1", "alice"])
def test_an_answer_to_an_order_that_was_never_given_is_dropped(request_id: str) -> None:
    table = Table(TWO)
    foreign = TaskRequest(request_id=request_id, worker="alice", round=1, task="t")
    assert table.drops(report(foreign)) and table.drops(failure(foreign)) and table.drops(failure(foreign, "lost"))


def test_an_answer_to_anothers_order_is_dropped() -> None:
    table = Table(TWO)
    assert table.drops(replace(report(table.open["alice"], 50), worker="bob"))


def test_a_failure_after_the_report_is_dropped() -> None:
    table = Table(TWO)
    late = failure(table.open["alice"])
    table.reports("alice")
    assert table.drops(late)


def test_who_is_not_in_the_plan_is_not_heard() -> None:
    table = Table(TWO)
    for event in (
        WorkerConnected(worker="mallory"),
        WorkerDisconnected(worker="mallory", reason=""),
        ResponseTimed(worker="mallory", seconds=1),
    ):
        assert table.drops(event)


# --------------------------------------------------------------------------- deadlines and late answers


def test_at_the_deadline_a_quorum_closes_the_round() -> None:
    table = Table(quorum=2)
    table.reports("alice", value=1)
    table.reports("charlie", value=3)
    assert table.deadline() == ["2/alice", "2/charlie"], "bob is still busy with round 1"
    assert table.model == [2, 2]
    assert table.said == ["Round 1: 2 of 3 reports at the deadline; missing: bob", "Training round 2/3"]
    assert table.record == told([*THREE], ["bob"], 2)


def test_a_late_answer_is_dropped_and_counted_and_its_worker_is_asked_in_the_next_round() -> None:
    table = Table(quorum=2)
    table.reports("alice", "charlie")
    table.deadline()
    late = table.open["bob"]
    assert table.strategy.worker_model(table.state, report(late)) is None
    assert table.reports("bob", value=50) == []
    assert table.drops(report(late, 50)), "it is late once"
    assert table.reports("alice", "charlie") == ["3/alice", "3/bob", "3/charlie"]
    assert table.model == [2, 2]
    assert table.record == told(["alice", "charlie"], [], 2, late=1)
    assert [order.state_round for order in table.open.values()] == [2, 0, 2], "bob's report was not taken"


@pytest.mark.parametrize("kind", ["refused", "failed", "rejected"])
def test_a_late_failure_is_a_strike(kind: Kind) -> None:
    table = Table(TWO, quorum=1, rounds=9)
    for version in (1, 3, 5):
        table.reports("alice")
        assert table.deadline() == [f"{version + 1}/alice"]
        assert table.fails("bob", kind=kind) == []
        table.reports("alice")
        assert (table.record["num_late"], table.record["num_failures"]) == (0, 1)
    assert list(table.record["excluded"]) == ["bob"]


def test_a_late_loss_takes_its_worker_away() -> None:
    table = Table(quorum=1, workers=TWO)
    table.reports("alice")
    table.deadline()
    table.fails("bob", kind="lost")
    assert table.reports("alice") == ["3/alice"], "before its Left has come"
    table.take(WorkerDisconnected(worker="bob", reason="gone"))
    assert table.joins("bob") == []


def test_before_a_quorum_the_deadline_is_said_and_the_next_report_closes_the_round() -> None:
    table = Table(quorum=2)
    table.reports("alice")
    before = dict(table.open)
    assert table.deadline() == [] and table.version == 0 and table.open == before
    assert table.said == ["Round 1: 1 of 3 reports at the deadline; missing: bob, charlie"]
    assert table.reports("bob") == ["2/alice", "2/bob"], "its time was up; charlie's order is late now"


def test_who_hangs_is_not_relied_on_once_the_time_is_up() -> None:
    table = Table(quorum=2)
    table.leaves("alice")
    assert table.joins("alice") == [], "bob and charlie are at work, and may be a quorum"
    table.reports("bob")
    assert table.deadline() == ["1/alice/2"], "charlie may hang for ever"
    assert table.reports("alice") == ["2/alice", "2/bob"]


def test_a_deadline_of_an_earlier_version_says_nothing() -> None:
    table = Table(quorum=2)
    table.reports(*THREE)
    table.reports("alice", "bob")
    assert table.drops(RoundTimeout(version=0)) and table.version == 1
    table.deadline()
    assert table.version == 2


def test_with_stragglers_in_the_way_of_a_quorum_the_next_round_waits_for_their_late_answers() -> None:
    table = Table(FIVE, quorum=2, chooser=Some(2), over_select=1.0)
    assert table.reports("emil", "dora") == ["2/emil", "2/dora", "2/alice"], "the others are busy with round 1"
    assert table.reports("emil", "dora") == ["3/emil", "3/dora"]
    table.leaves("emil")
    table.leaves("dora")
    assert table.version == 2 and table.awaited == [] and set(table.open) == {"alice", "bob", "charlie"}
    assert table.reports("bob") == ["3/bob"], "put beside those who are away"
    assert table.reports("bob") == [] and table.reports("alice") == ["3/alice"]
    table.reports("alice")
    assert table.version == 3


def test_a_round_does_not_begin_while_too_many_are_busy() -> None:
    table = Table(quorum=2, chooser=Some(2), over_select=0.5)
    table.reports("alice")
    assert table.leaves("alice") == []
    assert table.reports("bob") == [] and table.version == 1, "charlie is busy with round 1"
    assert table.awaited == [] and table.said == []
    assert table.reports("charlie") == ["2/charlie", "2/bob"]


# --------------------------------------------------------------------------- more than the cohort


@pytest.mark.parametrize(
    ("share", "count", "asked"), [(0.0, 4, 4), (0.1, 4, 5), (0.25, 4, 5), (0.3, 4, 6), (1.0, 4, 8), (9.0, 4, 10)]
)
def test_over_selection_asks_more_than_the_cohort(share: float, count: int, asked: int) -> None:
    table = Table([f"w{number}" for number in range(10)], chooser=Some(count), over_select=share)
    assert len(table.asked) == asked == min(10, math.ceil(round((1 + share) * count, 9)))


@pytest.mark.parametrize("hundredths", range(101))
def test_over_selection_asks_nobody_for_a_rounding_error(hundredths: int) -> None:
    """0.07 of 100 is 7.000000000000001 in floats."""
    table = Table([f"w{number}" for number in range(200)], chooser=Some(100), over_select=hundredths / 100)
    assert len(table.asked) == 100 + hundredths


def test_over_selected_the_round_closes_at_the_cohorts_size() -> None:
    table = Table(FIVE, chooser=Some(2), over_select=1.0)
    assert table.asked == ["1/emil", "1/dora", "1/charlie", "1/bob"]
    table.reports("bob")
    assert table.reports("dora", value=3) == ["2/dora", "2/bob", "2/alice"], "the others are busy"
    assert table.model == [2, 2]
    assert table.record == told(["emil", "dora", "charlie", "bob"], ["emil", "charlie"], 2)
    table.reports("emil", value=50)
    table.reports("alice", "bob")
    assert table.record == told(["dora", "bob", "alice"], ["dora"], 2, late=1)
    assert table.model == [3, 3]


def test_those_asked_beyond_the_cohort_may_fail() -> None:
    table = Table(FIVE, chooser=Some(2), over_select=0.5)
    assert table.asked == ["1/emil", "1/dora", "1/charlie"]
    assert table.fails("emil") == [] and table.reports("dora") == []
    assert table.fails("charlie") == ["1/emil/2", "1/charlie/2"], "now the quorum needs them"
    table.reports("charlie")
    assert table.version == 1


# --------------------------------------------------------------------------- failures


@pytest.mark.parametrize("kind", ["refused", "failed", "rejected"])
def test_with_a_quorum_a_failure_is_asked_again_in_the_next_round(kind: Kind) -> None:
    table = Table(quorum=2)
    assert table.fails("bob", kind=kind) == []
    assert table.reports("alice") == []
    assert table.reports("charlie") == ["2/alice", "2/bob", "2/charlie"], "every order is answered"
    assert table.record["missing_workers"] == ["bob"]


@pytest.mark.parametrize("kind", ["refused", "failed", "rejected"])
def test_where_the_quorum_needs_it_a_failure_is_asked_again_when_all_have_answered(kind: Kind) -> None:
    table = Table()
    first = table.open["bob"]
    assert table.fails("bob", kind=kind) == [] and table.reports("alice") == [], "it has as long as the others take"
    assert table.reports("charlie") == ["1/bob/2"]
    again = table.open["bob"]
    assert replace(again, request_id=first.request_id) == first, "the same order but for its id"
    assert table.drops(report(first, 50)), "it was answered"
    assert table.fails("bob", kind=kind) == ["1/bob/3"], "nobody else is at work"
    table.reports("bob")
    assert table.version == 1 and table.model == [1, 1] and not table.failure


def test_at_the_deadline_a_failure_is_asked_again_though_others_are_at_work() -> None:
    table = Table()
    table.fails("bob")
    table.reports("alice")
    assert table.deadline() == ["1/bob/2"]


def test_one_that_was_lost_after_a_failure_is_asked_again_when_all_have_answered() -> None:
    table = Table()
    table.fails("bob")
    table.leaves("bob")
    assert table.joins("bob") == [] and table.reports("alice") == []
    assert table.reports("charlie") == ["1/bob/2"]


def test_what_failed_is_said_and_the_third_time_in_a_row_excludes() -> None:
    table = Table(quorum=2, rounds=9)
    for number in (1, 2):
        table.fails("bob", kind="refused")
        assert table.said == ["bob refused its order: no power"]
        table.reports("alice", "charlie")
        assert table.version == number
    table.fails("bob")
    assert table.said == ["bob is excluded: it failed: no power, three times in a row"]
    assert table.reports("alice", "charlie") == ["4/alice", "4/charlie"]
    assert table.record["excluded"] == {"bob": "failed: no power, three times in a row"}
    assert table.record["cohort"] == [*THREE] and table.record["missing_workers"] == ["bob"]
    table.leaves("bob")
    table.joins("bob")
    assert table.reports("alice", "charlie") == ["5/alice", "5/charlie"]
    assert table.record["excluded"].keys() == {"bob"} and table.record["cohort"] == ["alice", "charlie"]


def test_a_report_that_counts_ends_the_row() -> None:
    table = Table(quorum=2, rounds=9)
    for _ in range(2):
        table.fails("bob")
        table.reports("alice", "charlie")
    table.reports(*THREE)
    for _ in range(2):
        table.fails("bob")
        assert table.reports("alice", "charlie")[1] == f"{table.version + 1}/bob"


def test_a_good_report_that_comes_too_late_ends_the_row() -> None:
    table = Table(TWO, quorum=1, rounds=9)
    for _ in range(2):
        table.fails("bob")
        table.reports("alice")
    table.reports("alice")
    table.deadline()
    table.reports("bob")
    table.reports("alice")
    for _ in range(2):
        table.fails("bob")
        assert "excluded" not in table.record
        table.reports("alice")
    assert "bob" in table.open


def test_a_bad_report_that_comes_too_late_does_not() -> None:
    table = Table(TWO, quorum=1, rounds=9)
    for _ in range(2):
        table.fails("bob")
        table.reports("alice")
    table.reports("alice")
    table.deadline()
    table.reports("bob", value=math.nan)
    table.reports("alice")
    table.fails("bob")
    assert table.said[0].startswith("bob is excluded")


def test_too_few_left_end_the_run_and_are_named() -> None:
    table = Table(TWO, quorum=2)
    table.reports(*TWO)
    table.reports("alice", value=50)
    assert table.fails("bob") == ["2/bob/2"] and table.fails("bob") == ["2/bob/3"] and not table.failure
    assert table.fails("bob") == []
    why = "bob: failed: no power, three times in a row"
    assert table.failure == f"round 2: too few workers are left for min_results 2: {why}"
    assert table.version == 1 and table.model == [1, 1] and table.awaited == []
    for event in (WorkerConnected(worker="bob"), RoundTimeout(version=1)):
        assert table.drops(event)
    state, orders = table.strategy.resume(table.state, TWO)
    assert not orders and table.strategy.failure(state) == table.failure


def test_one_excluded_within_a_round_stands_in_its_record() -> None:
    table = Table(FIVE, quorum=2, chooser=Some(2))
    assert table.asked == ["1/emil", "1/dora"]
    table.fails("emil")
    assert table.reports("dora") == ["1/emil/2"]
    table.fails("emil")
    assert table.fails("emil") == ["1/charlie"]
    table.reports("charlie")
    assert table.record["cohort"] == ["emil", "dora", "charlie"] and table.record["missing_workers"] == ["emil"]


# --------------------------------------------------------------------------- those who leave and join


def test_who_is_lost_is_asked_again_when_it_has_joined() -> None:
    table = Table()
    first = table.open["bob"]
    assert table.fails("bob", kind="lost") == [] and table.awaited == ["bob"], "its Left is still to come"
    table.take(WorkerDisconnected(worker="bob", reason="gone"))
    assert table.said == ["bob has left: gone"]
    assert table.reports("alice", "charlie") == [] and table.awaited == ["bob"]
    assert table.deadline() == [] and table.version == 0
    assert table.joins("bob") == ["1/bob/2"] and table.awaited == []
    assert table.said == ["bob has joined"]
    assert replace(table.open["bob"], request_id=first.request_id) == first
    assert table.reports("bob") == ["2/alice", "2/bob", "2/charlie"]


def test_a_worker_that_dies_at_each_request_is_excluded_and_the_run_ends() -> None:
    table = Table(TWO)
    table.reports("alice")
    for number in range(2, 10):
        assert table.leaves("bob") == []
        assert table.joins("bob") == [f"1/bob/{number}"]
    assert table.leaves("bob") == [] and table.awaited == []
    died = "failed: lost 3 times while it worked on adding.add; was its memory short?, three times in a row"
    assert table.failure == f"round 1: too few workers are left for min_results 2: bob: {died}"


def test_a_lost_link_in_each_round_is_borne_however_long_a_run_is() -> None:
    table = Table(TWO, rounds=30)
    for number in range(1, 29):
        for _ in range(2):
            table.leaves("bob")
            table.joins("bob")
        assert table.reports(*TWO) == [f"{number + 1}/alice", f"{number + 1}/bob"] and table.record["num_failures"] == 2


def test_a_round_waits_for_a_worker_that_has_refused_until_later() -> None:
    table = Table(TWO)
    later = replace(failure(table.open["bob"], "refused"), code="retry_later", retry_after=3600.0)
    assert table.take(later) == [] and table.awaited == [], "it is there, and its time is known"
    assert table.reports("alice") == [] and not table.failure
    assert table.joins("bob") == []
    assert table.take(WorkerAvailable(worker="bob")) == ["1/bob/2"]
    assert table.reports("bob") == ["2/alice", "2/bob"]


def test_another_takes_the_place_of_a_worker_that_has_refused_until_later() -> None:
    table = Table(quorum=2, chooser=Some(2))
    assert [*table.open] == ["charlie", "bob"]
    later = replace(failure(table.open["bob"], "refused"), code="retry_later", retry_after=3600.0)
    assert table.take(later) == ["1/alice"]
    assert table.reports("charlie", "alice") == ["2/charlie", "2/alice"] and table.version == 1


def test_links_that_are_lost_between_orders_cost_nothing() -> None:
    table = Table(TWO, rounds=30)
    for _ in range(20):
        table.reports("bob")
        table.leaves("bob")
        table.joins("bob")
        table.reports("alice")
    assert table.version == 20 and not table.failure


def test_with_a_quorum_nobody_is_waited_for() -> None:
    table = Table(quorum=2)
    table.leaves("bob")
    assert table.awaited == []
    table.reports("alice")
    assert table.reports("charlie") == ["2/alice", "2/charlie"]
    assert table.record == told([*THREE], ["bob"], 2, failed=1)
    assert table.joins("bob") == [], "from the next round on"
    assert table.reports("alice", "charlie") == ["3/alice", "3/bob", "3/charlie"]


def test_who_has_reported_may_leave() -> None:
    table = Table()
    table.reports("bob", value=4)
    table.leaves("bob")
    assert table.awaited == []
    assert table.reports("alice", "charlie", value=1) == [] and table.model == [2, 2]
    assert table.awaited == ["bob"], "now that the next round needs it"
    assert table.joins("bob") == ["2/alice", "2/bob", "2/charlie"]


def test_a_round_begins_when_a_quorum_is_there() -> None:
    table = Table(quorum=2, here=["alice"])
    assert table.asked == [] and table.awaited == ["bob", "charlie"] and table.said == []
    assert table.deadline() == [] and table.said == []
    assert table.joins("charlie") == ["1/alice", "1/charlie"]
    assert table.said == ["charlie has joined", "Training round 1/3"] and table.awaited == []
    assert table.joins("bob") == []
    table.reports("alice", "charlie")
    assert table.version == 1 and set(table.open) == {*THREE}


def test_beside_those_who_are_away_others_are_put() -> None:
    table = Table(FIVE, chooser=Some(3))
    assert table.asked == ["1/emil", "1/dora", "1/charlie"]
    table.reports("dora")
    assert table.leaves("emil") == ["1/bob"] and table.awaited == []
    assert table.leaves("charlie") == ["1/alice"]
    assert table.leaves("bob") == [] and table.awaited == ["bob", "charlie", "emil"]
    table.reports("alice")
    assert table.joins("bob") == ["1/bob/2"], "whoever comes first"
    assert table.joins("emil") == []
    assert table.reports("bob") == ["2/emil", "2/dora", "2/bob"]
    assert table.record["cohort"] == ["emil", "dora", "charlie", "bob", "alice"]
    assert table.record["missing_workers"] == ["emil", "charlie"]


def test_who_has_reported_and_left_needs_nobody_beside_it() -> None:
    table = Table(FIVE, chooser=Some(2))
    table.reports("emil")
    assert table.leaves("emil") == [] and table.awaited == []
    assert table.leaves("dora") == ["1/charlie"]


def test_awaited_are_those_whose_report_is_not_there() -> None:
    table = Table(quorum=2, here=["alice", "bob"])
    table.reports("alice")
    assert table.awaited == [], "bob is at work; charlie is away, but not needed"
    table.leaves("alice")
    assert table.awaited == []
    table.leaves("bob")
    assert table.awaited == ["bob", "charlie"]


def test_others_are_put_beside_those_who_are_overdue() -> None:
    table = Table(FIVE, chooser=Some(2))
    assert table.deadline() == ["1/charlie", "1/bob"] and set(table.open) == {"emil", "dora", "charlie", "bob"}
    table.reports("charlie")
    assert table.reports("dora") == ["2/dora", "2/charlie"], "an overdue order stays good"


def test_after_the_deadline_the_quorum_is_enough_whoever_makes_it() -> None:
    table = Table(FIVE, quorum=2, chooser=Some(3))
    assert table.deadline() == ["1/bob", "1/alice"]
    assert table.reports("emil") == []
    assert table.reports("dora") == ["2/emil", "2/dora"], "though bob and alice have just begun"
    assert table.record == told(["emil", "dora", "charlie", "bob", "alice"], ["charlie", "bob", "alice"], 2)


def test_choosers_know_who_has_waited() -> None:
    table = Table(FIVE, chooser=Some(2, by_wait=True), rounds=9)
    asked = [table.asked, *(table.reports(*table.open) for _ in range(4))]
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
        table = Table(chooser=Drawn(3))
        table.reports(*THREE)
    assert drawn == [Random("7/1").random(), Random("7/2").random()] * 2


# --------------------------------------------------------------------------- reports that do not fit

UNFIT: list[Any] = [
    ({"x": torch.ones(1)}, "x is not known here"),
    ({"w": torch.ones(2, 2)}, "w has shape [2, 2], not [2]"),
    ({"w": torch.ones(2).double()}, "w is float64, not float32"),
    ({"w": torch.tensor([1, math.nan])}, "w holds NaN"),
    ({"w": torch.tensor([math.inf, 1])}, "w holds Inf"),
    ({"w": torch.full((2,), 13.0)}, "13 is bad luck"),
]
unfit = pytest.mark.parametrize(("tensors", "text"), UNFIT, ids=[text for _, text in UNFIT])


@unfit
@pytest.mark.parametrize("place", [0, 1, 2])
def test_a_report_that_does_not_fit_is_rejected_whoever_comes_first(
    tensors: dict[str, Any], text: str, place: int
) -> None:
    table = Table(quorum=2)
    for number, worker in enumerate(["alice", "charlie"]):
        if number == place:
            table.reports("bob", **tensors)
            assert table.said == [f"bob sent a report that was rejected: {text}"]
        table.reports(worker, value=2)
    if place == 2:
        assert table.strategy.worker_model(table.state, report(table.open["bob"], **tensors)) is None
        table.reports("bob", **tensors)
        assert table.said[0] == f"bob sent a report that was rejected: {text}"
    assert table.version == 1 and table.model == [2, 2] and table.record["missing_workers"] == ["bob"]
    assert table.open["bob"].state_round == 0


def test_whose_reports_never_fit_is_excluded() -> None:
    table = Table(quorum=3)
    table.reports("alice", "charlie")
    nan = torch.full((2,), math.nan)
    assert table.reports("bob", w=nan) == ["1/bob/2"] and table.reports("bob", w=nan) == ["1/bob/3"]
    table.reports("bob", w=nan)
    why = "bob: sent a report that was rejected: w holds NaN, three times in a row"
    assert table.failure == f"round 1: too few workers are left for min_results 3: {why}"


def test_a_report_whose_step_overflows_is_rejected() -> None:
    class Squaring(Adding):
        def worker_model(self, model: Tensors, report: TaskResult) -> Tensors | None:
            return {"w": report.tensors["w"] ** 2}

    table = Table(TWO, algorithm=Squaring())
    table.reports("bob", value=3e38)
    assert table.said == ["bob sent a report that was rejected: w holds Inf"]


@unfit
def test_an_algorithm_without_models_of_workers_has_its_result_checked(tensors: dict[str, Any], text: str) -> None:
    class Silent(Adding):
        def worker_model(self, model: Tensors, report: TaskResult) -> None:
            return None

    table = Table(TWO, algorithm=Silent())
    if "holds" in text:
        assert table.reports("bob") == [] and table.reports("alice", **tensors) == ["1/alice/2"], "seen by itself"
        return
    assert table.reports(*TWO, **tensors) == []
    assert table.failure == f"round 1: the reports do not fit the model: {text}"
    assert table.version == 0 and table.model == [0, 0] and table.awaited == []


def test_a_result_that_is_no_number_ends_the_run() -> None:
    class Bursting(Adding):
        def server_update(self, model: Tensors, aggregated: Tensors, round_number: int) -> Tensors:
            return {"w": aggregated["w"] * math.inf}

        def worker_model(self, model: Tensors, report: TaskResult) -> None:
            return None

    table = Table(TWO, algorithm=Bursting())
    table.reports(*TWO)
    assert table.failure == "round 1: the reports do not fit the model: w holds Inf"
    state, orders = table.strategy.resume(table.state, TWO)
    assert not orders and table.strategy.failure(state) == table.failure, "and so it stays"


def test_a_workers_own_model_is_of_the_model_it_was_sent() -> None:
    table = Table(TWO)
    table.reports(*TWO)
    found = table.strategy.worker_model(table.state, report(table.open["alice"], 5))
    assert found is not None and found["w"].tolist() == [6, 6]
    order = table.open["alice"]
    table.reports("alice")
    assert table.strategy.worker_model(table.state, report(order, 5)) is None, "it was answered"


# --------------------------------------------------------------------------- going on from a stored state


def test_a_stored_run_asks_its_cohort_again() -> None:
    table = Table(FIVE, chooser=Some(3, by_wait=True))
    table.reports("emil", "dora", "charlie")
    before, kept = dict(table.open), table.state
    assert list(before) == ["bob", "alice", "emil"]
    table.reports("bob", value=50)
    table.state, orders = table.strategy.resume(kept, FIVE)
    table.open = {order.worker: order for order in orders}
    assert [order.request_id for order in orders] == ["2/bob/2", "2/alice/2", "2/emil/2"]
    assert all(replace(order, request_id=before[order.worker].request_id) == before[order.worker] for order in orders)
    assert table.said == ["Training round 2/3"]
    assert table.drops(report(before["bob"])), "nobody knows of it any more"
    table.reports("bob", "alice", "emil", value=4)
    assert table.model == [5, 5]


def test_reports_of_a_round_that_is_stored_half_done_are_asked_again() -> None:
    table = Table()
    table.reports("alice", "bob", value=50)
    table.state, orders = table.strategy.resume(table.state, THREE)
    table.open = {order.worker: order for order in orders}
    assert [order.request_id for order in orders] == ["1/alice/2", "1/bob/2", "1/charlie/2"]
    table.reports(*THREE, value=2)
    assert table.version == 1 and table.model == [2, 2]


def test_the_time_of_a_round_that_is_stored_begins_again() -> None:
    table = Table(quorum=2)
    table.deadline()
    table.state, orders = table.strategy.resume(table.state, THREE)
    table.open = {order.worker: order for order in orders}
    assert table.reports("alice", "bob") == [] and table.version == 0
    assert len(table.reports("charlie")) == 3 and table.version == 1


def test_a_stored_run_goes_on_with_those_who_are_there() -> None:
    table = Table(FIVE, chooser=Some(3, by_wait=True))
    table.reports("emil", "dora", "charlie")
    state, orders = table.strategy.resume(table.state, ["alice", "bob", "charlie"])
    assert [order.request_id for order in orders] == ["2/bob/2", "2/alice/2", "2/charlie"], "emil is away"
    state, orders = table.strategy.resume(table.state, ["alice", "bob"])
    assert [order.request_id for order in orders] == ["2/bob/2", "2/alice/2"]
    assert table.strategy.waiting_for(state) == ["charlie", "dora", "emil"]
    partial = Table(quorum=1)
    state, orders = partial.strategy.resume(partial.state, ["bob"])
    assert [order.request_id for order in orders] == ["1/bob/2"] and not partial.strategy.waiting_for(state)
    state, _ = partial.strategy.react(state, report(orders[0]))
    assert partial.strategy.version(state) == 1


def test_a_stored_run_knows_who_is_excluded_and_what_was_late() -> None:
    table = Table(quorum=1, rounds=9)
    for _ in range(3):
        table.fails("bob")
        table.reports("alice", "charlie")
    table.reports("alice")
    table.deadline()
    table.reports("charlie")
    state, orders = table.strategy.resume(table.state, THREE)
    assert [order.request_id for order in orders] == ["5/alice/2"], "a round goes on with its cohort"
    state, orders = table.strategy.react(state, report(orders[0]))
    assert [order.request_id for order in orders] == ["6/alice", "6/charlie"]
    assert table.strategy.record(state)["num_late"] == 1


def test_a_run_that_has_ended_stays_so() -> None:
    table = Table(TWO, rounds=1)
    table.reports(*TWO)
    state, orders = table.strategy.resume(table.state, TWO)
    assert not orders and table.strategy.version(state) == 1 and table.strategy.waiting_for(state) == ()


# --------------------------------------------------------------------------- purity


def test_a_state_cannot_be_changed_and_a_new_one_leaves_the_old() -> None:
    table = Table(TWO)
    first = table.state
    with pytest.raises(FrozenInstanceError):
        first.round = 5  # type: ignore[misc]
    table.reports(*TWO)
    assert (first.round, list(first.participants.open_requests), first.model) == (1, ["1/alice", "1/bob"], START)
    assert START["w"].tolist() == [0, 0]


def test_one_strategy_can_drive_two_runs() -> None:
    one, other = Table(TWO), Table(TWO)
    other.strategy = one.strategy
    one.reports("alice", value=1)
    other.reports("alice", value=5)
    one.reports("bob", value=1)
    other.reports("bob", value=5)
    assert (one.model, other.model) == ([1, 1], [5, 5])
