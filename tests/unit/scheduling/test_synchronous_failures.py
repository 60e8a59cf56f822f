"""Failures in a round: when a worker gets its request again, and when it is excluded."""

import math
from dataclasses import replace

import pytest

from fedws.scheduling.events import (
    RoundTimeout,
    WorkerAvailable,
    WorkerConnected,
)
from tests.helpers.scheduled_run import FIVE, THREE, TWO, Kind, task_failure, task_result
from tests.helpers.synchronous_run import Some, SynchronousRun

# --------------------------------------------------------------------------- failures


@pytest.mark.parametrize("kind", ["refused", "failed", "rejected"])
def test_with_a_quorum_a_failure_is_asked_again_in_the_next_round(kind: Kind) -> None:
    run = SynchronousRun(quorum=2)
    assert run.fails("bob", kind=kind) == []
    assert run.reports("alice") == []
    assert run.reports("charlie") == ["2/alice", "2/bob", "2/charlie"], "every order is answered"
    assert run.record["missing_workers"] == ["bob"]


@pytest.mark.parametrize("kind", ["refused", "failed", "rejected"])
def test_where_the_quorum_needs_it_a_failure_is_asked_again_when_all_have_answered(kind: Kind) -> None:
    run = SynchronousRun()
    first = run.open["bob"]
    assert run.fails("bob", kind=kind) == [] and run.reports("alice") == [], "it has as long as the others take"
    assert run.reports("charlie") == ["1/bob/2"]
    again = run.open["bob"]
    assert replace(again, request_id=first.request_id) == first, "the same order but for its id"
    assert run.drops(task_result(first, 50)), "it was answered"
    assert run.fails("bob", kind=kind) == ["1/bob/3"], "nobody else is at work"
    run.reports("bob")
    assert run.version == 1 and run.model == [1, 1] and not run.failure


def test_at_the_deadline_a_failure_is_asked_again_though_others_are_at_work() -> None:
    run = SynchronousRun()
    run.fails("bob")
    run.reports("alice")
    assert run.deadline() == ["1/bob/2"]


def test_one_that_was_lost_after_a_failure_is_asked_again_when_all_have_answered() -> None:
    run = SynchronousRun()
    run.fails("bob")
    run.leaves("bob")
    assert run.joins("bob") == [] and run.reports("alice") == []
    assert run.reports("charlie") == ["1/bob/2"]


def test_what_failed_is_said_and_the_third_time_in_a_row_excludes() -> None:
    run = SynchronousRun(quorum=2, rounds=9)
    for number in (1, 2):
        run.fails("bob", kind="refused")
        assert run.said == ["bob refused the request: no power"]
        run.reports("alice", "charlie")
        assert run.version == number
    run.fails("bob")
    assert run.said == ["bob is excluded: it failed: no power, three times in a row"]
    assert run.reports("alice", "charlie") == ["4/alice", "4/charlie"]
    assert run.record["excluded"] == {"bob": "failed: no power, three times in a row"}
    assert run.record["cohort"] == [*THREE] and run.record["missing_workers"] == ["bob"]
    run.leaves("bob")
    run.joins("bob")
    assert run.reports("alice", "charlie") == ["5/alice", "5/charlie"]
    assert run.record["excluded"].keys() == {"bob"} and run.record["cohort"] == ["alice", "charlie"]


def test_a_report_that_counts_ends_the_row() -> None:
    run = SynchronousRun(quorum=2, rounds=9)
    for _ in range(2):
        run.fails("bob")
        run.reports("alice", "charlie")
    run.reports(*THREE)
    for _ in range(2):
        run.fails("bob")
        assert run.reports("alice", "charlie")[1] == f"{run.version + 1}/bob"


def test_a_good_report_that_comes_too_late_ends_the_row() -> None:
    run = SynchronousRun(TWO, quorum=1, rounds=9)
    for _ in range(2):
        run.fails("bob")
        run.reports("alice")
    run.reports("alice")
    run.deadline()
    run.reports("bob")
    run.reports("alice")
    for _ in range(2):
        run.fails("bob")
        assert "excluded" not in run.record
        run.reports("alice")
    assert "bob" in run.open


def test_a_bad_report_that_comes_too_late_does_not() -> None:
    run = SynchronousRun(TWO, quorum=1, rounds=9)
    for _ in range(2):
        run.fails("bob")
        run.reports("alice")
    run.reports("alice")
    run.deadline()
    run.reports("bob", value=math.nan)
    run.reports("alice")
    run.fails("bob")
    assert run.said[0].startswith("bob is excluded")


def test_too_few_left_end_the_run_and_are_named() -> None:
    run = SynchronousRun(TWO, quorum=2)
    run.reports(*TWO)
    run.reports("alice", value=50)
    assert run.fails("bob") == ["2/bob/2"] and run.fails("bob") == ["2/bob/3"] and not run.failure
    assert run.fails("bob") == []
    why = "bob: failed: no power, three times in a row"
    assert run.failure == f"round 2: too few workers are left for min_results 2: {why}"
    assert run.version == 1 and run.model == [1, 1] and run.awaited == []
    for event in (WorkerConnected(worker="bob"), RoundTimeout(version=1)):
        assert run.drops(event)
    state, orders = run.strategy.resume(run.state, TWO)
    assert not orders and run.strategy.failure(state) == run.failure


def test_one_excluded_within_a_round_stands_in_its_record() -> None:
    run = SynchronousRun(FIVE, quorum=2, chooser=Some(2))
    assert run.asked == ["1/emil", "1/dora"]
    run.fails("emil")
    assert run.reports("dora") == ["1/emil/2"]
    run.fails("emil")
    assert run.fails("emil") == ["1/charlie"]
    run.reports("charlie")
    assert run.record["cohort"] == ["emil", "dora", "charlie"] and run.record["missing_workers"] == ["emil"]


# --------------------------------------------------------------------------- those who leave and join


def test_a_worker_that_dies_at_each_request_is_excluded_and_the_run_ends() -> None:
    run = SynchronousRun(TWO)
    run.reports("alice")
    for number in range(2, 10):
        assert run.leaves("bob") == []
        assert run.joins("bob") == [f"1/bob/{number}"]
    assert run.leaves("bob") == [] and run.awaited == []
    died = "failed: lost 3 times while it ran adding.add (out of memory?), three times in a row"
    assert run.failure == f"round 1: too few workers are left for min_results 2: bob: {died}"


def test_a_round_waits_for_a_worker_that_has_refused_until_later() -> None:
    run = SynchronousRun(TWO)
    later = replace(task_failure(run.open["bob"], "refused"), code="retry_later", retry_after=3600.0)
    assert run.take(later) == [] and run.awaited == [], "it is there, and its time is known"
    assert run.reports("alice") == [] and not run.failure
    assert run.joins("bob") == []
    assert run.take(WorkerAvailable(worker="bob")) == ["1/bob/2"]
    assert run.reports("bob") == ["2/alice", "2/bob"]


def test_another_takes_the_place_of_a_worker_that_has_refused_until_later() -> None:
    run = SynchronousRun(quorum=2, chooser=Some(2))
    assert [*run.open] == ["charlie", "bob"]
    later = replace(task_failure(run.open["bob"], "refused"), code="retry_later", retry_after=3600.0)
    assert run.take(later) == ["1/alice"]
    assert run.reports("charlie", "alice") == ["2/charlie", "2/alice"] and run.version == 1
