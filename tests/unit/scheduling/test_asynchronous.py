"""The state machine of asynchronous algorithms: no barrier, and every report knows how stale it is."""

import math
from collections.abc import Sequence
from dataclasses import FrozenInstanceError, dataclass, replace
from typing import Any, Literal

import pytest
import torch

from fedws.core.errors import RejectedUpdate
from fedws.core.seeds import request_seed
from fedws.core.tensors import Tensors, find_mismatch
from fedws.protocol.messages import TaskFailure, TaskRequest, TaskResult
from fedws.scheduling.asynchronous import AsynchronousScheduler, AsynchronousState
from fedws.scheduling.base import TaskSpec
from fedws.scheduling.events import Event, ResponseTimed, RoundTimeout, WorkerConnected, WorkerDisconnected
from fedws.scheduling.schedule_config import ScheduleConfig

START = {"w": torch.zeros(2)}
THREE = ("alice", "bob", "charlie")
State = AsynchronousState[list[Any]]
Kind = Literal["refused", "failed", "rejected", "lost"]


@dataclass(frozen=True)
class Adding:
    """The model is the sum of all reports; the buffer is a list of what was taken in, and how stale it was."""

    buffer_size: int = 1

    def configure(self, model: Tensors, worker: str, round_number: int) -> TaskSpec:
        return TaskSpec("adding.add", {"for": f"{worker} in {round_number}"}, model)

    def init(self) -> list[Any]:
        return []

    def accumulate(self, model: Tensors, buffer: list[Any], report: TaskResult, staleness: int) -> list[Any]:
        if (report.tensors["w"] == 13).any():
            raise RejectedUpdate("13 is bad luck")
        return [*buffer, [report.worker, staleness, report.tensors["w"]]]

    def server_update(self, model: Tensors, buffer: list[Any]) -> Tensors:
        total = model["w"] + sum(tensor for _, _, tensor in buffer)
        if (total == 1000).any():
            raise RejectedUpdate("it is full")
        return {"w": total}

    def worker_model(self, model: Tensors, report: TaskResult) -> Tensors | None:
        if find_mismatch(report.tensors, model):
            raise RejectedUpdate(find_mismatch(report.tensors, model))
        return {"w": model["w"] + report.tensors["w"]}


class Table:
    """A run in which the test plays the workers."""

    def __init__(
        self,
        k: int = 1,
        quorum: int = 1,
        rounds: int = 20,
        here: Sequence[str] = THREE,
        workers: Sequence[str] = THREE,
        algorithm: Any = None,
    ) -> None:
        algorithm = algorithm or Adding(k)
        self.strategy = AsynchronousScheduler[Any](algorithm, ScheduleConfig(tuple(workers), rounds, 7, quorum))
        state, orders = self.strategy.start(START, here)
        self.state: State = state
        self.open = {order.worker: order for order in orders}

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
        return [
            request_id for worker in workers for request_id in self.take(report(self.open[worker], value, **tensors))
        ]

    def fails(self, worker: str, kind: Kind = "failed") -> list[str]:
        return self.take(failure(self.open[worker], kind))

    def leaves(self, worker: str) -> list[str]:
        asked = self.fails(worker, "lost") if worker in self.open else []
        return asked + self.take(WorkerDisconnected(worker=worker, reason="gone"))

    def joins(self, worker: str) -> list[str]:
        return self.take(WorkerConnected(worker=worker))

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
    def updates(self) -> list[tuple[str, int]]:
        """Of which reports the newest version was made."""
        record = self.strategy.record(self.state)
        return [(update["worker"], update["staleness"]) for update in record["updates"]]

    def drops(self, event: Event) -> bool:
        after, orders = self.strategy.react(self.state, event)
        return after is self.state and not orders


def report(order: TaskRequest, value: float = 1.0, **tensors: torch.Tensor) -> TaskResult:
    found = {"w": torch.full((2,), float(value)), **tensors}
    return TaskResult(
        request_id=order.request_id, worker=order.worker, round=order.round, num_examples=1, tensors=found
    )


def failure(order: TaskRequest, kind: Kind = "failed") -> TaskFailure:
    return TaskFailure(
        request_id=order.request_id, worker=order.worker, round=order.round, kind=kind, reason="no power"
    )


# --------------------------------------------------------------------------- no barrier


