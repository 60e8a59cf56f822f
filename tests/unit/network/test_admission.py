"""The door of a node: only so many wait there, and none of them is sure to lose its place."""

from collections.abc import Sequence
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedws.network.admission import MAX_PENDING_CONNECTIONS, BoundedConnectionSet, source_network


class Guest:
    """A caller that may be dropped."""

    def __init__(
        self, gate: BoundedConnectionSet, address: str = "", received: int = 0, *, greeted: bool = False
    ) -> None:
        self.gate = gate
        self.address = address
        self.bytes_received = received
        self.has_received_message = greeted
        self.dropped = 0

    def come(self) -> "Guest":
        self.gate.add(self, self.drop, self.address)
        return self

    def drop(self) -> None:
        self.dropped += 1
        self.gate.discard(self)  # as a connection does that is lost


def test_when_it_is_full_each_further_caller_costs_one_its_place() -> None:
    gate = BoundedConnectionSet(3, Random(1))
    guests = [Guest(gate).come() for _ in range(50)]
    assert sum(guest.dropped for guest in guests) == 47 and len(gate) == 3
    assert guests[-1].dropped == 0, "which is never the one that comes"


def test_who_was_admitted_is_never_dropped_and_leaves_room() -> None:
    gate = BoundedConnectionSet(2)
    one, two = Guest(gate).come(), Guest(gate).come()
    gate.discard(one)
    assert len(gate) == 1
    three = Guest(gate).come()
    assert (one.dropped, two.dropped, three.dropped) == (0, 0, 0)
    for _ in range(20):
        Guest(gate).come()
    assert one.dropped == 0


def test_to_leave_twice_or_without_having_come_is_nothing() -> None:
    gate = BoundedConnectionSet(2)
    guest = Guest(gate).come()
    gate.discard(guest)
    gate.discard(guest)
    gate.discard(Guest(gate))
    assert len(gate) == 0


def test_who_comes_again_keeps_their_place_and_takes_no_other() -> None:
    """As a caller does that is done with TLS."""
    gate, said = BoundedConnectionSet(2), []
    one, two = Guest(gate, received=9).come(), Guest(gate).come()
    gate.add(two, lambda: said.append("gone"))
    assert (len(gate), one.dropped, two.dropped) == (2, 0, 0)
    Guest(gate).come()
    assert (len(gate), one.dropped, two.dropped, said) == (2, 0, 0, ["gone"])


def test_there_is_room_for_every_member_of_a_usual_network() -> None:
    gate = BoundedConnectionSet()
    guests = [Guest(gate).come() for _ in range(MAX_PENDING_CONNECTIONS)]
    assert not any(guest.dropped for guest in guests)
    Guest(gate).come()
    assert sum(guest.dropped for guest in guests) == 1


@given(st.integers(1, 5), st.lists(st.tuples(st.booleans(), st.integers(0, 9))), st.integers(0, 3))
def test_it_never_holds_more_and_drops_none_twice(most: int, steps: Sequence[tuple[bool, int]], seed: int) -> None:
    gate = BoundedConnectionSet(most, Random(seed))
    guests = [Guest(gate, received=number % 3, greeted=number > 6) for number in range(10)]
    waiting: set[int] = set()
    for comes, number in steps:
        if comes and number not in waiting and not guests[number].dropped:
            before = len(waiting)
            guests[number].come()
            waiting = {other for other in waiting if not guests[other].dropped} | {number}
            assert len(waiting) == min(most, before + 1)
        elif not comes:
            gate.discard(guests[number])
            waiting.discard(number)
        assert len(gate) == len(waiting) <= most
    for number, guest in enumerate(guests):
        assert guest.dropped <= 1
        assert not (guest.dropped and number in waiting)


# --------------------------------------------------------------------------- strangers with many addresses


def addresses(number: int) -> str:
    """An IPv6 address with a prefix of its own."""
    return f"2001:db8:{number >> 16:x}:{number & 0xFFFF:x}::1"


