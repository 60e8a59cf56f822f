"""What strategies keep of their workers: who is there, who was asked what, and who is done without."""

import math
from dataclasses import FrozenInstanceError
from typing import Any, Literal

import pytest
import torch

from fedws.core.errors import RejectedUpdate
from fedws.core.seeds import order_seed
from fedws.core.tensors import Tensors
from fedws.protocol.messages import Failure, Order, Report
from fedws.scheduling.base import Ask, Candidate
from fedws.scheduling.events import Available, Deadline, Joined, Left, Measured
from fedws.scheduling.lost_requests import CUTS, LOSSES
from fedws.scheduling.participants import POSTPONED, STRIKES, Asked, Roster, excluded, rejected, unusable

THREE = ("alice", "bob", "charlie")
ASK = Ask("t.do", {"lr": 1}, {"w": torch.ones(1)})
Kind = Literal["refused", "failed", "rejected", "lost"]


def ordered(roster: Roster, worker: str = "bob", round: int = 1, version: int = 0) -> tuple[Roster, Order]:
    return roster.order(worker, round, version, 7, ASK)


def report(order: Order, tensors: Tensors | None = None, samples: int = 5) -> Report:
    return Report(order=order.id, worker=order.worker, round=order.round, samples=samples, tensors=tensors or {})


def failure(order: Order, kind: Kind = "failed", reason: str = "no power", **more: Any) -> Failure:
    return Failure(order=order.id, worker=order.worker, round=order.round, kind=kind, reason=reason, **more)


def failing(roster: Roster, kind: Kind, times: int, round: int = 1, **more: Any) -> Roster:
    """So many answers of bob's in a row to one request."""
    for _ in range(times):
        roster, order = ordered(roster, round=round)
        roster, _ = roster.hear(failure(order, kind, **more))
    return roster


# --------------------------------------------------------------------------- who is there


def test_workers_are_in_the_plans_order_and_those_there_are_idle() -> None:
    roster = Roster.of(THREE, ["charlie", "alice"])
    assert roster.idle() == roster.present() == ["alice", "charlie"] and roster.away() == ["bob"]
    assert list(roster.members) == [*THREE] and roster.open == {} and roster.said == ()


def test_who_has_an_order_is_not_idle() -> None:
    roster, order = ordered(Roster.of(THREE, THREE))
    assert roster.idle() == ["alice", "charlie"] and roster.present() == [*THREE]
    assert roster.open == {"1/bob": Asked("bob", 1, 0, "t.do")}
    roster, asked = roster.hear(report(order))
    assert asked == Asked("bob", 1, 0, "t.do") and roster.idle() == [*THREE] and roster.open == {}


def test_joining_and_leaving_are_heard_and_said_once() -> None:
    roster = Roster.of(THREE, ["alice"])
    roster, _ = roster.hear(Joined(worker="bob", samples=9))
    assert roster.present() == ["alice", "bob"] and roster.said == ("bob has joined",)
    roster, _ = roster.hear(Joined(worker="bob", samples=12))
    assert roster.said == () and roster.members["bob"].samples == 12
    roster, _ = roster.hear(Left(worker="alice", reason="gone"))
    assert roster.present() == ["bob"] and roster.said == ("alice has left: gone",)
    roster, _ = roster.hear(Joined(worker="bob"))
    assert roster.members["bob"].samples == 12, "it did not say"


def test_whose_order_is_lost_is_away_before_its_left_comes() -> None:
    roster, order = ordered(Roster.of(THREE, THREE))
    roster, asked = roster.hear(failure(order, "lost"))
    assert asked is not None and roster.away() == ["bob"] and "bob" not in roster.idle()


@pytest.mark.parametrize("kind", ["refused", "failed", "rejected"])
def test_who_fails_otherwise_is_still_there(kind: Kind) -> None:
    roster, order = ordered(Roster.of(THREE, THREE))
    roster, _ = roster.hear(failure(order, kind))
    assert roster.idle() == [*THREE]


