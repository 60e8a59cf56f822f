"""What strategies keep of their workers: who is there, who was asked what, and who is done without."""

import math
from dataclasses import FrozenInstanceError
from typing import Any, Literal

import pytest
import torch

from fedws.core.errors import RejectedUpdate
from fedws.core.seeds import request_seed
from fedws.core.tensors import Tensors
from fedws.protocol.messages import TaskFailure, TaskRequest, TaskResult, build_failure
from fedws.scheduling.base import TaskSpec, WorkerInfo
from fedws.scheduling.events import ResponseTimed, RoundTimeout, WorkerAvailable, WorkerConnected, WorkerDisconnected
from fedws.scheduling.lost_request_count import MAX_CONSECUTIVE_LOSSES, MAX_CONSECUTIVE_TRANSFER_LOSSES
from fedws.scheduling.participant_state import PendingRequest
from fedws.scheduling.participants import (
    MAX_CONSECUTIVE_FAILURES,
    MAX_CONSECUTIVE_POSTPONEMENTS,
    Participants,
    find_exclusions,
)
from fedws.scheduling.result_checks import find_result_problem

THREE = ("alice", "bob", "charlie")
ASK = TaskSpec("t.do", {"lr": 1}, {"w": torch.ones(1)})
Kind = Literal["refused", "failed", "rejected", "lost"]


def ordered(
    roster: Participants, worker: str = "bob", round_number: int = 1, version: int = 0
) -> tuple[Participants, TaskRequest]:
    return roster.create_request(worker, round_number, version, 7, ASK)


def report(order: TaskRequest, tensors: Tensors | None = None, samples: int = 5) -> TaskResult:
    return TaskResult(
        request_id=order.request_id, worker=order.worker, round=order.round, num_examples=samples, tensors=tensors or {}
    )


def failure(order: TaskRequest, kind: Kind = "failed", reason: str = "no power", **more: Any) -> TaskFailure:
    return TaskFailure(
        request_id=order.request_id, worker=order.worker, round=order.round, kind=kind, reason=reason, **more
    )


def failing(roster: Participants, kind: Kind, times: int, round_number: int = 1, **more: Any) -> Participants:
    """So many answers of bob's in a row to one request."""
    for _ in range(times):
        roster, order = ordered(roster, round_number=round_number)
        roster, _ = roster.apply(failure(order, kind, **more))
    return roster


# --------------------------------------------------------------------------- who is there


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


# --------------------------------------------------------------------------- orders


def test_an_order_holds_what_is_asked() -> None:
    roster, order = ordered(Participants.from_workers(THREE, THREE), round_number=3, version=2)
    assert (order.request_id, order.worker, order.round, order.task, order.state_round) == (
        "3/bob",
        "bob",
        3,
        "t.do",
        0,
    )
    assert order.settings is ASK.settings and order.tensors is ASK.tensors
    assert order.seed == request_seed(7, "bob", 3)
    assert roster.pending_requests == {"3/bob": PendingRequest("bob", 3, 2, "t.do")}


def test_asked_again_an_order_differs_in_its_id_alone() -> None:
    roster, orders = Participants.from_workers(THREE, THREE), []
    for _ in range(3):
        roster, order = ordered(roster)
        roster, _ = roster.apply(failure(order))
        orders.append(order)
    assert [order.request_id for order in orders] == ["1/bob", "1/bob/2", "1/bob/3"]
    assert len({order.seed for order in orders}) == 1
    _, order = ordered(roster, round_number=2)
    assert order.request_id == "2/bob" and order.seed != orders[0].seed


def test_base_is_the_last_round_that_was_taken() -> None:
    roster = Participants.from_workers(THREE, THREE)
    bases = []
    for round_number in range(1, 6):
        roster, order = ordered(roster, round_number=round_number)
        roster, _ = roster.apply(report(order))
        bases.append(order.state_round)
        if round_number in (2, 3):
            roster = roster.accept(report(order, samples=round_number))
    assert bases == [0, 0, 2, 3, 3] and roster.members["bob"].num_examples == 3


def test_a_chooser_is_told_of_those_who_are_idle() -> None:
    roster = Participants.from_workers((*THREE, "dora", "emil"), THREE)
    roster, _ = ordered(roster, "alice")
    roster, order = ordered(roster, "charlie", round_number=2)
    roster, _ = roster.apply(ResponseTimed(worker="charlie", seconds=3))
    roster, _ = roster.apply(report(order))
    roster = roster.accept(report(order, samples=40))
    assert roster.candidates(5) == [WorkerInfo("bob", 0, 0.0, 4), WorkerInfo("charlie", 40, 3.0, 2)]
    assert [candidate.rounds_since_selected for candidate in roster.candidates(2)] == [1, 0]