def test_everybody_is_asked_at_the_start() -> None:
    table = Table()
    told = [(order.request_id, order.task, order.settings, order.state_round) for order in table.open.values()]
    assert told == [(f"1/{worker}", "adding.add", {"for": f"{worker} in 1"}, 0) for worker in THREE]
    assert all(order.tensors is START for order in table.open.values())
    assert (table.version, table.model, table.failure, table.awaited) == (0, [0, 0], "", [])


def test_the_next_order_comes_with_the_answer_and_carries_the_newest_model() -> None:
    table = Table()
    assert table.reports("bob", value=3) == ["2/bob"] and table.version == 1 and table.model == [3, 3]
    assert table.open["bob"].tensors is table.state.model and table.open["bob"].state_round == 1
    assert table.open["alice"].tensors is START
    assert table.reports("bob", value=4) == ["3/bob"] and table.model == [7, 7]
    assert table.reports("alice") == ["2/alice"] and table.model == [8, 8]


def test_the_staleness_of_a_report_is_the_versions_made_since_its_order() -> None:
    table = Table()
    found = []
    for worker in ("alice", "alice", "bob", "alice", "charlie", "charlie", "bob"):
        table.reports(worker)
        found += table.updates
    assert found == [
        ("alice", 0),
        ("alice", 0),
        ("bob", 2),
        ("alice", 1),
        ("charlie", 4),
        ("charlie", 0),
        ("bob", 3),
    ]


@pytest.mark.parametrize("staleness", range(12))
def test_any_staleness_is_counted(staleness: int) -> None:
    table = Table()
    table.reports(*["alice"] * staleness)
    table.reports("bob")
    assert table.updates == [("bob", staleness)]


def test_a_version_is_made_of_k_reports() -> None:
    table = Table(k=3)
    assert table.reports("alice") == ["2/alice"] and table.reports("alice") == ["3/alice"]
    assert table.version == 0 and table.model == [0, 0] and table.open["alice"].tensors is START
    table.reports("bob", value=5)
    assert table.version == 1 and table.model == [7, 7]
    assert table.updates == [("alice", 0), ("alice", 0), ("bob", 0)]
    table.reports("charlie", "alice", "bob")
    assert table.updates == [("charlie", 1), ("alice", 1), ("bob", 0)]
    assert table.model == [10, 10], "the buffer was emptied"


def test_the_algorithm_is_told_of_staleness_and_round() -> None:
    table = Table(k=2)
    table.reports("alice", "alice", "bob")
    assert [entry[:2] for entry in table.state.buffer] == [["bob", 1]]
    for worker in ("charlie", "bob"):
        table.reports(worker)
    assert table.open["bob"].settings == {"for": "bob in 2"}, "five reports of three workers"
    table.reports("bob")
    assert table.open["bob"].settings == {"for": "bob in 3"}


def test_every_order_of_a_worker_has_a_number_and_a_seed_of_its_own() -> None:
    table = Table()
    orders = [table.open["bob"]]
    for _ in range(4):
        table.reports("bob")
        orders.append(table.open["bob"])
    assert [(order.round, order.state_round) for order in orders] == [(n + 1, n) for n in range(5)]
    assert [order.seed for order in orders] == [request_seed(7, "bob", n) for n in range(1, 6)]


def test_after_the_last_version_nobody_is_asked() -> None:
    table = Table(rounds=2)
    last = table.open["charlie"]
    table.reports("alice")
    assert table.reports("alice") == [] and table.version == 2
    assert table.drops(report(last, 50)) and table.drops(WorkerConnected(worker="bob"))
    assert table.awaited == [] and not table.failure


# --------------------------------------------------------------------------- races


def test_an_answer_counts_once_and_for_its_worker_alone() -> None:
    table = Table()
    first = table.open["alice"]
    table.reports("alice")
    for event in (report(first, 50), failure(first), failure(first, "lost"), WorkerConnected(worker="mallory")):
        assert table.drops(event)
    assert table.drops(replace(report(table.open["bob"]), worker="alice"))
    assert table.drops(report(TaskRequest(request_id="9/bob", worker="bob", round=9, task="t")))


def test_there_are_no_deadlines() -> None:
    table = Table()
    assert table.drops(RoundTimeout(version=0)) and table.drops(RoundTimeout(version=1))


def test_how_long_an_answer_took_asks_nobody() -> None:
    table = Table()
    assert table.take(ResponseTimed(worker="bob", seconds=1.0)) == []


# --------------------------------------------------------------------------- failures


