"""Failures, losses and postponements of participants, and their exclusion."""

import pytest

from fedws.scheduling.events import WorkerAvailable, WorkerConnected, WorkerDisconnected
from fedws.scheduling.lost_request_count import MAX_CONSECUTIVE_LOSSES, MAX_CONSECUTIVE_TRANSFER_LOSSES
from fedws.scheduling.participants import (
    MAX_CONSECUTIVE_FAILURES,
    MAX_CONSECUTIVE_POSTPONEMENTS,
    Participants,
    find_exclusions,
)
from tests.helpers.participant_events import THREE, Kind, failing, ordered, report


@pytest.mark.parametrize("kind", ["refused", "failed", "rejected"])
def test_three_failures_in_a_row_exclude(kind: Kind) -> None:
    did = {"refused": "refused the request", "failed": "failed", "rejected": "sent a result that was rejected"}[kind]
    roster = failing(Participants.from_workers(THREE, THREE), kind, MAX_CONSECUTIVE_FAILURES - 1)
    assert (
        roster.log_lines == (f"bob {did}: no power",)
        and find_exclusions(roster) == {}
        and "bob" in roster.idle_workers()
    )
    roster = failing(roster, kind, 1)
    assert roster.log_lines == (f"bob is excluded: it {did}: no power, three times in a row",)
    assert find_exclusions(roster) == {"bob": f"{did}: no power, three times in a row"}
    assert (
        roster.connected_workers() == roster.idle_workers() == ["alice", "charlie"]
        and roster.disconnected_workers() == []
    )
    roster, _ = roster.apply(WorkerDisconnected(worker="bob", reason="gone"))
    assert roster.disconnected_workers() == [], "the run does not wait for it"


LOST = "failed: lost 3 times while it ran t.do (out of memory?)"


def test_three_losses_in_a_row_with_one_request_are_a_failure_and_three_of_these_exclude() -> None:
    roster = failing(Participants.from_workers(THREE, THREE), "lost", MAX_CONSECUTIVE_LOSSES - 1)
    assert roster.log_lines == () and find_exclusions(roster) == {}
    roster = failing(roster, "lost", 1)
    assert roster.log_lines == (f"bob {LOST}",) and roster.members["bob"].consecutive_failures == 1
    roster = failing(roster, "lost", 5)
    assert find_exclusions(roster) == {}
    roster = failing(roster, "lost", 1)
    assert find_exclusions(roster) == {"bob": f"{LOST}, three times in a row"}
    assert roster.pop_num_failures()[1] == 9 and roster.pop_num_failures()[0].num_failures == 0


def test_losses_in_transfer_are_borne_longer_and_count_on_their_own() -> None:
    roster = failing(
        Participants.from_workers(THREE, THREE),
        "lost",
        MAX_CONSECUTIVE_TRANSFER_LOSSES - 1,
        code="transfer_interrupted",
    )
    roster = failing(roster, "lost", MAX_CONSECUTIVE_LOSSES - 1)
    assert roster.members["bob"].consecutive_failures == 0
    roster = failing(roster, "lost", 1, code="transfer_interrupted")
    assert roster.log_lines == ("bob failed: lost 10 times during the transfer of t.do without progress",)
    roster = failing(roster, "lost", MAX_CONSECUTIVE_TRANSFER_LOSSES - 1, code="transfer_interrupted")
    assert roster.members["bob"].consecutive_failures == 1
    roster = failing(
        failing(roster, "lost", 1, code="transfer_progressed"),
        "lost",
        MAX_CONSECUTIVE_TRANSFER_LOSSES - 1,
        code="transfer_interrupted",
    )
    assert roster.members["bob"].consecutive_failures == 1, "progress ends the row"