def test_what_is_none_of_its_business_leaves_it_as_it_is() -> None:
    roster, order = ordered(Roster.of(THREE, THREE))
    other = Order(id="1/bob/9", worker="bob", round=1, task="t.do")
    thief = Order(id="1/bob", worker="alice", round=1, task="t.do")
    for event in (report(other), failure(other), failure(other, "lost"), report(thief), failure(thief, "lost")):
        assert roster.hear(event) == (roster, None) and roster.hear(event)[0] is roster
    for stranger in (Joined(worker="mallory"), Left(worker="mallory", reason=""), Deadline(version=0)):
        assert roster.hear(stranger)[0] is roster
    roster, _ = roster.hear(report(order))
    assert roster.hear(report(order))[0] is roster, "an order has one answer"


def test_the_time_that_answers_take_is_a_mean_in_which_the_newest_counts_most() -> None:
    roster = Roster.of(THREE, THREE)
    found = []
    for seconds in (8.0, 4.0, 2.0):
        roster, _ = roster.hear(Measured(worker="bob", seconds=seconds))
        found.append(roster.members["bob"].seconds)
    assert found == [8, 6, 4]


def test_after_a_restart_no_order_is_open_and_the_rest_is_known() -> None:
    roster = failing(Roster.of(THREE, THREE), "failed", STRIKES)
    roster, _ = ordered(roster, "alice")
    again = roster.again(["bob", "charlie"])
    assert again.open == {} and again.present() == ["charlie"] and again.away() == ["alice"]
    assert again.said == ("bob stays excluded: it failed: no power, three times in a row",)
    assert excluded(again) == excluded(roster)
    _, order = ordered(again, "alice")
    assert order.id == "1/alice/2"


# --------------------------------------------------------------------------- orders


def test_an_order_holds_what_is_asked() -> None:
    roster, order = ordered(Roster.of(THREE, THREE), round=3, version=2)
    assert (order.id, order.worker, order.round, order.task, order.base) == ("3/bob", "bob", 3, "t.do", 0)
    assert order.settings is ASK.settings and order.tensors is ASK.tensors
    assert order.seed == order_seed(7, "bob", 3)
    assert roster.open == {"3/bob": Asked("bob", 3, 2, "t.do")}


def test_asked_again_an_order_differs_in_its_id_alone() -> None:
    roster, orders = Roster.of(THREE, THREE), []
    for _ in range(3):
        roster, order = ordered(roster)
        roster, _ = roster.hear(failure(order))
        orders.append(order)
    assert [order.id for order in orders] == ["1/bob", "1/bob/2", "1/bob/3"]
    assert len({order.seed for order in orders}) == 1
    _, order = ordered(roster, round=2)
    assert order.id == "2/bob" and order.seed != orders[0].seed


def test_base_is_the_last_round_that_was_taken() -> None:
    roster = Roster.of(THREE, THREE)
    bases = []
    for round in range(1, 6):
        roster, order = ordered(roster, round=round)
        roster, _ = roster.hear(report(order))
        bases.append(order.base)
        if round in (2, 3):
            roster = roster.accept(report(order, samples=round))
    assert bases == [0, 0, 2, 3, 3] and roster.members["bob"].samples == 3


def test_a_chooser_is_told_of_those_who_are_idle() -> None:
    roster = Roster.of((*THREE, "dora", "emil"), THREE)
    roster, _ = ordered(roster, "alice")
    roster, order = ordered(roster, "charlie", round=2)
    roster, _ = roster.hear(Measured(worker="charlie", seconds=3))
    roster, _ = roster.hear(report(order))
    roster = roster.accept(report(order, samples=40))
    assert roster.candidates(5) == [Candidate("bob", 0, 0.0, 4), Candidate("charlie", 40, 3.0, 2)]
    assert [candidate.waited for candidate in roster.candidates(2)] == [1, 0]


# --------------------------------------------------------------------------- failures