@pytest.mark.parametrize("kind", ["refused", "failed", "rejected"])
def test_what_failed_is_asked_again_at_once_until_the_third_time(kind: Kind) -> None:
    table = Table()
    first = table.open["bob"]
    assert table.fails("bob", kind) == ["1/bob/2"]
    assert replace(table.open["bob"], request_id=first.request_id) == first
    table.reports("alice")
    assert table.fails("bob", kind) == ["1/bob/3"]
    again = table.open["bob"]
    assert again.seed == first.seed and again.tensors is table.state.model, "the same work on the newest model"
    assert table.fails("bob", kind) == []
    (line,) = table.strategy.log_lines(table.state)
    assert line.startswith("bob is excluded: it ") and line.endswith(": no power, three times in a row")
    table.reports("alice")
    assert list(table.strategy.record(table.state)["excluded"]) == ["bob"]
    assert table.joins("bob") == []
    record = table.strategy.record(table.state)
    assert (record["num_results"], record["num_failures"]) == (1, 2), "one was before the version before"


def test_a_report_that_counts_ends_the_row() -> None:
    table = Table()
    for number in range(1, 4):
        assert table.fails("bob") == [f"{number}/bob/2"] and table.fails("bob") == [f"{number}/bob/3"]
        assert table.reports("bob") == [f"{number + 1}/bob"]


def test_when_too_few_are_left_the_run_ends_and_names_them() -> None:
    table = Table(quorum=2)
    for worker in ("bob", "charlie"):
        for _ in range(3):
            assert not table.failure
            table.fails(worker)
    why = "failed: no power, three times in a row"
    few = "too few workers are left for min_results 2"
    assert table.failure == f"version 1: {few}: bob: {why}; charlie: {why}"
    assert table.drops(report(table.open["alice"])) and table.awaited == []
    state, orders = table.strategy.resume(table.state, THREE)
    assert not orders and table.strategy.failure(state)


def test_who_is_lost_is_asked_again_when_it_has_joined() -> None:
    table = Table()
    first = table.open["bob"]
    assert table.fails("bob", "lost") == [] and table.leaves("bob") == []
    assert table.awaited == []
    table.reports("alice")
    assert table.joins("bob") == ["1/bob/2"]
    again = table.open["bob"]
    assert (again.seed, again.state_round) == (first.seed, 0) and again.tensors is table.state.model
    table.reports("bob")
    assert table.updates == [("bob", 0)], "its order is new"


def test_below_its_quorum_nobody_is_asked_and_those_away_are_awaited() -> None:
    table = Table(quorum=2)
    assert table.leaves("bob") == [] and table.awaited == []
    assert table.leaves("charlie") == [] and table.awaited == ["bob", "charlie"]
    assert table.reports("alice") == [] and table.version == 1, "what was under way still counts"
    assert table.joins("charlie") == ["2/alice", "1/charlie/2"] and table.awaited == []


def test_a_run_begins_when_its_quorum_is_there() -> None:
    table = Table(quorum=2, here=["alice"])
    assert not table.open and table.awaited == ["bob", "charlie"]
    assert table.joins("bob") == ["1/alice", "1/bob"]
    assert table.joins("charlie") == ["1/charlie"]


def test_with_nobody_there_all_are_awaited() -> None:
    table = Table()
    for worker in THREE:
        table.leaves(worker)
    assert table.awaited == [*THREE]
    assert table.joins("bob") == ["1/bob/2"] and table.awaited == []


# --------------------------------------------------------------------------- reports that do not fit

UNFIT: list[Any] = [
    ({"x": torch.ones(1)}, "x is not known here"),
    ({"w": torch.ones(3)}, "w has shape [3], not [2]"),
    ({"w": torch.ones(2).double()}, "w is float64, not float32"),
    ({"w": torch.tensor([1, math.nan])}, "w holds NaN"),
    ({"w": torch.tensor([math.inf, 1])}, "w holds Inf"),
    ({"w": torch.full((2,), 13.0)}, "13 is bad luck"),
]


@pytest.mark.parametrize(("tensors", "text"), UNFIT, ids=[text for _, text in UNFIT])
@pytest.mark.parametrize("k", [1, 2])
def test_a_report_that_does_not_fit_is_rejected(tensors: dict[str, Any], text: str, k: int) -> None:
    table = Table(k)
    table.reports("alice", value=2)
    unfit = report(table.open["bob"], **tensors)
    assert table.strategy.worker_model(table.state, unfit) is None or "luck" in text
    before = table.version
    assert table.take(unfit) == ["1/bob/2"] and table.version == before
    assert list(table.strategy.log_lines(table.state)) == [f"bob sent a report that was rejected: {text}"]
    table.reports("charlie", value=2)
    assert table.model == [4, 4]
    table.reports("bob", **tensors)
    table.reports("bob", **tensors)
    table.reports("alice", "alice")
    assert list(table.strategy.record(table.state)["excluded"]) == ["bob"]


