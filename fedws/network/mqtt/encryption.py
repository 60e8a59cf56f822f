"""The protection of frames from a broker and its other clients, by authentication or encryption.

Each direction of a link has its own key, derived from the handshake's secret (HKDF, RFC 5869). A frame is therefore
not valid on another link or in the other direction. The tag covers the number of the frame, which prevents replays.
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
    """The protection of one direction of a link."""

    level: ProtectionLevel

    def wrap(self, kind: FrameKind, number: int, payload: Payload) -> bytes | bytearray:
        """Return a protected frame. A number must not be reused among kinds that are numbered together."""

    def unwrap(self, frame: Frame) -> Payload | None:
        """Return the payload, or None if the frame was forged or modified."""


class NoProtection:
    """The absence of protection, before the handshake has a secret or without a network key."""

    level = ProtectionLevel.PLAIN

    def wrap(self, kind: FrameKind, number: int, payload: Payload) -> bytes:
        """Return a frame without a tag."""
        return b"".join((pack_frame_header(kind, self.level, number), payload))

    def unwrap(self, frame: Frame) -> Payload | None:
        """Return the payload, which any client of the broker may have sent."""
        return memoryview(frame.data)[FRAME_HEADER.size :] if frame.level is self.level else None


class HmacProtection:
    """The protection by a tag: the first 16 bytes of the HMAC-SHA256 of kind, number and payload."""

    level = ProtectionLevel.AUTHENTICATED

    def __init__(self, key: bytes) -> None:
        self._mac = hmac.new(key, digestmod=hashlib.sha256)

    def wrap(self, kind: FrameKind, number: int, payload: Payload) -> bytearray:
        """Return a frame that any client can read, and only an owner of the key can modify."""
        frame = bytearray(pack_frame_header(kind, self.level, number))
        frame += payload
        frame += self._tag(frame)
        return frame

    def unwrap(self, frame: Frame) -> Payload | None:
        """Return the payload, or None if the tag does not match."""
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
    """The protection by AES-256-GCM (NIST SP 800-38D), with kind and number as associated data."""

    level = ProtectionLevel.ENCRYPTED

    def __init__(self, key: bytes) -> None:
        self._cipher = AESGCM(key)

    def wrap(self, kind: FrameKind, number: int, payload: Payload) -> bytes:
        """Return a frame that only an owner of the key can read or modify."""
        header = pack_frame_header(kind, self.level, number)
        return header + self._cipher.encrypt(_build_nonce(kind, number), payload, header)

    def unwrap(self, frame: Frame) -> Payload | None:
        """Return the decrypted payload, or None if the tag does not match."""
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
    """Return the nonce of a frame, 12 bytes that are used once per key.

    PING frames have their own numbers, so the first byte of the nonce separates them from other frames.
    """
    return bytes([kind is FrameKind.PING, 0, 0, 0]) + number.to_bytes(8, "little")


def derive_protection(
    session_key: bytes, direction: str, node: str, instance: str, link: str, *, encrypted: bool
) -> FrameProtection:
    """Return the protection for one direction, ``up`` or ``down``, of one link."""
    purpose = "encrypt" if encrypted else "authenticate"
    info = "/".join(("fedws 1", purpose, direction, node, instance, link))  # unique, since ids contain no slash
    key = HKDF(SHA256(), 32, None, info.encode()).derive(session_key)
    return AesGcmProtection(key) if encrypted else HmacProtection(key)
