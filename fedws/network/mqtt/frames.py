"""What one MQTT message of a link holds: kind, number, payload, and a tag once both ends have a secret.

    kind, 1 byte | number, 8 bytes, little-endian | payload | tag, 16 bytes, from :meth:`Channel.protect` on

DATA, END and CLOSE of one direction are numbered together from 0 without a gap, so that what was lost, doubled or
reordered shows; BEATs are numbered on their own, and one may be lost.
"""

import struct
from dataclasses import dataclass
from enum import IntEnum

from fedws.protocol.encoder import FRAGMENT

HEAD = struct.Struct("<BQ")
BEAT = struct.Struct("<QQ")
"""The payload of a BEAT: how many numbered frames its sender has read, and sent."""
TAG = 16
"""Bytes."""
LARGEST = HEAD.size + FRAGMENT + TAG
"""Bytes of a frame."""


class Kind(IntEnum):
    """What a frame is for."""

    OPEN = 0
    """A link begins; answered by one. Never with a tag."""
    DATA = 1
    """A part of a message; more of it follows."""
    END = 2
    """The last part."""
    CLOSE = 3
    """The link ends, in order: a code, and a reason."""
    BEAT = 4
    """A sign of life, with how many numbered frames its sender has read, and sent."""
    GONE = 5
    """The broker's, for a coordinator that has vanished: the secret of :class:`fedws.network.mqtt.topics.Will`."""


class Level(IntEnum):
    """How a frame is protected; added to its kind in its first byte."""

    PLAIN = 0x00
    TAGGED = 0x40
    SEALED = 0x80


NUMBERED = (Kind.DATA, Kind.END, Kind.CLOSE)


@dataclass(frozen=True)
class Frame:
    """A frame as it came; nothing in it is proved yet, and the payload has its tag still."""

    kind: Kind
    level: Level
    number: int
    data: bytes
    """All of it."""


def parse(data: bytes) -> Frame | None:
    """A frame; None where it is none."""
    if not HEAD.size <= len(data) <= LARGEST:
        return None
    first, number = HEAD.unpack_from(data)
    try:
        return Frame(Kind(first & 0x3F), Level(first & 0xC0), number, data)
    except ValueError:
        return None


def head(kind: Kind, level: Level, number: int) -> bytes:
    """The first bytes of a frame."""
    return HEAD.pack(kind | level, number)


def opening(instance: str, *, seal: bool) -> bytes:
    """The payload of an OPEN: whether the one who sends it wants the link sealed, and which instance is meant."""
    return bytes([seal]) + bytes.fromhex(instance)


def opened(frame: Frame) -> tuple[str, bool] | None:
    """Instance and wish of an OPEN; None where it is none."""
    if frame.kind is not Kind.OPEN or len(frame.data) != HEAD.size + 17 or frame.data[HEAD.size] > 1:
        return None
    return frame.data[-16:].hex(), bool(frame.data[HEAD.size])
