"""How frames are protected from a broker and its other clients: by a keyed tag, or encrypted as well.

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

from fedws.network.mqtt.frames import FRAME_HEADER, TAG_BYTES, Frame, FrameKind, ProtectionLevel, pack_frame_header

Payload = bytes | memoryview


class FrameProtection(Protocol):
    """One direction of a link."""

    level: ProtectionLevel

    def wrap(self, kind: FrameKind, number: int, payload: Payload) -> bytes | bytearray:
        """A frame. No number may be used twice for kinds that are numbered together."""

    def unwrap(self, frame: Frame) -> Payload | None:
        """The payload; None when the frame is not one of the other end's, as it sent it."""


class NoProtection:
    """Before the handshake has a secret, and where there is no network key."""

    level = ProtectionLevel.PLAIN

    def wrap(self, kind: FrameKind, number: int, payload: Payload) -> bytes:
        """A frame without a tag."""
        return b"".join((pack_frame_header(kind, self.level, number), payload))

    def unwrap(self, frame: Frame) -> Payload | None:
        """What anybody may have sent."""
        return memoryview(frame.data)[FRAME_HEADER.size :] if frame.level is self.level else None


class HmacProtection:
    """HMAC-SHA256 over kind, number and payload, its first 16 bytes."""

    level = ProtectionLevel.AUTHENTICATED

    def __init__(self, key: bytes) -> None:
        self._mac = hmac.new(key, digestmod=hashlib.sha256)

    def wrap(self, kind: FrameKind, number: int, payload: Payload) -> bytearray:
        """A frame that anybody can read, and nobody change."""
        frame = bytearray(pack_frame_header(kind, self.level, number))
        frame += payload
        frame += self._tag(frame)
        return frame

    def unwrap(self, frame: Frame) -> Payload | None:
        """The payload, if the tag is right."""
        data = memoryview(frame.data)
        if frame.level is not self.level or len(data) < FRAME_HEADER.size + TAG_BYTES:
            return None
        return (
            data[FRAME_HEADER.size : -TAG_BYTES]
            if hmac.compare_digest(self._tag(data[:-TAG_BYTES]), data[-TAG_BYTES:])
            else None
        )

    def _tag(self, data: bytearray | memoryview) -> bytes:
        mac = self._mac.copy()
        mac.update(data)
        return mac.digest()[:TAG_BYTES]


class AesGcmProtection:
    """AES-256-GCM (NIST SP 800-38D) of the payload, with kind and number beside it."""

    level = ProtectionLevel.ENCRYPTED

    def __init__(self, key: bytes) -> None:
        self._cipher = AESGCM(key)

    def wrap(self, kind: FrameKind, number: int, payload: Payload) -> bytes:
        """A frame that nobody else can read or change."""
        first = pack_frame_header(kind, self.level, number)
        return first + self._cipher.encrypt(_build_nonce(kind, number), payload, first)

    def unwrap(self, frame: Frame) -> Payload | None:
        """Return the payload, if it is what was encrypted."""
        if frame.level is not self.level or len(frame.data) < FRAME_HEADER.size + TAG_BYTES:
            return None
        data = memoryview(frame.data)
        try:
            return self._cipher.decrypt(
                _build_nonce(frame.kind, frame.number), data[FRAME_HEADER.size :], data[: FRAME_HEADER.size]
            )
        except InvalidTag:
            return None


def _build_nonce(kind: FrameKind, number: int) -> bytes:
    """12 bytes, used once under a key: pings are numbered on their own."""
    return bytes([kind is FrameKind.PING, 0, 0, 0]) + number.to_bytes(8, "little")


def derive_protection(
    session_key: bytes, direction: str, node: str, instance: str, link: str, *, encrypted: bool
) -> FrameProtection:
    """For one direction: ``direction`` is ``up`` or ``down``."""
    purpose = "encrypt" if encrypted else "authenticate"
    info = "/".join(("fedws 1", purpose, direction, node, instance, link))  # no id holds a slash
    key = HKDF(SHA256(), 32, None, info.encode()).derive(session_key)
    return AesGcmProtection(key) if encrypted else HmacProtection(key)
