"""One end of a link as a pure machine: frames in, what they mean out; no I/O, no clocks."""

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

_MAX_EARLY_FRAMES = 4  # protected frames that are kept until this side can read them, too
_FRAMES_PER_ACK = WINDOW_FRAMES // 4  # frames that are read before the other end hears of it


class FrameEvent(Enum):
    """What a frame meant."""

    IGNORED = auto()
    DATA = auto()
    """There is more to read."""
    CLOSED = auto()
    """There is, and it is the last."""
    PING = auto()
    """A sign of life; there may be room to send."""
    OPENED = auto()
    GONE = auto()
    """The other end has vanished."""
    FRAMES_MISSING = auto()
    """Frames are missing."""
    PROTOCOL_ERROR = auto()
    """The other end breaks the protocol."""
    DROPPED = auto()
    """It was not the other end's, or had come before: dropped."""


@dataclass(frozen=True)
class LinkIds:
    """Of one link."""

    node: str
    instance: str
    link: str


class LinkEndpoint:
    """The coordinator's end, ``is_dialer``, or the node's."""

    def __init__(self, ids: LinkIds, *, is_dialer: bool, encrypt_payloads: bool) -> None:
        self._ids = ids
        self._is_dialer = is_dialer
        self.encrypt_payloads = encrypt_payloads
        """Whether what follows the handshake is encrypted: it is if either end requires it."""
        self.fault = ""
        """What was wrong with a frame that broke the link, or was odd."""
        self.close_payload = b""
        """The payload of the other end's CLOSE."""
        self._in_message = False
        self.messages_received = 0
        """That came whole."""
        self._open_received = not is_dialer
        self._send_protection: FrameProtection = NoProtection()
        self._receive_protection: FrameProtection = NoProtection()
        self._early_frames: list[bytes] = []
        self._reset_counters()

    def _reset_counters(self) -> None:
        """Count frames from 0."""
        self._send_window, self._receive_window = SendWindow(), ReceiveWindow()
        self._pings_sent, self._last_ping, self._acknowledged_frames = 0, -1, 0
        self._peer_frames_sent = 0

    @property
    def protection_level(self) -> ProtectionLevel:
        """How what goes out is protected."""
        return self._send_protection.level

    def set_session_key(self, session_key: bytes) -> list[bytes]:
        """Protect what follows, in both directions, and forget what came unprotected; gives what is to be heard now."""
        out, back = ("down", "up") if self._is_dialer else ("up", "down")
        names = self._ids
        self._send_protection, self._receive_protection = (
            derive_protection(session_key, way, names.node, names.instance, names.link, encrypted=self.encrypt_payloads)
            for way in (out, back)
        )
        self._reset_counters()
        early, self._early_frames = self._early_frames, []
        return early

    # ------------------------------------------------------------------ out

    @property
    def can_send(self) -> bool:
        """Whether a part of a message may go."""
        return self._send_window.can_send

    def build_open_frame(self) -> bytes | bytearray:
        """The first frame of either end."""
        return self._send_protection.wrap(
            FrameKind.OPEN, 0, pack_open(self._ids.instance, encrypt_payloads=self.encrypt_payloads)
        )

    def build_frame(self, kind: FrameKind, payload: Payload) -> bytes | bytearray:
        """The next numbered frame."""
        return self._send_protection.wrap(kind, self._send_window.next_number(), payload)

    def build_ping(self) -> bytes | bytearray:
        """A sign of life."""
        self._acknowledged_frames = self._receive_window.frames_read
        self._pings_sent += 1
        return self._send_protection.wrap(
            FrameKind.PING,
            self._pings_sent - 1,
            PING_PAYLOAD.pack(self._acknowledged_frames, self._send_window.frames_sent),
        )

    # ------------------------------------------------------------------ in

    @property
    def is_receiving(self) -> bool:
        """Whether more must come: of a message that has begun, or of what the other end says that it has sent."""
        return self._in_message or self._peer_frames_sent > self._receive_window.frames_received

    @property
    def unread_frames(self) -> int:
        """Frames that came and wait to be read."""
        return len(self._receive_window)

    def read_frame(self) -> ReceivedFrame | None:
        """Read one."""
        return self._receive_window.read_frame()

    @property
    def ack_due(self) -> bool:
        """Whether the other end should hear by now how much was read."""
        return self._receive_window.frames_read - self._acknowledged_frames >= _FRAMES_PER_ACK

    def handle_frame(self, data: bytes) -> FrameEvent:
        """Something came on the link's topic, from whomever."""
        frame = parse_frame(data)
        if frame is None:
            return self._drop_frame("a frame that is none")
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
            if (
                frame.kind is FrameKind.PING and frame.level is ProtectionLevel.PLAIN
            ):  # it may have crossed the first protected one
                return FrameEvent.IGNORED
            return self._drop_frame("a frame with a wrong tag")
        if frame.kind in NUMBERED_KINDS:
            return self._handle_numbered(frame, payload)
        return self._handle_ping(frame, payload)

    def _handle_numbered(self, frame: Frame, payload: Payload) -> FrameEvent:
        try:
            if not self._receive_window.accept(frame.number, ReceivedFrame(frame.kind, payload)):
                return self._drop_frame("a frame a second time")
        except FramesMissing as gap:
            self.fault = str(gap)
            return FrameEvent.FRAMES_MISSING
        except WindowExceeded as flood:
            self.fault = str(flood)
            return FrameEvent.PROTOCOL_ERROR
        if frame.kind is FrameKind.CLOSE:
            self.close_payload = bytes(payload)
            return FrameEvent.CLOSED
        self._in_message = frame.kind is FrameKind.DATA
        self.messages_received += frame.kind is FrameKind.END
        return FrameEvent.DATA

    def _handle_ping(self, frame: Frame, payload: Payload) -> FrameEvent:
        if frame.number <= self._last_ping:
            return self._drop_frame("a sign of life a second time")
        self._last_ping = frame.number
        read, sent = PING_PAYLOAD.unpack(payload) if len(payload) == PING_PAYLOAD.size else (2**64, 0)
        if not self._send_window.acknowledge(read):
            self.fault = "it says that it has read what was not sent"
            return FrameEvent.PROTOCOL_ERROR
        self._peer_frames_sent = max(self._peer_frames_sent, sent)
        return FrameEvent.PING

    def _handle_open(self, frame: Frame) -> FrameEvent:
        found = parse_open(frame)
        if self._open_received or found is None or found[0] != self._ids.instance:
            return self._drop_frame("a beginning of a link that has begun")
        self._open_received = True
        self.encrypt_payloads |= found[1]
        return FrameEvent.OPENED

    def _handle_gone(self, frame: Frame) -> FrameEvent:
        """Only who made the link, and the broker for it, know the secret that the link's name is the digest of."""
        if not self._is_dialer and EndToken(frame.data[FRAME_HEADER.size :]).name == self._ids.link:
            return FrameEvent.GONE
        return self._drop_frame("a forged end of the link")

    def _drop_frame(self, reason: str) -> FrameEvent:
        self.fault = reason
        return FrameEvent.DROPPED