@pytest.mark.parametrize("kind", ["refused", "failed", "rejected"])
def test_three_failures_in_a_row_exclude(kind: Kind) -> None:
    did = {"refused": "refused its order", "failed": "failed", "rejected": "sent a report that was rejected"}[kind]
    roster = failing(Roster.of(THREE, THREE), kind, STRIKES - 1)
    assert roster.said == (f"bob {did}: no power",) and excluded(roster) == {} and "bob" in roster.idle()
    roster = failing(roster, kind, 1)
    assert roster.said == (f"bob is excluded: it {did}: no power, three times in a row",)
    assert excluded(roster) == {"bob": f"{did}: no power, three times in a row"}
    assert roster.present() == roster.idle() == ["alice", "charlie"] and roster.away() == []
    roster, _ = roster.hear(Left(worker="bob", reason="gone"))
    assert roster.away() == [], "nobody waits for it"


LOST = "failed: lost 3 times while it worked on t.do; was its memory short?"


def test_three_losses_in_a_row_with_one_request_are_a_failure_and_three_of_these_exclude() -> None:
    roster = failing(Roster.of(THREE, THREE), "lost", LOSSES - 1)
    assert roster.said == () and excluded(roster) == {}
    roster = failing(roster, "lost", 1)
    assert roster.said == (f"bob {LOST}",) and roster.members["bob"].strikes == 1
    roster = failing(roster, "lost", 5)
    assert excluded(roster) == {}
    roster = failing(roster, "lost", 1)
    assert excluded(roster) == {"bob": f"{LOST}, three times in a row"}
    assert roster.counted()[1] == 9 and roster.counted()[0].failures == 0


def test_losses_in_transfer_are_borne_longer_and_count_on_their_own() -> None:
    roster = failing(Roster.of(THREE, THREE), "lost", CUTS - 1, code="transfer")
    roster = failing(roster, "lost", LOSSES - 1)
    assert roster.members["bob"].strikes == 0
    roster = failing(roster, "lost", 1, code="transfer")
    assert roster.said == ("bob failed: lost 10 times during the transfers of t.do, which got no further",)
    roster = failing(roster, "lost", CUTS - 1, code="transfer")
    assert roster.members["bob"].strikes == 1
    roster = failing(failing(roster, "lost", 1, code="progress"), "lost", CUTS - 1, code="transfer")
    assert roster.members["bob"].strikes == 1, "progress ends the row"


def test_losses_with_other_requests_and_with_progress_are_borne_however_often() -> None:
    roster = Roster.of(THREE, THREE)
    for round in range(1, 30):
        roster = failing(roster, "lost", LOSSES - 1, round)
    assert excluded(roster) == {} and roster.members["bob"].strikes == 0
    roster = failing(roster, "lost", 50, 30, code="progress")
    assert excluded(roster) == {} and roster.members["bob"].strikes == 0
    roster = failing(roster, "lost", LOSSES - 1, 30)
    roster, order = ordered(roster, round=30)
    roster, _ = roster.hear(report(order))
    roster = failing(roster.accept(report(order)), "lost", LOSSES - 1, 31)
    assert roster.members["bob"].strikes == 0, "a report ends the row"


def test_what_the_link_of_an_excluded_worker_does_is_not_logged() -> None:
    roster = failing(Roster.of(THREE, THREE), "refused", 1, code="permanent")
    for event in (Left(worker="bob", reason="gone"), Joined(worker="bob"), Left(worker="bob", reason="gone")):
        roster, _ = roster.hear(event)
        assert roster.said == ()


def test_a_permanent_refusal_excludes_at_once_with_one_line() -> None:
    roster = failing(Roster.of(THREE, THREE), "refused", 1, code="permanent")
    assert roster.said == ("bob is excluded: it refused its order: no power",)
    assert excluded(roster) == {"bob": "refused its order: no power"}


def test_a_refusal_until_later_is_no_strike_and_the_worker_gets_no_request_until_then() -> None:
    roster = failing(Roster.of(THREE, THREE), "refused", 1, code="later", wait=12_000.0)
    assert roster.said == ("bob gets no request for 3 h 20 min: it refused its order: no power",)
    assert roster.idle() == roster.able() == ["alice", "charlie"] and roster.present() == [*THREE]
    assert roster.members["bob"].strikes == 0 and roster.away() == []
    assert Roster.of(THREE, THREE).hear(Available(worker="bob"))[0].idle() == [*THREE], "one that did not wait"
    roster, _ = roster.hear(Available(worker="bob"))
    assert roster.idle() == [*THREE] and roster.said == ()
    assert roster.hear(Available(worker="mallory"))[0] is roster
    again = failing(roster, "refused", 1, code="later", wait=1.0).again(THREE)
    assert again.idle() == [*THREE], "a run that continues asks again"