# --------------------------------------------------------------------------- failures


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
    assert roster.disconnected_workers() == [], "nobody waits for it"


LOST = "failed: lost 3 times while it worked on t.do; was its memory short?"


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
    assert roster.log_lines == ("bob failed: lost 10 times during the transfers of t.do, which got no further",)
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
    assert roster.log_lines == ("bob gets no request for 3 h 20 min: it refused the request: no power",)
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


def test_a_mapping_of_who_is_there_tells_what_each_holds() -> None:
    roster = Participants.from_workers(THREE, {"alice": 5, "bob": 0})
    assert [(it.name, it.num_examples) for it in roster.candidates(1)] == [("alice", 5), ("bob", 0)]
    assert [it.num_examples for it in roster.after_restart({"alice": 0, "charlie": 9}).candidates(1)] == [5, 9]


def test_too_few_for_a_quorum_are_named_with_their_reasons() -> None:
    roster = Participants.from_workers(THREE, ["alice"])
    assert roster.shortage_reason(3) == "", "who is away may come"
    roster = failing(roster, "refused", MAX_CONSECUTIVE_FAILURES)
    assert roster.shortage_reason(2) == ""
    reason = "bob: refused the request: no power, three times in a row"
    assert roster.shortage_reason(3) == f"too few workers are left for min_results 3: {reason}"


# --------------------------------------------------------------------------- reports


class Judge:
    def __init__(self, own: Tensors | None = None, error: str = "") -> None:
        self.own, self.error = own, error

    def worker_model(self, model: Tensors, report: TaskResult) -> Tensors | None:
        if self.error:
            raise RejectedUpdate(self.error)
        return self.own


MODEL = {"w": torch.zeros(2), "n": torch.zeros((), dtype=torch.int64)}
ORDER = TaskRequest(request_id="1/bob", worker="bob", round=1, task="t.do")


@pytest.mark.parametrize(
    ("judge", "tensors", "problem"),
    [
        (Judge(MODEL), {"w": torch.ones(2)}, ""),
        (Judge(None), {"anything": torch.ones(2)}, ""),
        (Judge(MODEL), {"w": torch.tensor([1, math.nan])}, "w holds NaN"),
        (Judge(MODEL), {"w": torch.tensor([-math.inf, 1])}, "w holds Inf"),
        (Judge(None), {"w": torch.tensor([math.inf, math.nan])}, "w holds NaN"),
        (Judge({"w": torch.zeros(2)}), {}, "n is missing"),
        (Judge({**MODEL, "w": torch.zeros(3)}), {}, "w has shape [3], not [2]"),
        (Judge({**MODEL, "n": torch.zeros(())}), {}, "n is float32, not int64"),
        (Judge({**MODEL, "w": torch.tensor([math.inf, 1])}), {"w": torch.ones(2)}, "w holds Inf"),
        (Judge(error="it does not fit"), {}, "it does not fit"),
    ],
)
def test_why_a_report_cannot_be_used(judge: Judge, tensors: Tensors, problem: str) -> None:
    assert find_result_problem(judge, MODEL, report(ORDER, tensors)) == problem


def test_a_report_is_looked_through_for_what_is_no_number_before_the_algorithm_sees_it() -> None:
    class Careless:
        def worker_model(self, model: Tensors, report: TaskResult) -> Tensors:
            raise AssertionError("it was not to be asked")

    assert find_result_problem(Careless(), MODEL, report(ORDER, {"w": torch.tensor([math.nan])})) == "w holds NaN"


def test_a_rejected_report_becomes_a_failure_in_one_clean_line() -> None:
    """The problem may quote a tensor's name, which is a peer's text."""
    found = build_failure(report(ORDER), "rejected", "evil\n\x1b[2Jname is not known here")
    assert (found.request_id, found.worker, found.round, found.kind) == ("1/bob", "bob", 1, "rejected")
    assert found.reason == "evil ?[2Jname is not known here"


def test_a_roster_is_never_changed() -> None:
    roster, order = ordered(Participants.from_workers(THREE, THREE))
    with pytest.raises(FrozenInstanceError):
        roster.log_lines = ()  # type: ignore[misc]
    members, open_orders = dict(roster.members), dict(roster.pending_requests)
    roster.apply(report(order))[0].accept(report(order)).add_log_line("line").replace_member("alice", connected=False)
    roster.record_failure(failure(order))
    ordered(roster, "alice")
    assert (roster.members, roster.pending_requests, roster.log_lines) == (members, open_orders, ())