SPOILT = pytest.mark.parametrize(("values", "text"), [((0.0, 1000.0), "it is full"), ((3e38, 3e38), "w holds Inf")])
"""Two reports that fit the model each, and make no version together."""


@SPOILT
def test_reports_that_make_no_version_are_dropped_and_the_last_is_rejected(
    values: tuple[float, float], text: str
) -> None:
    table = Table(k=2)
    table.reports("alice", value=values[0])
    assert table.reports("bob", value=values[1]) == ["1/bob/2"]
    assert list(table.strategy.log_lines(table.state)) == [f"bob sent a report that was rejected: {text}"]
    assert (table.version, table.model, table.failure) == (0, [0, 0], "")
    table.reports("bob", "charlie", value=3)
    assert table.model == [6, 6], "nothing of what was dropped is in it"
    assert table.updates == [("bob", 0), ("charlie", 0)]


def test_who_alone_spoils_every_version_is_excluded() -> None:
    table = Table(k=1)
    for _ in range(3):
        table.reports("bob", value=1000)
    assert "bob" not in table.open and not table.failure
    table.reports("alice")
    assert list(table.strategy.record(table.state)["excluded"]) == ["bob"] and table.model == [1, 1]


@SPOILT
def test_a_run_that_never_makes_a_version_ends(values: tuple[float, float], text: str) -> None:
    """Alice's first report is taken each time, so her strikes are never three in a row."""
    table = Table(k=2)
    for number in range(9):
        assert not table.failure, number
        table.reports("alice", value=values[0])
        table.reports("alice", value=values[1])
    assert table.failure == f"version 1: the reports do not fit the model: {text}"
    assert table.version == 0 and table.model == [0, 0] and table.awaited == []


def test_a_version_ends_the_row_of_those_that_could_not_be_made() -> None:
    table = Table(k=2)
    for _ in range(4):
        for _ in range(8):
            table.reports("alice", value=3e38)
            table.reports("alice", value=3e38)
        table.reports("bob", "bob")
    assert not table.failure and table.version == 4


def test_a_workers_own_model_is_asked_of_the_algorithm_once() -> None:
    table = Table()
    table.reports("alice", value=2)
    order = table.open["bob"]
    found = table.strategy.worker_model(table.state, report(order, 5))
    assert found is not None and found["w"].tolist() == [7, 7]
    table.reports("bob")
    assert table.strategy.worker_model(table.state, report(order, 5)) is None, "it was answered"


# --------------------------------------------------------------------------- going on from a stored state


def test_a_stored_run_asks_for_what_was_lost_with_the_same_seeds() -> None:
    table = Table(k=4)
    table.reports("alice", "alice", "bob")
    before, kept = dict(table.open), table.state
    table.reports("charlie")
    state, orders = table.strategy.resume(kept, ["alice", "charlie"])
    assert [order.request_id for order in orders] == ["3/alice/2", "1/charlie/2"]
    assert all(order.seed == before[order.worker].seed and order.tensors is START for order in orders)
    assert [order.state_round for order in orders] == [2, 0]
    state, more = table.strategy.react(state, report(orders[1]))
    assert table.strategy.version(state) == 1 and [order.request_id for order in more] == ["2/charlie"]
    assert table.strategy.record(state)["updates"][-1] == {"worker": "charlie", "staleness": 0}
    state, more = table.strategy.react(state, WorkerConnected(worker="bob"))
    assert [order.request_id for order in more] == ["2/bob/2"]
    state, more = table.strategy.resume(kept, [])
    assert not more and table.strategy.waiting_for(state) == [*THREE]


def test_a_run_that_has_ended_stays_so() -> None:
    table = Table(rounds=1)
    table.reports("alice")
    state, orders = table.strategy.resume(table.state, THREE)
    assert not orders and table.strategy.version(state) == 1 and not table.strategy.waiting_for(state)


def test_a_state_cannot_be_changed_and_a_new_one_leaves_the_old() -> None:
    table = Table()
    first = table.state
    with pytest.raises(FrozenInstanceError):
        first.version = 5  # type: ignore[misc]
    table.reports("alice", "bob")
    assert (first.version, first.buffer, first.updates, first.num_results, len(first.participants.open_requests)) == (
        0,
        [],
        (),
        0,
        3,
    )
    assert START["w"].tolist() == [0, 0]
