"""Workers that disconnect and connect during rounds."""

from dataclasses import replace

from fedws.scheduling.events import (
    WorkerDisconnected,
)
from tests.helpers.scheduled_run import FIVE, THREE, TWO
from tests.helpers.synchronous_run import Some, SynchronousRun, round_record


def test_who_is_lost_is_asked_again_when_it_has_joined() -> None:
    run = SynchronousRun()
    first = run.open["bob"]
    assert run.fails("bob", kind="lost") == [] and run.awaited == ["bob"], "its Left is still to come"
    run.take(WorkerDisconnected(worker="bob", reason="gone"))
    assert run.said == ["bob has left: gone"]
    assert run.reports("alice", "charlie") == [] and run.awaited == ["bob"]
    assert run.deadline() == [] and run.version == 0
    assert run.joins("bob") == ["1/bob/2"] and run.awaited == []
    assert run.said == ["bob has joined"]
    assert replace(run.open["bob"], request_id=first.request_id) == first
    assert run.reports("bob") == ["2/alice", "2/bob", "2/charlie"]


def test_a_lost_link_in_each_round_is_borne_however_long_a_run_is() -> None:
    run = SynchronousRun(TWO, rounds=30)
    for number in range(1, 29):
        for _ in range(2):
            run.leaves("bob")
            run.joins("bob")
        assert run.reports(*TWO) == [f"{number + 1}/alice", f"{number + 1}/bob"] and run.record["num_failures"] == 2


def test_links_that_are_lost_between_orders_cost_nothing() -> None:
    run = SynchronousRun(TWO, rounds=30)
    for _ in range(20):
        run.reports("bob")
        run.leaves("bob")
        run.joins("bob")
        run.reports("alice")
    assert run.version == 20 and not run.failure


def test_with_a_quorum_nobody_is_waited_for() -> None:
    run = SynchronousRun(quorum=2)
    run.leaves("bob")
    assert run.awaited == []
    run.reports("alice")
    assert run.reports("charlie") == ["2/alice", "2/charlie"]
    assert run.record == round_record([*THREE], ["bob"], 2, failed=1)
    assert run.joins("bob") == [], "from the next round on"
    assert run.reports("alice", "charlie") == ["3/alice", "3/bob", "3/charlie"]


def test_who_has_reported_may_leave() -> None:
    run = SynchronousRun()
    run.reports("bob", value=4)
    run.leaves("bob")
    assert run.awaited == []
    assert run.reports("alice", "charlie", value=1) == [] and run.model == [2, 2]
    assert run.awaited == ["bob"], "now that the next round needs it"
    assert run.joins("bob") == ["2/alice", "2/bob", "2/charlie"]


def test_a_round_begins_when_a_quorum_is_there() -> None:
    run = SynchronousRun(quorum=2, here=["alice"])
    assert run.asked == [] and run.awaited == ["bob", "charlie"] and run.said == []
    assert run.deadline() == [] and run.said == []
    assert run.joins("charlie") == ["1/alice", "1/charlie"]
    assert run.said == ["charlie has joined", "Training round 1/3"] and run.awaited == []
    assert run.joins("bob") == []
    run.reports("alice", "charlie")
    assert run.version == 1 and set(run.open) == {*THREE}


def test_beside_those_who_are_away_others_are_put() -> None:
    run = SynchronousRun(FIVE, chooser=Some(3))
    assert run.asked == ["1/emil", "1/dora", "1/charlie"]
    run.reports("dora")
    assert run.leaves("emil") == ["1/bob"] and run.awaited == []
    assert run.leaves("charlie") == ["1/alice"]
    assert run.leaves("bob") == [] and run.awaited == ["bob", "charlie", "emil"]
    run.reports("alice")
    assert run.joins("bob") == ["1/bob/2"], "whoever comes first"
    assert run.joins("emil") == []
    assert run.reports("bob") == ["2/emil", "2/dora", "2/bob"]
    assert run.record["cohort"] == ["emil", "dora", "charlie", "bob", "alice"]
    assert run.record["missing_workers"] == ["emil", "charlie"]


def test_who_has_reported_and_left_needs_nobody_beside_it() -> None:
    run = SynchronousRun(FIVE, chooser=Some(2))
    run.reports("emil")
    assert run.leaves("emil") == [] and run.awaited == []
    assert run.leaves("dora") == ["1/charlie"]


def test_awaited_are_those_whose_report_is_not_there() -> None:
    run = SynchronousRun(quorum=2, here=["alice", "bob"])
    run.reports("alice")
    assert run.awaited == [], "bob is at work; charlie is away, but not needed"
    run.leaves("alice")
    assert run.awaited == []
    run.leaves("bob")
    assert run.awaited == ["bob", "charlie"]


def test_others_are_put_beside_those_who_are_overdue() -> None:
    run = SynchronousRun(FIVE, chooser=Some(2))
    assert run.deadline() == ["1/charlie", "1/bob"] and set(run.open) == {"emil", "dora", "charlie", "bob"}
    run.reports("charlie")
    assert run.reports("dora") == ["2/dora", "2/charlie"], "an overdue order stays good"


def test_after_the_deadline_the_quorum_is_enough_whoever_makes_it() -> None:
    run = SynchronousRun(FIVE, quorum=2, chooser=Some(3))
    assert run.deadline() == ["1/bob", "1/alice"]
    assert run.reports("emil") == []
    assert run.reports("dora") == ["2/emil", "2/dora"], "though bob and alice have just begun"
    assert run.record == round_record(["emil", "dora", "charlie", "bob", "alice"], ["charlie", "bob", "alice"], 2)
