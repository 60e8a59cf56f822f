"""Rounds whose time is up, and results that come too late."""

import pytest

from fedws.scheduling.events import (
    RoundTimeout,
    WorkerDisconnected,
)
from tests.helpers.scheduled_run import FIVE, THREE, TWO, Kind, task_result
from tests.helpers.synchronous_run import Some, SynchronousRun, round_record


def test_at_the_deadline_a_quorum_closes_the_round() -> None:
    run = SynchronousRun(quorum=2)
    run.reports("alice", value=1)
    run.reports("charlie", value=3)
    assert run.deadline() == ["2/alice", "2/charlie"], "bob is still busy with round 1"
    assert run.model == [2, 2]
    assert run.said == ["Round 1: 2 of 3 results at the round timeout; missing: bob", "Training round 2/3"]
    assert run.record == round_record([*THREE], ["bob"], 2)


def test_a_late_answer_is_dropped_and_counted_and_its_worker_is_asked_in_the_next_round() -> None:
    run = SynchronousRun(quorum=2)
    run.reports("alice", "charlie")
    run.deadline()
    late = run.open["bob"]
    assert run.strategy.worker_model(run.state, task_result(late)) is None
    assert run.reports("bob", value=50) == []
    assert run.drops(task_result(late, 50)), "it is late once"
    assert run.reports("alice", "charlie") == ["3/alice", "3/bob", "3/charlie"]
    assert run.model == [2, 2]
    assert run.record == round_record(["alice", "charlie"], [], 2, late=1)
    assert [order.state_round for order in run.open.values()] == [2, 0, 2], "bob's report was not taken"


@pytest.mark.parametrize("kind", ["refused", "failed", "rejected"])
def test_a_late_failure_is_a_strike(kind: Kind) -> None:
    run = SynchronousRun(TWO, quorum=1, rounds=9)
    for version in (1, 3, 5):
        run.reports("alice")
        assert run.deadline() == [f"{version + 1}/alice"]
        assert run.fails("bob", kind=kind) == []
        run.reports("alice")
        assert (run.record["num_late"], run.record["num_failures"]) == (0, 1)
    assert list(run.record["excluded"]) == ["bob"]


def test_a_late_loss_takes_its_worker_away() -> None:
    run = SynchronousRun(quorum=1, workers=TWO)
    run.reports("alice")
    run.deadline()
    run.fails("bob", kind="lost")
    assert run.reports("alice") == ["3/alice"], "before its Left has come"
    run.take(WorkerDisconnected(worker="bob", reason="gone"))
    assert run.joins("bob") == []


def test_before_a_quorum_the_deadline_is_said_and_the_next_report_closes_the_round() -> None:
    run = SynchronousRun(quorum=2)
    run.reports("alice")
    before = dict(run.open)
    assert run.deadline() == [] and run.version == 0 and run.open == before
    assert run.said == ["Round 1: 1 of 3 results at the round timeout; missing: bob, charlie"]
    assert run.reports("bob") == ["2/alice", "2/bob"], "its time was up; charlie's order is late now"


def test_who_hangs_is_not_relied_on_once_the_time_is_up() -> None:
    run = SynchronousRun(quorum=2)
    run.leaves("alice")
    assert run.joins("alice") == [], "bob and charlie are at work, and may be a quorum"
    run.reports("bob")
    assert run.deadline() == ["1/alice/2"], "charlie may hang for ever"
    assert run.reports("alice") == ["2/alice", "2/bob"]


def test_a_deadline_of_an_earlier_version_says_nothing() -> None:
    run = SynchronousRun(quorum=2)
    run.reports(*THREE)
    run.reports("alice", "bob")
    assert run.drops(RoundTimeout(version=0)) and run.version == 1
    run.deadline()
    assert run.version == 2


def test_with_stragglers_in_the_way_of_a_quorum_the_next_round_waits_for_their_late_answers() -> None:
    run = SynchronousRun(FIVE, quorum=2, chooser=Some(2), over_select=1.0)
    assert run.reports("emil", "dora") == ["2/emil", "2/dora", "2/alice"], "the others are busy with round 1"
    assert run.reports("emil", "dora") == ["3/emil", "3/dora"]
    run.leaves("emil")
    run.leaves("dora")
    assert run.version == 2 and run.awaited == [] and set(run.open) == {"alice", "bob", "charlie"}
    assert run.reports("bob") == ["3/bob"], "put beside those who are away"
    assert run.reports("bob") == [] and run.reports("alice") == ["3/alice"]
    run.reports("alice")
    assert run.version == 3


def test_a_round_does_not_begin_while_too_many_are_busy() -> None:
    run = SynchronousRun(quorum=2, chooser=Some(2), over_select=0.5)
    run.reports("alice")
    assert run.leaves("alice") == []
    assert run.reports("bob") == [] and run.version == 1, "charlie is busy with round 1"
    assert run.awaited == [] and run.said == []
    assert run.reports("charlie") == ["2/charlie", "2/bob"]