def test_losses_with_other_requests_and_with_progress_are_borne_however_often() -> None:
    roster = Participants.from_workers(THREE, THREE)
    for round_number in range(1, 30):
        roster = failing(roster, "lost", MAX_CONSECUTIVE_LOSSES - 1, round_number)
    assert find_exclusions(roster) == {} and roster.members["bob"].consecutive_failures == 0
    roster = failing(roster, "lost", 50, 30, code="transfer_progressed")
    assert find_exclusions(roster) == {} and roster.members["bob"].consecutive_failures == 0
    roster = failing(roster, "lost", MAX_CONSECUTIVE_LOSSES - 1, 30)
    roster, order = ordered(roster, round_number=30)
    roster, _ = roster.apply(report(order))
    roster = failing(roster.accept(report(order)), "lost", MAX_CONSECUTIVE_LOSSES - 1, 31)
    assert roster.members["bob"].consecutive_failures == 0, "a report ends the row"


def test_what_the_link_of_an_excluded_worker_does_is_not_logged() -> None:
    roster = failing(Participants.from_workers(THREE, THREE), "refused", 1, code="permanent")
    for event in (
        WorkerDisconnected(worker="bob", reason="gone"),
        WorkerConnected(worker="bob"),
        WorkerDisconnected(worker="bob", reason="gone"),
    ):
        roster, _ = roster.apply(event)
        assert roster.log_lines == ()


def test_a_permanent_refusal_excludes_at_once_with_one_line() -> None:
    roster = failing(Participants.from_workers(THREE, THREE), "refused", 1, code="permanent")
    assert roster.log_lines == ("bob is excluded: it refused the request: no power",)
    assert find_exclusions(roster) == {"bob": "refused the request: no power"}


def test_a_refusal_until_later_is_no_strike_and_the_worker_gets_no_request_until_then() -> None:
    roster = failing(Participants.from_workers(THREE, THREE), "refused", 1, code="retry_later", retry_after=12_000.0)
    assert roster.log_lines == ("bob is postponed for 3 h 20 min: it refused the request: no power",)
    assert roster.idle_workers() == roster.available_workers() == [
        "alice",
        "charlie",
    ] and roster.connected_workers() == [*THREE]
    assert roster.members["bob"].consecutive_failures == 0 and roster.disconnected_workers() == []
    assert Participants.from_workers(THREE, THREE).apply(WorkerAvailable(worker="bob"))[0].idle_workers() == [*THREE], (
        "one that did not wait"
    )
    roster, _ = roster.apply(WorkerAvailable(worker="bob"))
    assert roster.idle_workers() == [*THREE] and roster.log_lines == ()
    assert roster.apply(WorkerAvailable(worker="mallory"))[0] is roster
    again = failing(roster, "refused", 1, code="retry_later", retry_after=1.0).after_restart(THREE)
    assert again.idle_workers() == [*THREE], "a run that continues asks again"


def test_who_puts_one_request_off_again_and_again_is_excluded_at_last() -> None:
    roster, requests = Participants.from_workers(THREE, THREE), 0
    while not find_exclusions(roster):
        roster, _ = failing(roster, "refused", 1, code="retry_later", retry_after=1.0).apply(
            WorkerAvailable(worker="bob")
        )
        requests += 1
    assert requests == MAX_CONSECUTIVE_POSTPONEMENTS * MAX_CONSECUTIVE_FAILURES
    roster = Participants.from_workers(THREE, THREE)
    for round_number in range(1, 50):
        roster, _ = failing(roster, "refused", 1, round_number, code="retry_later", retry_after=1.0).apply(
            WorkerAvailable(worker="bob")
        )
    assert find_exclusions(roster) == {}, "each time another one"


def test_a_report_that_is_taken_ends_the_row() -> None:
    roster = failing(Participants.from_workers(THREE, THREE), "failed", MAX_CONSECUTIVE_FAILURES - 1)
    roster, order = ordered(roster)
    roster, _ = roster.apply(report(order))
    roster = roster.accept(report(order))
    assert find_exclusions(failing(roster, "failed", MAX_CONSECUTIVE_FAILURES - 1)) == {}


def test_too_few_for_a_quorum_are_named_with_their_reasons() -> None:
    roster = Participants.from_workers(THREE, ["alice"])
    assert roster.shortage_reason(3) == "", "who is away may come"
    roster = failing(roster, "refused", MAX_CONSECUTIVE_FAILURES)
    assert roster.shortage_reason(2) == ""
    reason = "bob: refused the request: no power, three times in a row"
    assert roster.shortage_reason(3) == f"too few workers are left for min_results 3: {reason}"
