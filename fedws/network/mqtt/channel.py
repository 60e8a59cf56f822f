"""One link over a broker: messages to frames and back, whoever else is on the broker."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass

from fedws.core.errors import LinkError, LinkLost, LinkRefused, ProtocolError
from fedws.network.admission import MQTT_ALLOWANCE
from fedws.network.base import MAX_HANDSHAKE_MESSAGE_BYTES, Limits
from fedws.network.body_transfer import BodyTransfers
from fedws.network.liveness import LivenessMonitor
from fedws.network.mqtt.encryption import Payload
from fedws.network.mqtt.endpoint import FrameEvent, LinkEndpoint
from fedws.network.mqtt.flow_control import ReceivedFrame
from fedws.network.mqtt.frames import FrameKind, ProtectionLevel
from fedws.protocol import encoder
from fedws.protocol.close_codes import CloseCode, to_close_code, to_link_error, truncate_reason
from fedws.protocol.messages import Message

_PLAIN_PING = bytes([FrameKind.PING])
_CLOSE_CODES = (
    CloseCode.APPLICATION_ERROR,
    CloseCode.MESSAGE_REJECTED,
    CloseCode.TAKEN_OVER,
)  # by the first byte of a CLOSE


async def _do_nothing() -> None:
    pass


@dataclass(frozen=True)
class FrameSink:
    """What the frames of a link go out on."""

    publish: Callable[[bytes | bytearray, bool], int]
    """Publish a frame, surely or as it may be; gives the bytes of the packet. Raises LinkLost."""
    packet_size: Callable[[int], int]
    """Bytes of a packet that brings a frame of so many."""
    max_payload_bytes: int
    """Bytes of a message in one frame, at most."""
    log_dropped: Callable[[str], object]
    """Say that something was dropped which was not the other end's."""
    on_authenticated: Callable[[], None] = lambda: None
    on_closing: Callable[[], None] = lambda: None
    """Called before a link that was admitted waits for the other end to close it too."""
    on_closed: Callable[[], Awaitable[None]] = _do_nothing
    """Called once the link has ended."""


