"""What one MQTT message of a link holds: kind, number, payload, and a tag once both ends have a secret.

    kind, 1 byte | number, 8 bytes, little-endian | payload | tag, 16 bytes, from :meth:`Channel.set_session_key` on

DATA, END and CLOSE of one direction are numbered together from 0 without a gap, so that what was lost, doubled or
reordered shows; PINGs are numbered on their own, and one may be lost.
"""

import struct
from dataclasses import dataclass
from enum import IntEnum

from fedws.protocol.encoder import FRAGMENT_BYTES

FRAME_HEADER = struct.Struct("<BQ")
PING_PAYLOAD = struct.Struct("<QQ")
"""The payload of a PING: how many numbered frames its sender has read, and sent."""
TAG_BYTES = 16
"""Bytes."""
MAX_FRAME_BYTES = FRAME_HEADER.size + FRAGMENT_BYTES + TAG_BYTES
"""Bytes of a frame."""


class FrameKind(IntEnum):
    """What a frame is for."""

    OPEN = 0
    """A link begins; answered by one. Never with a tag."""
    DATA = 1
    """A part of a message; more of it follows."""
    END = 2
    """The last part."""
    CLOSE = 3
    """The link ends, in order: a code, and a reason."""
    PING = 4
    """A sign of life, with how many numbered frames its sender has read, and sent."""
    GONE = 5
    """The broker's, for a coordinator that has vanished: the secret of :class:`fedws.network.mqtt.topics.EndToken`."""


class ProtectionLevel(IntEnum):
    """How a frame is protected; added to its kind in its first byte."""

    PLAIN = 0x00
    AUTHENTICATED = 0x40
    ENCRYPTED = 0x80


NUMBERED_KINDS = (FrameKind.DATA, FrameKind.END, FrameKind.CLOSE)


@dataclass(frozen=True)
class Frame:
    """A frame as it came; nothing in it is proved yet, and the payload has its tag still."""

    kind: FrameKind
    level: ProtectionLevel
    number: int
    data: bytes
    """All of it."""


def parse_frame(data: bytes) -> Frame | None:
    """A frame; None where it is none."""
    if not FRAME_HEADER.size <= len(data) <= MAX_FRAME_BYTES:
        return None
    first, number = FRAME_HEADER.unpack_from(data)
    try:
        return Frame(FrameKind(first & 0x3F), ProtectionLevel(first & 0xC0), number, data)
    except ValueError:
        return None


def pack_frame_header(kind: FrameKind, level: ProtectionLevel, number: int) -> bytes:
    """The first bytes of a frame."""
    return FRAME_HEADER.pack(kind | level, number)


def pack_open(instance: str, *, encrypt_payloads: bool) -> bytes:
    """The payload of an OPEN: whether the one who sends it wants the payloads encrypted, and which instance is
    meant."""
    return bytes([encrypt_payloads]) + bytes.fromhex(instance)


def parse_open(frame: Frame) -> tuple[str, bool] | None:
    """Instance and wish of an OPEN; None where it is none."""
    if (
        frame.kind is not FrameKind.OPEN
        or len(frame.data) != FRAME_HEADER.size + 17
        or frame.data[FRAME_HEADER.size] > 1
    ):
        return None
    return frame.data[-16:].hex(), bool(frame.data[FRAME_HEADER.size])
