"""The state machine for one end of a link, from received frames to their meaning. It uses no I/O and no clocks."""

from dataclasses import dataclass
from enum import Enum, auto

from fedws.network.base import MAX_HANDSHAKE_MESSAGE_BYTES
from fedws.network.mqtt.encryption import FrameProtection, NoProtection, Payload, derive_protection
from fedws.network.mqtt.flow_control import (
    WINDOW_FRAMES,
    FramesMissing,
    ReceivedFrame,
    ReceiveWindow,
    SendWindow,
    WindowExceeded,
)
from fedws.network.mqtt.frames import (
    FRAME_HEADER,
    NUMBERED_KINDS,
    PING_PAYLOAD,
    Frame,
    FrameKind,
    ProtectionLevel,
    pack_open,
    parse_frame,
    parse_open,
)
from fedws.network.mqtt.topics import EndToken

_MAX_EARLY_FRAMES = 4  # protected frames that are kept until this side has the session key
_FRAMES_PER_ACK = WINDOW_FRAMES // 4  # number of read frames after which a PING acknowledges them


class FrameEvent(Enum):
    """The meaning of a received frame."""

    IGNORED = auto()
    """A frame without effect, which does not prove that the peer is alive."""
    DATA = auto()
    """A frame that can be read."""
    CLOSED = auto()
    """The last frame of the link."""
    PING = auto()
    """A keep-alive, which may have opened the send window."""
    OPENED = auto()
    """The peer's OPEN."""
    GONE = auto()
    """The will of a lost peer."""
    FRAMES_MISSING = auto()
    """A frame after a gap in the numbers."""
    PROTOCOL_ERROR = auto()
    """A frame by which the peer breaks the protocol."""
    DROPPED = auto()
    """A dropped frame, since it is a duplicate or was not sent by the peer."""


@dataclass(frozen=True)
class LinkIds:
    """The names that identify one link: node id, instance of the node, and link."""

    node: str
    instance: str
    link: str