def through(arrivals: int, strangers: tuple[int, bool], tries: int = 200) -> int:
    """Return how many slow handshakes get through, during each of which so many strangers come.

    A handshake is opened, a ``hello`` comes after a third of the time, and a proof after two; all that a stranger
    sends (bytes, and whether that is a whole ``hello``), it sends at once.
    """
    gate, passed, came = BoundedConnectionSet(random=Random(1)), 0, 0

    def come(count: int) -> None:
        nonlocal came
        for _ in range(count):
            came += 1
            guest = Guest(gate, addresses(came)).come()
            guest.bytes_received, guest.has_received_message = strangers

    come(MAX_PENDING_CONNECTIONS)
    for number in range(tries):
        member = Guest(gate, f"10.0.{number >> 8}.{number & 255}").come()
        for _ in range(3):
            come(arrivals // 3)
            member.bytes_received, member.has_received_message = 500, True
        passed += not member.dropped
        gate.discard(member)
    return passed


@pytest.mark.parametrize(
    ("strangers", "least"), [((0, False), 100), ((250, False), 60), ((60_000, True), 3)], ids=["idle", "open", "hello"]
)
def test_a_slow_handshake_may_get_through_a_flood_from_many_addresses(strangers: tuple[int, bool], least: int) -> None:
    """Before, it lost its place for certain once 64 strangers had come."""
    found = through(99, strangers)
    print(f"{found} of 200 slow handshakes got through")
    assert found >= least


def test_a_crowd_from_one_prefix_costs_no_other_its_place() -> None:
    """All addresses of a prefix are one host's; IPv4 written as IPv6 is IPv4."""
    gate = BoundedConnectionSet(4)
    member = Guest(gate, "2001:db8:0:1::5").come()
    mapped = Guest(gate, "::ffff:10.0.0.6").come()
    for number in range(100):
        Guest(gate, f"2001:db8:0:2::{number:x}").come()
        Guest(gate, f"2001:db8:0:2:{number:x}::1", received=50_000, greeted=True).come()
    assert (member.dropped, mapped.dropped) == (0, 0)
    assert Guest(gate, "10.0.0.6").come() and mapped.dropped == 0


def test_addresses_are_grouped_by_host() -> None:
    assert (
        source_network("2001:db8:0:1:2:3:4:5")
        == source_network("2001:db8:0:1::%eth0")
        != source_network("2001:db8:0:2::1")
    )
    assert source_network("::ffff:192.0.2.7") == source_network("192.0.2.7") != source_network("192.0.2.8")
    assert source_network("::1") != source_network("127.0.0.1")


def test_a_whole_hello_is_preferred_while_others_have_sent_none() -> None:
    gate = BoundedConnectionSet(8, Random(1))
    greeted = [Guest(gate, addresses(number), 300, greeted=True).come() for number in range(4)]
    for number in range(4, 500):
        Guest(gate, addresses(number), received=60_000).come()
    assert not any(guest.dropped for guest in greeted)


def test_those_that_have_sent_a_hello_cannot_fill_the_door() -> None:
    """Else each newcomer would be the only one without, and lose its place to the next."""
    gate, stay = BoundedConnectionSet(8, Random(1)), 0
    for number in range(8):
        Guest(gate, addresses(number), 300, greeted=True).come()
    for number in range(1000):
        member = Guest(gate, f"10.0.{number >> 8}.{number & 255}").come()
        Guest(gate, addresses(9 + number), 300, greeted=True).come()
        stay += not member.dropped
        gate.discard(member)
    assert stay > 700


def test_of_those_alike_the_oldest_is_not_always_dropped() -> None:
    """Neither is the newest: what a stranger can know of the order is of no use."""
    lost = set()
    for seed in range(100):
        gate = BoundedConnectionSet(6, Random(seed))
        guests = [Guest(gate, addresses(number)).come() for number in range(6)]
        Guest(gate, addresses(6)).come()
        lost |= {number for number, guest in enumerate(guests) if guest.dropped}
    assert lost == set(range(6))


def test_a_crowd_from_one_address_sends_nobody_else_away() -> None:
    gate, kept = BoundedConnectionSet(4), []
    member = Guest(gate, "10.0.0.5").come()
    for _ in range(6):
        kept.append(Guest(gate, "203.0.113.9").come())
    assert sum(guest.dropped for guest in kept) == 3
    other = Guest(gate, "10.0.0.6").come()
    assert sum(guest.dropped for guest in kept) == 4
    assert (member.dropped, other.dropped) == (0, 0)
