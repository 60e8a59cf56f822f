"""Requests to participants: ids, seeds, base rounds and candidates."""

from fedws.core.seeds import request_seed
from fedws.scheduling.base import WorkerInfo
from fedws.scheduling.events import ResponseTimed
from fedws.scheduling.participant_state import PendingRequest
from fedws.scheduling.participants import Participants
from tests.helpers.participant_events import ASK, THREE, failure, ordered, report


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
