"""The door of a node: only so many wait there, and the oldest makes room."""

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedws.gate import MOST, Complaints, Gate


class Guest:
    """Somebody at the door, who may be sent away."""

    def __init__(self, gate: Gate) -> None:
        self.gate = gate
        self.sent = 0

    def come(self) -> "Guest":
        self.gate.enter(self, self.go)
        return self

    def go(self) -> None:
        self.sent += 1
        self.gate.leave(self)  # as a connection does that is lost


def test_when_it_is_full_the_oldest_goes() -> None:
    gate = Gate(3)
    guests = [Guest(gate).come() for _ in range(5)]
    assert [guest.sent for guest in guests] == [1, 1, 0, 0, 0]
    assert len(gate) == 3


def test_who_was_admitted_is_never_sent_away_and_leaves_room() -> None:
    gate = Gate(2)
    one, two = Guest(gate).come(), Guest(gate).come()
    gate.leave(one)
    assert len(gate) == 1
    three = Guest(gate).come()
    assert (one.sent, two.sent, three.sent) == (0, 0, 0)
    for _ in range(10):
        Guest(gate).come()
    assert (one.sent, two.sent, three.sent) == (0, 1, 1)


def test_to_leave_twice_or_without_having_come_is_nothing() -> None:
    gate = Gate(2)
    guest = Guest(gate).come()
    gate.leave(guest)
    gate.leave(guest)
    gate.leave(Guest(gate))
    assert len(gate) == 0


def test_who_comes_again_keeps_their_place_and_takes_no_other() -> None:
    """As a caller does who is done with TLS: that makes nobody younger."""
    gate, said = Gate(2), []
    one, two = Guest(gate).come(), Guest(gate).come()
    gate.enter(one, lambda: said.append("gone"))
    assert (len(gate), one.sent, two.sent) == (2, 0, 0)
    Guest(gate).come()
    assert (len(gate), one.sent, two.sent, said) == (2, 0, 0, ["gone"])


def test_there_is_room_for_every_member_of_a_usual_network() -> None:
    gate = Gate()
    guests = [Guest(gate).come() for _ in range(MOST)]
    assert not any(guest.sent for guest in guests)
    Guest(gate).come()
    assert [guest.sent for guest in guests] == [1] + [0] * (MOST - 1)


@given(st.integers(1, 5), st.lists(st.tuples(st.booleans(), st.integers(0, 9))))
def test_it_never_holds_more_and_sends_nobody_away_twice(most: int, steps: Sequence[tuple[bool, int]]) -> None:
    gate = Gate(most)
    guests = [Guest(gate) for _ in range(10)]
    waiting: list[int] = []
    for comes, number in steps:
        if comes and number not in waiting and not guests[number].sent:
            guests[number].come()
            waiting.append(number)
            for gone in waiting[:-most]:
                assert guests[gone].sent == 1
            waiting = waiting[-most:]
        elif not comes:
            gate.leave(guests[number])
            waiting = [other for other in waiting if other != number]
        assert len(gate) == len(waiting) <= most
    for number, guest in enumerate(guests):
        assert guest.sent <= 1
        assert not (guest.sent and number in waiting)


def test_strangers_fill_no_log(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    now = [100.0]
    monkeypatch.setattr("fedws.gate.time.monotonic", lambda: now[0])
    complaints = Complaints("alice")
    for _ in range(100):
        complaints.hear("somebody was turned away")
        now[0] += 1
    assert len(caplog.messages) == 10
    assert caplog.messages[0] == "alice: somebody was turned away"
    assert caplog.messages[1] == "alice: somebody was turned away (9 more since the last such line)"


def test_a_crowd_from_one_address_sends_nobody_else_away() -> None:
    gate, gone = Gate(4), []

    def come(name: str, address: str) -> None:
        guest = object()
        kept.append(guest)
        gate.enter(guest, lambda: gone.append(name), address)

    kept: list[object] = []
    come("member", "10.0.0.5")
    for number in range(6):
        come(f"stranger {number}", "203.0.113.9")
    assert gone == ["stranger 0", "stranger 1", "stranger 2"]
    come("another member", "10.0.0.6")
    assert gone[3:] == ["stranger 3"]