class MqttChannel:
    """See :class:`fedws.network.base.Channel`. Bytes are counted with the packets' headers, without signs of life."""

    def __init__(self, endpoint: LinkEndpoint, sink: FrameSink, limits: Limits) -> None:
        self._endpoint = endpoint
        self._sink = sink
        self._limits = limits
        self._max_message_bytes = min(MAX_HANDSHAKE_MESSAGE_BYTES, limits.max_message_bytes)
        self._unauthenticated_usage: tuple[int, int] | None = (0, 0)  # frames and bytes, until they are admitted
        self._close_error: LinkError | None = None
        self._send_lock = asyncio.Lock()
        self._frame_received, self._window_opened = asyncio.Event(), asyncio.Event()
        self._peer_done, self._closed_event = asyncio.Event(), asyncio.Event()
        self.opened = asyncio.Event()
        """Set when the other end has answered, or the link has ended."""
        self._frame_bytes_received = 0
        self._monitor = LivenessMonitor(limits.peer_timeout)
        self._timers: dict[Callable[[], None], asyncio.TimerHandle] = {}
        self._repeat(limits.check_interval, self._check_liveness)
        self._repeat(limits.effective_ping_interval, self._send_ping)
        self.peer = self.address = ""
        self.bytes_sent = 0
        self.bytes_received = 0
        self.transfers = BodyTransfers()

    # ------------------------------------------------------------------ messages

    async def send(self, message: Message) -> None:
        """Send one message in frames, waiting while too many are unread at the other end."""
        encoded = await self.transfers.encode(message)
        async with self._send_lock:
            try:
                for piece, last in _mark_last(_split_fragments(encoded, self._sink.max_payload_bytes)):
                    while self._close_error is None and not self._endpoint.can_send:
                        self._window_opened.clear()
                        await self._window_opened.wait()
                    if self._close_error is not None:
                        raise self._close_error
                    self.bytes_sent += self._send_frame(FrameKind.END if last else FrameKind.DATA, piece)
                    if not last:
                        await asyncio.sleep(0)  # the network, and others, have something to do
            except asyncio.CancelledError:
                self._send_close("a message was cut short")  # nobody could tell the next one from it
                raise

    async def receive(self) -> Message:
        """The next message; its tensors lie in the one buffer that its frames are written into."""
        with self.transfers.open_decoder(self._max_message_bytes) as decoder:
            more = True
            while more:
                part = await self._next_frame()
                decoder.feed(part.payload)
                more = part.kind is FrameKind.DATA
        return await self.transfers.read_message(decoder)

    async def _next_frame(self) -> ReceivedFrame:
        while (part := self._endpoint.read_frame()) is None or part.kind is FrameKind.CLOSE:
            if self._close_error is not None:
                raise self._close_error
            self._frame_received.clear()
            await self._frame_received.wait()
        if self._endpoint.ack_due:
            self._send_ping()
        return part

    # ------------------------------------------------------------------ who is there

    @property
    def authenticated(self) -> bool:
        """Whether the other end has proved who it is."""
        return self._unauthenticated_usage is None

    @property
    def has_received_message(self) -> bool:
        """Whether a whole message has been received."""
        return self._endpoint.messages_received > 0

    @property
    def is_receiving(self) -> bool:
        """Whether a part of a message has come that is not whole."""
        return self._endpoint.is_receiving

    def mark_authenticated(self) -> None:
        """Take messages of any size that the limits allow. Raises LinkRefused if they must be encrypted and cannot
        be."""
        if self._endpoint.encrypt_payloads and self._endpoint.protection_level is not ProtectionLevel.ENCRYPTED:
            raise LinkRefused(
                "key",
                "a link with encrypted payloads needs the network key: --encrypt-payloads does not go with --insecure",
            )
        self._max_message_bytes = self._limits.max_message_bytes
        self._unauthenticated_usage = None
        self._sink.on_authenticated()

    def set_session_key(self, session_key: bytes) -> None:
        """From now on every frame has a tag, in both directions."""
        for data in self._endpoint.set_session_key(session_key):
            self.handle_frame(data)

    def send_open(self) -> None:
        """Begin the link, or answer who did. Raises LinkLost."""
        self._sink.publish(self._endpoint.build_open_frame(), True)

    # ------------------------------------------------------------------ frames

    def _send_frame(self, kind: FrameKind, payload: Payload) -> int:
        return self._sink.publish(self._endpoint.build_frame(kind, payload), True)

    def handle_frame(self, data: bytes) -> None:
        """Something came for this link, from whomever."""
        if self._close_error is not None and self._peer_done.is_set():
            return None
        if (
            self._unauthenticated_usage is not None and self._endpoint.protection_level is ProtectionLevel.PLAIN
        ):  # after it, tags tell who sends
            frames, size = self._unauthenticated_usage
            self._unauthenticated_usage = frames + (data[:1] != _PLAIN_PING), size + len(data)
            if not MQTT_ALLOWANCE.permits(size + len(data), frames + 1):
                return self.close_nowait("too much before a proof")
        event = self._endpoint.handle_frame(data)
        if event is FrameEvent.DROPPED:
            self._sink.log_dropped(self._endpoint.fault)
            return None
        if event is FrameEvent.IGNORED:  # no sign of life: anybody may have sent it
            return None
        self._frame_bytes_received += len(data)
        if event is FrameEvent.DATA:
            self.bytes_received += self._sink.packet_size(len(data))
            self._frame_received.set()
        elif event is FrameEvent.CLOSED:
            self._peer_done.set()
            self._send_close("", _parse_close(self._endpoint.close_payload))
        elif event in (FrameEvent.FRAMES_MISSING, FrameEvent.PROTOCOL_ERROR):
            self._peer_done.set()  # nothing that comes can be read
            why = self._endpoint.fault
            error = LinkLost(why) if event is FrameEvent.FRAMES_MISSING else ProtocolError(why)
            self._send_close(why, error, to_close_code(error))
        elif event is FrameEvent.GONE:
            self.fail(LinkLost("the coordinator is gone"))
        elif event is FrameEvent.PING:
            self._window_opened.set()
        elif event is FrameEvent.OPENED:
            self.opened.set()
        return None

    # ------------------------------------------------------------------ time

    def _repeat(self, seconds: float, callback: Callable[[], None]) -> None:
        def again() -> None:
            callback()
            if self._close_error is None:
                self._repeat(seconds, callback)

        self._timers[callback] = asyncio.get_running_loop().call_later(seconds, again)

    def _send_ping(self) -> None:
        try:
            self._sink.publish(self._endpoint.build_ping(), False)
        except LinkError as error:
            self.fail(error)

    def _check_liveness(self) -> None:
        under_way = self._endpoint.is_receiving and not self._endpoint.unread_frames  # else it is we who do not read
        fault = self._monitor.find_fault(
            self._frame_bytes_received, self.bytes_received, self._endpoint.messages_received, is_receiving=under_way
        )
        if fault:
            self._peer_done.set()  # nobody waits for it to close
            self._send_close(f"given up: {fault}", LinkLost(fault))

    # ------------------------------------------------------------------ the end

    async def close(self, reason: str = "", code: CloseCode = CloseCode.APPLICATION_ERROR) -> None:
        """Close the link; returns when the other end has too, in a sixth of ``peer_timeout`` at the latest.

        Nobody waits for those who have proved nothing.
        """
        self._send_close(reason, code=code)
        try:
            if self.authenticated and not self._peer_done.is_set():
                self._sink.on_closing()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(self._limits.close_timeout):
                        await self._peer_done.wait()
        finally:
            self._peer_done.set()  # a further call need not wait again
            await self._sink.on_closed()

    async def wait_closed(self) -> None:
        """Wait until the link is down."""
        await self._closed_event.wait()

    def close_nowait(self, reason: str) -> None:
        """Close the link, and do not wait for the other end."""
        self._peer_done.set()
        self._send_close(reason)

    def fail(self, error: LinkError) -> None:
        """The link is lost, and nobody is there who could be told."""
        self._peer_done.set()
        self._set_closed(error)

    def _send_close(
        self, reason: str, error: LinkError | None = None, code: CloseCode = CloseCode.APPLICATION_ERROR
    ) -> None:
        """End the link, and tell the other end."""
        if self._close_error is not None:
            return
        first = bytes([_CLOSE_CODES.index(code) if code in _CLOSE_CODES else 0])
        try:
            self._send_frame(FrameKind.CLOSE, first + truncate_reason(reason).encode())
        except LinkError:
            self._peer_done.set()
        self._set_closed(error or LinkLost(reason or "closed"))

    def _set_closed(self, error: LinkError) -> None:
        self._close_error = self._close_error or error
        for timer in self._timers.values():
            timer.cancel()
        for event in (self._frame_received, self._window_opened, self.opened, self._closed_event):
            event.set()


def _split_fragments(encoded: encoder.EncodedMessage, size: int) -> Iterator[memoryview]:
    for fragment in encoded.fragments():
        view = memoryview(fragment)
        for start in range(0, len(view), size):
            yield view[start : start + size]


def _mark_last(pieces: Iterator[memoryview]) -> Iterator[tuple[memoryview, bool]]:
    """Each piece, and whether it is the last."""
    before = next(pieces)
    for piece in pieces:
        yield before, False
        before = piece
    yield before, True


def _parse_close(payload: bytes) -> LinkError:
    first = payload[0] if payload else 0
    code = _CLOSE_CODES[first] if first < len(_CLOSE_CODES) else CloseCode.APPLICATION_ERROR
    return to_link_error(code, payload[1:].decode(errors="replace"))
