"""Connected, idle and excluded participants of a run."""

from dataclasses import FrozenInstanceError

import pytest

from fedws.protocol.messages import TaskRequest
from fedws.scheduling.events import ResponseTimed, RoundTimeout, WorkerConnected, WorkerDisconnected
from fedws.scheduling.participant_state import PendingRequest
from fedws.scheduling.participants import MAX_CONSECUTIVE_FAILURES, Participants, find_exclusions
from tests.helpers.participant_events import THREE, Kind, failing, failure, ordered, report


def test_workers_are_in_the_plans_order_and_those_there_are_idle() -> None:
    roster = Participants.from_workers(THREE, ["charlie", "alice"])
    assert roster.idle_workers() == roster.connected_workers() == [
        "alice",
        "charlie",
    ] and roster.disconnected_workers() == ["bob"]
    assert list(roster.members) == [*THREE] and roster.pending_requests == {} and roster.log_lines == ()


def test_who_has_an_order_is_not_idle() -> None:
    roster, order = ordered(Participants.from_workers(THREE, THREE))
    assert roster.idle_workers() == ["alice", "charlie"] and roster.connected_workers() == [*THREE]
    assert roster.pending_requests == {"1/bob": PendingRequest("bob", 1, 0, "t.do")}
    roster, asked = roster.apply(report(order))
    assert (
        asked == PendingRequest("bob", 1, 0, "t.do")
        and roster.idle_workers() == [*THREE]
        and roster.pending_requests == {}
    )


def test_joining_and_leaving_are_heard_and_said_once() -> None:
    roster = Participants.from_workers(THREE, ["alice"])
    roster, _ = roster.apply(WorkerConnected(worker="bob", num_examples=9))
    assert roster.connected_workers() == ["alice", "bob"] and roster.log_lines == ("bob has joined",)
    roster, _ = roster.apply(WorkerConnected(worker="bob", num_examples=12))
    assert roster.log_lines == () and roster.members["bob"].num_examples == 12
    roster, _ = roster.apply(WorkerDisconnected(worker="alice", reason="gone"))
    assert roster.connected_workers() == ["bob"] and roster.log_lines == ("alice has left: gone",)
    roster, _ = roster.apply(WorkerConnected(worker="bob"))
    assert roster.members["bob"].num_examples == 12, "it did not say"


def test_whose_order_is_lost_is_away_before_its_left_comes() -> None:
    roster, order = ordered(Participants.from_workers(THREE, THREE))
    roster, asked = roster.apply(failure(order, "lost"))
    assert asked is not None and roster.disconnected_workers() == ["bob"] and "bob" not in roster.idle_workers()


@pytest.mark.parametrize("kind", ["refused", "failed", "rejected"])
def test_who_fails_otherwise_is_still_there(kind: Kind) -> None:
    roster, order = ordered(Participants.from_workers(THREE, THREE))
    roster, _ = roster.apply(failure(order, kind))
    assert roster.idle_workers() == [*THREE]


def test_what_is_none_of_its_business_leaves_it_as_it_is() -> None:
    roster, order = ordered(Participants.from_workers(THREE, THREE))
    other = TaskRequest(request_id="1/bob/9", worker="bob", round=1, task="t.do")
    thief = TaskRequest(request_id="1/bob", worker="alice", round=1, task="t.do")
    for event in (report(other), failure(other), failure(other, "lost"), report(thief), failure(thief, "lost")):
        assert roster.apply(event) == (roster, None) and roster.apply(event)[0] is roster
    for stranger in (
        WorkerConnected(worker="mallory"),
        WorkerDisconnected(worker="mallory", reason=""),
        RoundTimeout(version=0),
    ):
        assert roster.apply(stranger)[0] is roster
    roster, _ = roster.apply(report(order))
    assert roster.apply(report(order))[0] is roster, "an order has one answer"


def test_the_time_that_answers_take_is_a_mean_in_which_the_newest_counts_most() -> None:
    roster = Participants.from_workers(THREE, THREE)
    found = []
    for seconds in (8.0, 4.0, 2.0):
        roster, _ = roster.apply(ResponseTimed(worker="bob", seconds=seconds))
        found.append(roster.members["bob"].response_seconds)
    assert found == [8, 6, 4]


def test_after_a_restart_no_order_is_open_and_the_rest_is_known() -> None:
    roster = failing(Participants.from_workers(THREE, THREE), "failed", MAX_CONSECUTIVE_FAILURES)
    roster, _ = ordered(roster, "alice")
    again = roster.after_restart(["bob", "charlie"])
    assert (
        again.pending_requests == {}
        and again.connected_workers() == ["charlie"]
        and again.disconnected_workers() == ["alice"]
    )
    assert again.log_lines == ("bob stays excluded: it failed: no power, three times in a row",)
    assert find_exclusions(again) == find_exclusions(roster)
    _, order = ordered(again, "alice")
    assert order.request_id == "1/alice/2"


def test_a_mapping_of_who_is_there_tells_what_each_holds() -> None:
    roster = Participants.from_workers(THREE, {"alice": 5, "bob": 0})
    assert [(it.name, it.num_examples) for it in roster.candidates(1)] == [("alice", 5), ("bob", 0)]
    assert [it.num_examples for it in roster.after_restart({"alice": 0, "charlie": 9}).candidates(1)] == [5, 9]


def test_a_roster_is_never_changed() -> None:
    roster, order = ordered(Participants.from_workers(THREE, THREE))
    with pytest.raises(FrozenInstanceError):
        roster.log_lines = ()  # type: ignore[misc]
    members, open_orders = dict(roster.members), dict(roster.pending_requests)
    roster.apply(report(order))[0].accept(report(order)).add_log_line("line").replace_member("alice", connected=False)
    roster.record_failure(failure(order))
    ordered(roster, "alice")
    assert (roster.members, roster.pending_requests, roster.log_lines) == (members, open_orders, ())
