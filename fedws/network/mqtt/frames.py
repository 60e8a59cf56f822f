"""The frame format: the content of one MQTT message of a link.

    kind, 1 byte | number, 8 bytes, little-endian | payload | tag, 16 bytes, from ``Channel.set_session_key`` on

DATA, END and CLOSE frames of one direction are numbered together from 0 without a gap. The receiver thereby detects
lost, duplicated and reordered frames. PING frames have their own numbers, and one may be lost.
"""

import struct
from dataclasses import dataclass
from enum import IntEnum

from fedws.protocol.encoder import FRAGMENT_BYTES

FRAME_HEADER = struct.Struct("<BQ")
PING_PAYLOAD = struct.Struct("<QQ")
"""Payload of a PING: the numbers of numbered frames that its sender has read and sent."""
TAG_BYTES = 16
"""Size of a tag in bytes."""
MAX_FRAME_BYTES = FRAME_HEADER.size + FRAGMENT_BYTES + TAG_BYTES
"""Largest size of a frame in bytes."""


class FrameKind(IntEnum):
    """The purpose of a frame."""

    OPEN = 0
    """The start of a link, which the peer answers with an OPEN. It never has a tag."""
    DATA = 1
    """A part of a message that is not the last one."""
    END = 2
    """The last part of a message."""
    CLOSE = 3
    """The orderly end of a link, with a code and a reason."""
    PING = 4
    """A keep-alive, with the numbers of numbered frames that its sender has read and sent."""
    GONE = 5
    """The will of a lost coordinator, with the secret of a ``fedws.network.mqtt.topics.EndToken``."""


class ProtectionLevel(IntEnum):
    """The protection of a frame, which is added to the kind in the first byte."""

    PLAIN = 0x00
    AUTHENTICATED = 0x40
    ENCRYPTED = 0x80


NUMBERED_KINDS = (FrameKind.DATA, FrameKind.END, FrameKind.CLOSE)


@dataclass(frozen=True)
class Frame:
    """A received frame that is not verified yet and still contains its tag."""

    kind: FrameKind
    level: ProtectionLevel
    number: int
    data: bytes
    """The whole frame, with header and tag."""


def parse_frame(data: bytes) -> Frame | None:
    """Return the frame in ``data``, or None if it is not a valid frame."""
    if not FRAME_HEADER.size <= len(data) <= MAX_FRAME_BYTES:
        return None
    first, number = FRAME_HEADER.unpack_from(data)
    try:
        return Frame(FrameKind(first & 0x3F), ProtectionLevel(first & 0xC0), number, data)
    except ValueError:
        return None


def pack_frame_header(kind: FrameKind, level: ProtectionLevel, number: int) -> bytes:
    """Return the header of a frame."""
    return FRAME_HEADER.pack(kind | level, number)


def pack_open(instance: str, *, encrypt_payloads: bool) -> bytes:
    """Return the payload of an OPEN: whether its sender requires encrypted payloads, and the node's instance."""
    return bytes([encrypt_payloads]) + bytes.fromhex(instance)


def parse_open(frame: Frame) -> tuple[str, bool] | None:
    """Return the instance and the encryption flag of an OPEN, or None if the frame is not a valid OPEN."""
    if (
        frame.kind is not FrameKind.OPEN
        or len(frame.data) != FRAME_HEADER.size + 17
        or frame.data[FRAME_HEADER.size] > 1
    ):
        return None
    return frame.data[-16:].hex(), bool(frame.data[FRAME_HEADER.size])