class LinkEndpoint:
    """One end of a link: the coordinator's if ``is_dialer``, otherwise the node's."""

    def __init__(self, ids: LinkIds, *, is_dialer: bool, encrypt_payloads: bool) -> None:
        self._ids = ids
        self._is_dialer = is_dialer
        self.encrypt_payloads = encrypt_payloads
        """True if frames after the handshake are encrypted, which is the case if either end requires it."""
        self.fault = ""
        """Description of the last frame that was dropped or broke the link."""
        self.close_payload = b""
        """Payload of the peer's CLOSE."""
        self._in_message = False
        self.messages_received = 0
        """Number of whole messages received."""
        self._open_received = not is_dialer
        self._send_protection: FrameProtection = NoProtection()
        self._receive_protection: FrameProtection = NoProtection()
        self._early_frames: list[bytes] = []
        self._reset_counters()

    def _reset_counters(self) -> None:
        """Restart the numbering of frames from 0."""
        self._send_window, self._receive_window = SendWindow(), ReceiveWindow()
        self._pings_sent, self._last_ping, self._acknowledged_frames = 0, -1, 0
        self._peer_frames_sent = 0

    @property
    def protection_level(self) -> ProtectionLevel:
        """Protection of outgoing frames."""
        return self._send_protection.level

    def set_session_key(self, session_key: bytes) -> list[bytes]:
        """Protect all further frames in both directions, and discard unread frames without protection.

        Return the protected frames that were received before, which the caller must process now.
        """
        outgoing, incoming = ("down", "up") if self._is_dialer else ("up", "down")
        ids = self._ids
        self._send_protection, self._receive_protection = (
            derive_protection(session_key, direction, ids.node, ids.instance, ids.link, encrypted=self.encrypt_payloads)
            for direction in (outgoing, incoming)
        )
        self._reset_counters()
        early, self._early_frames = self._early_frames, []
        return early

    # ------------------------------------------------------------------ outgoing frames

    @property
    def can_send(self) -> bool:
        """True if the window permits one more part of a message."""
        return self._send_window.can_send

    def build_open_frame(self) -> bytes | bytearray:
        """Return the OPEN frame of this end."""
        return self._send_protection.wrap(
            FrameKind.OPEN, 0, pack_open(self._ids.instance, encrypt_payloads=self.encrypt_payloads)
        )

    def build_frame(self, kind: FrameKind, payload: Payload) -> bytes | bytearray:
        """Return the next numbered frame."""
        return self._send_protection.wrap(kind, self._send_window.next_number(), payload)

    def build_ping(self) -> bytes | bytearray:
        """Return a PING frame, which acknowledges all read frames."""
        self._acknowledged_frames = self._receive_window.frames_read
        self._pings_sent += 1
        return self._send_protection.wrap(
            FrameKind.PING,
            self._pings_sent - 1,
            PING_PAYLOAD.pack(self._acknowledged_frames, self._send_window.frames_sent),
        )

    # ------------------------------------------------------------------ incoming frames

    @property
    def is_receiving(self) -> bool:
        """True if frames are outstanding: of an incomplete message, or according to the peer's last PING."""
        return self._in_message or self._peer_frames_sent > self._receive_window.frames_received

    @property
    def unread_frames(self) -> int:
        """Number of received frames that are not read yet."""
        return len(self._receive_window)

    def read_frame(self) -> ReceivedFrame | None:
        """Return the next frame, or None if all frames are read."""
        return self._receive_window.read_frame()

    @property
    def ack_due(self) -> bool:
        """True if a PING should acknowledge the frames read since the last one."""
        return self._receive_window.frames_read - self._acknowledged_frames >= _FRAMES_PER_ACK

    def handle_frame(self, data: bytes) -> FrameEvent:
        """Process a frame on the link's topic, which any client of the broker may have sent."""
        frame = parse_frame(data)
        if frame is None:
            return self._drop_frame("a malformed frame")
        if frame.kind is FrameKind.OPEN:
            return self._handle_open(frame)
        if frame.kind is FrameKind.GONE:
            return self._handle_gone(frame)
        if self._receive_protection.level is ProtectionLevel.PLAIN and frame.level is not ProtectionLevel.PLAIN:
            if len(self._early_frames) < _MAX_EARLY_FRAMES and len(data) <= MAX_HANDSHAKE_MESSAGE_BYTES:
                self._early_frames.append(data)
            return FrameEvent.IGNORED
        payload = self._receive_protection.unwrap(frame)
        if payload is None:
            # The peer may have sent a PING just before its first protected frame.
            if frame.kind is FrameKind.PING and frame.level is ProtectionLevel.PLAIN:
                return FrameEvent.IGNORED
            return self._drop_frame("a frame with a wrong tag")
        if frame.kind in NUMBERED_KINDS:
            return self._handle_numbered(frame, payload)
        return self._handle_ping(frame, payload)

    def _handle_numbered(self, frame: Frame, payload: Payload) -> FrameEvent:
        try:
            if not self._receive_window.accept(frame.number, ReceivedFrame(frame.kind, payload)):
                return self._drop_frame("a duplicate frame")
        except FramesMissing as error:
            self.fault = str(error)
            return FrameEvent.FRAMES_MISSING
        except WindowExceeded as error:
            self.fault = str(error)
            return FrameEvent.PROTOCOL_ERROR
        if frame.kind is FrameKind.CLOSE:
            self.close_payload = bytes(payload)
            return FrameEvent.CLOSED
        self._in_message = frame.kind is FrameKind.DATA
        self.messages_received += frame.kind is FrameKind.END
        return FrameEvent.DATA

    def _handle_ping(self, frame: Frame, payload: Payload) -> FrameEvent:
        if frame.number <= self._last_ping:
            return self._drop_frame("a duplicate ping")
        self._last_ping = frame.number
        read, sent = PING_PAYLOAD.unpack(payload) if len(payload) == PING_PAYLOAD.size else (2**64, 0)
        if not self._send_window.acknowledge(read):
            self.fault = "a ping acknowledges frames that were not sent"
            return FrameEvent.PROTOCOL_ERROR
        self._peer_frames_sent = max(self._peer_frames_sent, sent)
        return FrameEvent.PING

    def _handle_open(self, frame: Frame) -> FrameEvent:
        fields = parse_open(frame)
        if self._open_received or fields is None or fields[0] != self._ids.instance:
            return self._drop_frame("an unexpected OPEN frame")
        self._open_received = True
        self.encrypt_payloads |= fields[1]
        return FrameEvent.OPENED

    def _handle_gone(self, frame: Frame) -> FrameEvent:
        """Process a GONE frame, which is valid only with the secret whose digest is the link's name.

        Only the coordinator and the broker, which publishes it as a will, have the secret.
        """
        if not self._is_dialer and EndToken(frame.data[FRAME_HEADER.size :]).name == self._ids.link:
            return FrameEvent.GONE
        return self._drop_frame("a forged GONE frame")

    def _drop_frame(self, reason: str) -> FrameEvent:
        self.fault = reason
        return FrameEvent.DROPPED
