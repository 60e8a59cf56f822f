"""How frames are protected from a broker and its other clients: by a keyed tag, or sealed as well.

Of the handshake's secret each direction of a link has a key of its own (HKDF, RFC 5869), so that no frame is of use on
another link or in the other direction; the number of a frame is under its tag, so that none is of use twice.
"""

import hashlib
import hmac
from typing import Protocol

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from fedws.network.mqtt.frames import HEAD, TAG, Frame, Kind, Level, head

Piece = bytes | memoryview


class Guard(Protocol):
    """One direction of a link."""

    level: Level

    def wrap(self, kind: Kind, number: int, payload: Piece) -> bytes | bytearray:
        """A frame. No number may be used twice for kinds that are numbered together."""

    def unwrap(self, frame: Frame) -> Piece | None:
        """The payload; None when the frame is not one of the other end's, as it sent it."""


class Plain:
    """Before the handshake has a secret, and where there is no network key."""

    level = Level.PLAIN

    def wrap(self, kind: Kind, number: int, payload: Piece) -> bytes:
        """A frame without a tag."""
        return b"".join((head(kind, self.level, number), payload))

    def unwrap(self, frame: Frame) -> Piece | None:
        """What anybody may have sent."""
        return memoryview(frame.data)[HEAD.size :] if frame.level is self.level else None


class Tagged:
    """HMAC-SHA256 over kind, number and payload, its first 16 bytes."""

    level = Level.TAGGED

    def __init__(self, key: bytes) -> None:
        self._mac = hmac.new(key, digestmod=hashlib.sha256)

    def wrap(self, kind: Kind, number: int, payload: Piece) -> bytearray:
        """A frame that anybody can read, and nobody change."""
        frame = bytearray(head(kind, self.level, number))
        frame += payload
        frame += self._tag(frame)
        return frame

    def unwrap(self, frame: Frame) -> Piece | None:
        """The payload, if the tag is right."""
        data = memoryview(frame.data)
        if frame.level is not self.level or len(data) < HEAD.size + TAG:
            return None
        return data[HEAD.size : -TAG] if hmac.compare_digest(self._tag(data[:-TAG]), data[-TAG:]) else None

    def _tag(self, data: bytearray | memoryview) -> bytes:
        mac = self._mac.copy()
        mac.update(data)
        return mac.digest()[:TAG]


class Sealed:
    """AES-256-GCM (NIST SP 800-38D) of the payload, with kind and number beside it."""

    level = Level.SEALED

    def __init__(self, key: bytes) -> None:
        self._cipher = AESGCM(key)

    def wrap(self, kind: Kind, number: int, payload: Piece) -> bytes:
        """A frame that nobody else can read or change."""
        first = head(kind, self.level, number)
        return first + self._cipher.encrypt(_nonce(kind, number), payload, first)

    def unwrap(self, frame: Frame) -> Piece | None:
        """The payload, if it is what was sealed."""
        if frame.level is not self.level or len(frame.data) < HEAD.size + TAG:
            return None
        data = memoryview(frame.data)
        try:
            return self._cipher.decrypt(_nonce(frame.kind, frame.number), data[HEAD.size :], data[: HEAD.size])
        except InvalidTag:
            return None


def _nonce(kind: Kind, number: int) -> bytes:
    """12 bytes, used once under a key: beats are numbered on their own."""
    return bytes([kind is Kind.BEAT, 0, 0, 0]) + number.to_bytes(8, "little")


def guard(secret: bytes, way: str, node: str, instance: str, link: str, *, sealed: bool) -> Guard:
    """For one direction: ``way`` is ``up`` or ``down``."""
    info = "/".join(("fedws 1", "seal" if sealed else "tag", way, node, instance, link))  # no id holds a slash
    key = HKDF(SHA256(), 32, None, info.encode()).derive(secret)
    return Sealed(key) if sealed else Tagged(key)
