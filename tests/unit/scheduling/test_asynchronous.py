"""The state machine of asynchronous algorithms: no barrier, and every report knows how stale it is."""

from dataclasses import FrozenInstanceError, replace

import pytest

from fedws.core.seeds import request_seed
from fedws.protocol.messages import TaskRequest
from fedws.scheduling.events import ResponseTimed, RoundTimeout, WorkerConnected
from tests.helpers.asynchronous_run import AsynchronousRun
from tests.helpers.scheduled_run import START, THREE, task_failure, task_result

# --------------------------------------------------------------------------- no barrier


def test_everybody_is_asked_at_the_start() -> None:
    run = AsynchronousRun()
    told = [(order.request_id, order.task, order.settings, order.state_round) for order in run.open.values()]
    assert told == [(f"1/{worker}", "adding.add", {"for": f"{worker} in 1"}, 0) for worker in THREE]
    assert all(order.tensors is START for order in run.open.values())
    assert (run.version, run.model, run.failure, run.awaited) == (0, [0, 0], "", [])


def test_the_next_order_comes_with_the_answer_and_carries_the_newest_model() -> None:
    run = AsynchronousRun()
    assert run.reports("bob", value=3) == ["2/bob"] and run.version == 1 and run.model == [3, 3]
    assert run.open["bob"].tensors is run.state.model and run.open["bob"].state_round == 1
    assert run.open["alice"].tensors is START
    assert run.reports("bob", value=4) == ["3/bob"] and run.model == [7, 7]
    assert run.reports("alice") == ["2/alice"] and run.model == [8, 8]


def test_the_staleness_of_a_report_is_the_versions_made_since_its_order() -> None:
    run = AsynchronousRun()
    found = []
    for worker in ("alice", "alice", "bob", "alice", "charlie", "charlie", "bob"):
        run.reports(worker)
        found += run.updates
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
    run = AsynchronousRun()
    run.reports(*["alice"] * staleness)
    run.reports("bob")
    assert run.updates == [("bob", staleness)]


def test_a_version_is_made_of_k_reports() -> None:
    run = AsynchronousRun(k=3)
    assert run.reports("alice") == ["2/alice"] and run.reports("alice") == ["3/alice"]
    assert run.version == 0 and run.model == [0, 0] and run.open["alice"].tensors is START
    run.reports("bob", value=5)
    assert run.version == 1 and run.model == [7, 7]
    assert run.updates == [("alice", 0), ("alice", 0), ("bob", 0)]
    run.reports("charlie", "alice", "bob")
    assert run.updates == [("charlie", 1), ("alice", 1), ("bob", 0)]
    assert run.model == [10, 10], "the buffer was emptied"


def test_the_algorithm_is_told_of_staleness_and_round() -> None:
    run = AsynchronousRun(k=2)
    run.reports("alice", "alice", "bob")
    assert [entry[:2] for entry in run.state.buffer] == [["bob", 1]]
    for worker in ("charlie", "bob"):
        run.reports(worker)
    assert run.open["bob"].settings == {"for": "bob in 2"}, "five reports of three workers"
    run.reports("bob")
    assert run.open["bob"].settings == {"for": "bob in 3"}


def test_every_order_of_a_worker_has_a_number_and_a_seed_of_its_own() -> None:
    run = AsynchronousRun()
    orders = [run.open["bob"]]
    for _ in range(4):
        run.reports("bob")
        orders.append(run.open["bob"])
    assert [(order.round, order.state_round) for order in orders] == [(n + 1, n) for n in range(5)]
    assert [order.seed for order in orders] == [request_seed(7, "bob", n) for n in range(1, 6)]


def test_after_the_last_version_nobody_is_asked() -> None:
    run = AsynchronousRun(rounds=2)
    last = run.open["charlie"]
    run.reports("alice")
    assert run.reports("alice") == [] and run.version == 2
    assert run.drops(task_result(last, 50)) and run.drops(WorkerConnected(worker="bob"))
    assert run.awaited == [] and not run.failure


# --------------------------------------------------------------------------- races


def test_an_answer_counts_once_and_for_its_worker_alone() -> None:
    run = AsynchronousRun()
    first = run.open["alice"]
    run.reports("alice")
    for event in (
        task_result(first, 50),
        task_failure(first),
        task_failure(first, kind="lost"),
        WorkerConnected(worker="mallory"),
    ):
        assert run.drops(event)
    assert run.drops(replace(task_result(run.open["bob"]), worker="alice"))
    assert run.drops(task_result(TaskRequest(request_id="9/bob", worker="bob", round=9, task="t")))


def test_there_are_no_deadlines() -> None:
    run = AsynchronousRun()
    assert run.drops(RoundTimeout(version=0)) and run.drops(RoundTimeout(version=1))


def test_how_long_an_answer_took_asks_nobody() -> None:
    run = AsynchronousRun()
    assert run.take(ResponseTimed(worker="bob", seconds=1.0)) == []


# --------------------------------------------------------------------------- going on from a stored state


def test_a_stored_run_asks_for_what_was_lost_with_the_same_seeds() -> None:
    run = AsynchronousRun(k=4)
    run.reports("alice", "alice", "bob")
    before, kept = dict(run.open), run.state
    run.reports("charlie")
    state, orders = run.strategy.resume(kept, ["alice", "charlie"])
    assert [order.request_id for order in orders] == ["3/alice/2", "1/charlie/2"]
    assert all(order.seed == before[order.worker].seed and order.tensors is START for order in orders)
    assert [order.state_round for order in orders] == [2, 0]
    state, more = run.strategy.react(state, task_result(orders[1]))
    assert run.strategy.version(state) == 1 and [order.request_id for order in more] == ["2/charlie"]
    assert run.strategy.record(state)["updates"][-1] == {"worker": "charlie", "staleness": 0}
    state, more = run.strategy.react(state, WorkerConnected(worker="bob"))
    assert [order.request_id for order in more] == ["2/bob/2"]
    state, more = run.strategy.resume(kept, [])
    assert not more and run.strategy.waiting_for(state) == [*THREE]


def test_a_run_that_has_ended_stays_so() -> None:
    run = AsynchronousRun(rounds=1)
    run.reports("alice")
    state, orders = run.strategy.resume(run.state, THREE)
    assert not orders and run.strategy.version(state) == 1 and not run.strategy.waiting_for(state)


def test_a_state_cannot_be_changed_and_a_new_one_leaves_the_old() -> None:
    run = AsynchronousRun()
    first = run.state
    with pytest.raises(FrozenInstanceError):
        first.version = 5
    run.reports("alice", "bob")
    assert (
        first.version,
        first.buffer,
        first.updates,
        first.num_results,
        len(first.participants.pending_requests),
    ) == (
        0,
        [],
        (),
        0,
        3,
    )
    assert START["w"].tolist() == [0, 0]
