"""Frames of a link over a broker: what is written is read, with the right tag alone; other bytes are none."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedws.network.mqtt.encryption import Guard, Plain, guard
from fedws.network.mqtt.frames import HEAD, LARGEST, TAG, Frame, Kind, Level, head, opened, opening, parse

SECRET = bytes(range(32))
NAMES = ("alice", "1" * 32, "2" * 32)
GUARDED = ["tagged", "sealed"]
PAYLOADS = st.binary(max_size=100)


def made(how: str, way: str = "up", secret: bytes = SECRET, names: tuple[str, str, str] = NAMES) -> Guard:
    return Plain() if how == "plain" else guard(secret, way, *names, sealed=how == "sealed")


def frame(data: bytes | bytearray) -> Frame:
    found = parse(bytes(data))
    assert found is not None
    return found


@given(st.sampled_from(["plain", *GUARDED]), st.sampled_from(Kind), st.integers(0, 2**64 - 1), PAYLOADS)
def test_what_is_wrapped_is_unwrapped(how: str, kind: Kind, number: int, payload: bytes) -> None:
    wrapped = made(how).wrap(kind, number, memoryview(payload))
    found = frame(wrapped)
    assert (found.kind, found.number) == (kind, number)
    assert found.level is made(how).level
    unwrapped = made(how).unwrap(found)
    assert unwrapped is not None and bytes(unwrapped) == payload
    assert len(wrapped) == HEAD.size + len(payload) + (TAG if how != "plain" else 0)


@given(st.sampled_from(GUARDED), PAYLOADS, st.data())
def test_no_altered_frame_is_taken(how: str, payload: bytes, data: st.DataObject) -> None:
    wrapped = bytearray(made(how).wrap(Kind.DATA, 7, payload))
    place = data.draw(st.integers(0, len(wrapped) - 1))
    wrapped[place] ^= data.draw(st.integers(1, 255))
    found = parse(bytes(wrapped))
    assert found is None or made(how).unwrap(found) is None


@given(st.sampled_from(GUARDED), PAYLOADS, st.integers(0, 99))
def test_no_shortened_or_lengthened_frame_is_taken(how: str, payload: bytes, cut: int) -> None:
    wrapped = bytes(made(how).wrap(Kind.DATA, 7, payload))
    for other in (wrapped[: -1 - cut], wrapped + bytes(1 + cut)):
        found = parse(other)
        assert found is None or made(how).unwrap(found) is None


@pytest.mark.parametrize("how", GUARDED)
def test_a_frame_is_of_no_use_elsewhere(how: str) -> None:
    """In the other direction, on another link, at another instance or node, or under another secret."""
    ours = frame(made(how).wrap(Kind.DATA, 0, b"payload"))
    others = [
        made(how, "down"),
        made(how, secret=bytes(32)),
        *(made(how, names=(*NAMES[:place], "3" * 32, *NAMES[place + 1 :])) for place in range(3)),  # type: ignore[arg-type]
        made("plain"),
        *(made(other) for other in GUARDED if other != how),
    ]
    assert [other.unwrap(ours) for other in others] == [None] * 7


def test_a_sealed_payload_cannot_be_read_and_never_looks_alike() -> None:
    payload = b"the weights of a model" * 10
    guarded = made("sealed")
    wrapped = [guarded.wrap(kind, number, payload) for kind in (Kind.DATA, Kind.BEAT) for number in range(3)]
    assert all(payload[:8] not in one for one in wrapped)
    assert len({bytes(one[HEAD.size :]) for one in wrapped}) == 6
    assert payload in bytes(made("tagged").wrap(Kind.DATA, 0, payload)), "which a tag alone does not prevent"


@given(st.binary(max_size=64))
def test_any_bytes_are_a_frame_or_none(data: bytes) -> None:
    found = parse(data)
    assert found is None or head(found.kind, found.level, found.number) == data[: HEAD.size]
    for how in GUARDED:
        assert found is None or made(how).unwrap(found) is None


def test_a_frame_has_an_end() -> None:
    first = head(Kind.DATA, Level.PLAIN, 0)
    assert parse(first + bytes(LARGEST - HEAD.size)) is not None
    assert parse(first + bytes(LARGEST - HEAD.size + 1)) is None
    assert parse(first[:-1]) is None
    assert parse(bytes([0xC0, *first[1:]])) is None and parse(bytes([6, *first[1:]])) is None


@pytest.mark.parametrize("seal", [True, False])
def test_an_opening_says_which_instance_is_meant_and_whether_to_seal(seal: bool) -> None:
    payload = opening("ab" * 16, seal=seal)
    assert opened(frame(Plain().wrap(Kind.OPEN, 0, payload))) == ("ab" * 16, seal)
    for wrong in (payload[:-1], payload + b"\0", b"\2" + payload[1:], b""):
        assert opened(frame(Plain().wrap(Kind.OPEN, 0, wrong))) is None
    assert opened(frame(Plain().wrap(Kind.DATA, 0, payload))) is None
