"""Rounds that continue from a stored state."""

from dataclasses import replace

from tests.helpers.scheduled_run import FIVE, THREE, TWO, task_result
from tests.helpers.synchronous_run import Some, SynchronousRun


def test_a_stored_run_asks_its_cohort_again() -> None:
    run = SynchronousRun(FIVE, chooser=Some(3, by_wait=True))
    run.reports("emil", "dora", "charlie")
    before, kept = dict(run.open), run.state
    assert list(before) == ["bob", "alice", "emil"]
    run.reports("bob", value=50)
    run.state, orders = run.strategy.resume(kept, FIVE)
    run.open = {order.worker: order for order in orders}
    assert [order.request_id for order in orders] == ["2/bob/2", "2/alice/2", "2/emil/2"]
    assert all(replace(order, request_id=before[order.worker].request_id) == before[order.worker] for order in orders)
    assert run.said == ["Training round 2/3"]
    assert run.drops(task_result(before["bob"])), "nobody knows of it any more"
    run.reports("bob", "alice", "emil", value=4)
    assert run.model == [5, 5]


def test_reports_of_a_round_that_is_stored_half_done_are_asked_again() -> None:
    run = SynchronousRun()
    run.reports("alice", "bob", value=50)
    run.state, orders = run.strategy.resume(run.state, THREE)
    run.open = {order.worker: order for order in orders}
    assert [order.request_id for order in orders] == ["1/alice/2", "1/bob/2", "1/charlie/2"]
    run.reports(*THREE, value=2)
    assert run.version == 1 and run.model == [2, 2]


def test_the_time_of_a_round_that_is_stored_begins_again() -> None:
    run = SynchronousRun(quorum=2)
    run.deadline()
    run.state, orders = run.strategy.resume(run.state, THREE)
    run.open = {order.worker: order for order in orders}
    assert run.reports("alice", "bob") == [] and run.version == 0
    assert len(run.reports("charlie")) == 3 and run.version == 1


def test_a_stored_run_goes_on_with_those_who_are_there() -> None:
    run = SynchronousRun(FIVE, chooser=Some(3, by_wait=True))
    run.reports("emil", "dora", "charlie")
    state, orders = run.strategy.resume(run.state, ["alice", "bob", "charlie"])
    assert [order.request_id for order in orders] == ["2/bob/2", "2/alice/2", "2/charlie"], "emil is away"
    state, orders = run.strategy.resume(run.state, ["alice", "bob"])
    assert [order.request_id for order in orders] == ["2/bob/2", "2/alice/2"]
    assert run.strategy.waiting_for(state) == ["charlie", "dora", "emil"]
    partial = SynchronousRun(quorum=1)
    state, orders = partial.strategy.resume(partial.state, ["bob"])
    assert [order.request_id for order in orders] == ["1/bob/2"] and not partial.strategy.waiting_for(state)
    state, _ = partial.strategy.react(state, task_result(orders[0]))
    assert partial.strategy.version(state) == 1


def test_a_stored_run_knows_who_is_excluded_and_what_was_late() -> None:
    run = SynchronousRun(quorum=1, rounds=9)
    for _ in range(3):
        run.fails("bob")
        run.reports("alice", "charlie")
    run.reports("alice")
    run.deadline()
    run.reports("charlie")
    state, orders = run.strategy.resume(run.state, THREE)
    assert [order.request_id for order in orders] == ["5/alice/2"], "a round goes on with its cohort"
    state, orders = run.strategy.react(state, task_result(orders[0]))
    assert [order.request_id for order in orders] == ["6/alice", "6/charlie"]
    assert run.strategy.record(state)["num_late"] == 1


def test_a_run_that_has_ended_stays_so() -> None:
    run = SynchronousRun(TWO, rounds=1)
    run.reports(*TWO)
    state, orders = run.strategy.resume(run.state, TWO)
    assert not orders and run.strategy.version(state) == 1 and run.strategy.waiting_for(state) == ()
