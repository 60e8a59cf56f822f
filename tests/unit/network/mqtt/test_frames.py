"""Frames of a link over a broker: what is written is read, with the right tag alone; other bytes are none."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedws.network.mqtt.encryption import FrameProtection, NoProtection, derive_protection
from fedws.network.mqtt.frames import (
    FRAME_HEADER,
    MAX_FRAME_BYTES,
    TAG_BYTES,
    Frame,
    FrameKind,
    ProtectionLevel,
    pack_frame_header,
    pack_open,
    parse_frame,
    parse_open,
)

SECRET = bytes(range(32))
NAMES = ("alice", "1" * 32, "2" * 32)
GUARDED = ["tagged", "sealed"]
PAYLOADS = st.binary(max_size=100)


def made(how: str, way: str = "up", secret: bytes = SECRET, names: tuple[str, str, str] = NAMES) -> FrameProtection:
    return NoProtection() if how == "plain" else derive_protection(secret, way, *names, encrypted=how == "sealed")


def frame(data: bytes | bytearray) -> Frame:
    found = parse_frame(bytes(data))
    assert found is not None
    return found


@given(st.sampled_from(["plain", *GUARDED]), st.sampled_from(FrameKind), st.integers(0, 2**64 - 1), PAYLOADS)
def test_what_is_wrapped_is_unwrapped(how: str, kind: FrameKind, number: int, payload: bytes) -> None:
    wrapped = made(how).wrap(kind, number, memoryview(payload))
    found = frame(wrapped)
    assert (found.kind, found.number) == (kind, number)
    assert found.level is made(how).level
    unwrapped = made(how).unwrap(found)
    assert unwrapped is not None and bytes(unwrapped) == payload
    assert len(wrapped) == FRAME_HEADER.size + len(payload) + (TAG_BYTES if how != "plain" else 0)


@given(st.sampled_from(GUARDED), PAYLOADS, st.data())
def test_no_altered_frame_is_taken(how: str, payload: bytes, data: st.DataObject) -> None:
    wrapped = bytearray(made(how).wrap(FrameKind.DATA, 7, payload))
    place = data.draw(st.integers(0, len(wrapped) - 1))
    wrapped[place] ^= data.draw(st.integers(1, 255))
    found = parse_frame(bytes(wrapped))
    assert found is None or made(how).unwrap(found) is None


@given(st.sampled_from(GUARDED), PAYLOADS, st.integers(0, 99))
def test_no_shortened_or_lengthened_frame_is_taken(how: str, payload: bytes, cut: int) -> None:
    wrapped = bytes(made(how).wrap(FrameKind.DATA, 7, payload))
    for other in (wrapped[: -1 - cut], wrapped + bytes(1 + cut)):
        found = parse_frame(other)
        assert found is None or made(how).unwrap(found) is None


@pytest.mark.parametrize("how", GUARDED)
def test_a_frame_is_of_no_use_elsewhere(how: str) -> None:
    """In the other direction, on another link, at another instance or node, or under another secret."""
    ours = frame(made(how).wrap(FrameKind.DATA, 0, b"payload"))
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
    wrapped = [guarded.wrap(kind, number, payload) for kind in (FrameKind.DATA, FrameKind.PING) for number in range(3)]
    assert all(payload[:8] not in one for one in wrapped)
    assert len({bytes(one[FRAME_HEADER.size :]) for one in wrapped}) == 6
    assert payload in bytes(made("tagged").wrap(FrameKind.DATA, 0, payload)), "which a tag alone does not prevent"


@given(st.binary(max_size=64))
def test_any_bytes_are_a_frame_or_none(data: bytes) -> None:
    found = parse_frame(data)
    assert found is None or pack_frame_header(found.kind, found.level, found.number) == data[: FRAME_HEADER.size]
    for how in GUARDED:
        assert found is None or made(how).unwrap(found) is None


def test_a_frame_has_an_end() -> None:
    first = pack_frame_header(FrameKind.DATA, ProtectionLevel.PLAIN, 0)
    assert parse_frame(first + bytes(MAX_FRAME_BYTES - FRAME_HEADER.size)) is not None
    assert parse_frame(first + bytes(MAX_FRAME_BYTES - FRAME_HEADER.size + 1)) is None
    assert parse_frame(first[:-1]) is None
    assert parse_frame(bytes([0xC0, *first[1:]])) is None and parse_frame(bytes([6, *first[1:]])) is None


@pytest.mark.parametrize("seal", [True, False])
def test_an_opening_says_which_instance_is_meant_and_whether_to_seal(seal: bool) -> None:
    payload = pack_open("ab" * 16, encrypt_payloads=seal)
    assert parse_open(frame(NoProtection().wrap(FrameKind.OPEN, 0, payload))) == ("ab" * 16, seal)
    for wrong in (payload[:-1], payload + b"\0", b"\2" + payload[1:], b""):
        assert parse_open(frame(NoProtection().wrap(FrameKind.OPEN, 0, wrong))) is None
    assert parse_open(frame(NoProtection().wrap(FrameKind.DATA, 0, payload))) is None