def test_who_puts_one_request_off_again_and_again_is_excluded_at_last() -> None:
    roster, requests = Roster.of(THREE, THREE), 0
    while not excluded(roster):
        roster, _ = failing(roster, "refused", 1, code="later", wait=1.0).hear(Available(worker="bob"))
        requests += 1
    assert requests == POSTPONED * STRIKES
    roster = Roster.of(THREE, THREE)
    for round in range(1, 50):
        roster, _ = failing(roster, "refused", 1, round, code="later", wait=1.0).hear(Available(worker="bob"))
    assert excluded(roster) == {}, "each time another one"


def test_a_report_that_is_taken_ends_the_row() -> None:
    roster = failing(Roster.of(THREE, THREE), "failed", STRIKES - 1)
    roster, order = ordered(roster)
    roster, _ = roster.hear(report(order))
    roster = roster.accept(report(order))
    assert excluded(failing(roster, "failed", STRIKES - 1)) == {}


def test_a_mapping_of_who_is_there_tells_what_each_holds() -> None:
    roster = Roster.of(THREE, {"alice": 5, "bob": 0})
    assert [(it.worker, it.samples) for it in roster.candidates(1)] == [("alice", 5), ("bob", 0)]
    assert [it.samples for it in roster.again({"alice": 0, "charlie": 9}).candidates(1)] == [5, 9]


def test_too_few_for_a_quorum_are_named_with_their_reasons() -> None:
    roster = Roster.of(THREE, ["alice"])
    assert roster.lacking(3) == "", "who is away may come"
    roster = failing(roster, "refused", STRIKES)
    assert roster.lacking(2) == ""
    reason = "bob: refused its order: no power, three times in a row"
    assert roster.lacking(3) == f"too few workers are left for a quorum of 3: {reason}"


# --------------------------------------------------------------------------- reports


class Judge:
    def __init__(self, own: Tensors | None = None, error: str = "") -> None:
        self.own, self.error = own, error

    def worker_model(self, model: Tensors, report: Report) -> Tensors | None:
        if self.error:
            raise RejectedUpdate(self.error)
        return self.own


MODEL = {"w": torch.zeros(2), "n": torch.zeros((), dtype=torch.int64)}
ORDER = Order(id="1/bob", worker="bob", round=1, task="t.do")


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
    assert unusable(judge, MODEL, report(ORDER, tensors)) == problem


def test_a_report_is_looked_through_for_what_is_no_number_before_the_algorithm_sees_it() -> None:
    class Careless:
        def worker_model(self, model: Tensors, report: Report) -> Tensors:
            raise AssertionError("it was not to be asked")

    assert unusable(Careless(), MODEL, report(ORDER, {"w": torch.tensor([math.nan])})) == "w holds NaN"


def test_a_rejected_report_becomes_a_failure_in_one_clean_line() -> None:
    """The problem may quote a tensor's name, which is a peer's text."""
    found = rejected(report(ORDER), "evil\n\x1b[2Jname is not known here")
    assert (found.order, found.worker, found.round, found.kind) == ("1/bob", "bob", 1, "rejected")
    assert found.reason == "evil??[2Jname is not known here"


def test_a_roster_is_never_changed() -> None:
    roster, order = ordered(Roster.of(THREE, THREE))
    with pytest.raises(FrozenInstanceError):
        roster.said = ()  # type: ignore[misc]
    members, open_orders = dict(roster.members), dict(roster.open)
    roster.hear(report(order))[0].accept(report(order)).say("line").with_("alice", here=False)
    roster.fail(failure(order))
    ordered(roster, "alice")
    assert (roster.members, roster.open, roster.said) == (members, open_orders, ())
