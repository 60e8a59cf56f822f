"""The channel over a broker, which converts messages to frames and back and drops the frames of other clients."""

import asyncio
import contextlib
from collections.abc import Callable, Iterator

from fedws.core.errors import LinkError, LinkLost, LinkRefused, ProtocolError
from fedws.network.admission import MQTT_ALLOWANCE
from fedws.network.base import MAX_HANDSHAKE_MESSAGE_BYTES, Limits
from fedws.network.body_transfer import BodyTransfers
from fedws.network.liveness import LivenessMonitor
from fedws.network.mqtt.encryption import Payload
from fedws.network.mqtt.endpoint import FrameEvent, LinkEndpoint
from fedws.network.mqtt.flow_control import ReceivedFrame
from fedws.network.mqtt.frame_sink import FrameSink
from fedws.network.mqtt.frames import FrameKind, ProtectionLevel
from fedws.protocol import encoder
from fedws.protocol.close_codes import CloseCode, to_close_code, to_link_error, truncate_reason
from fedws.protocol.messages import Message

_PLAIN_PING = bytes([FrameKind.PING])
# Indexed by the first byte of the payload of a CLOSE.
_CLOSE_CODES = (CloseCode.APPLICATION_ERROR, CloseCode.MESSAGE_REJECTED, CloseCode.TAKEN_OVER, CloseCode.NORMAL_CLOSURE)


class MqttChannel:
    """A channel over a broker; see ``fedws.network.base.Channel``.

    Byte counts include the headers of packets, and leave out pings.
    """

    def __init__(self, endpoint: LinkEndpoint, sink: FrameSink, limits: Limits) -> None:
        self._endpoint = endpoint
        self._sink = sink
        self._limits = limits
        self._max_message_bytes = min(MAX_HANDSHAKE_MESSAGE_BYTES, limits.max_message_bytes)
        # The received frames and bytes; None after the authentication.
        self._unauthenticated_usage: tuple[int, int] | None = (0, 0)
        self._close_error: LinkError | None = None
        self._send_lock = asyncio.Lock()
        self._frame_received, self._window_opened = asyncio.Event(), asyncio.Event()
        self._peer_done, self._closed_event = asyncio.Event(), asyncio.Event()
        self.opened = asyncio.Event()
        """Event that is set when the peer has answered the OPEN, or the link has ended."""
        self._frame_bytes_received = 0
        self._monitor = LivenessMonitor(limits.peer_timeout)
        self._timers: dict[Callable[[], None], asyncio.TimerHandle] = {}
        self._repeat(limits.check_interval, self._check_liveness)
        self._repeat(limits.effective_ping_interval, self._send_ping)
        self.peer = self.address = ""
        self.bytes_sent = 0
        self.bytes_received = 0
        self.transfers = BodyTransfers()

    @property
    def encryption(self) -> str:
        """Encryption of the link. The broker can decrypt TLS, but not the payloads."""
        return ", ".join(
            ["TLS from this side to the broker"] * self._sink.has_tls
            + ["encrypted payloads"] * self._endpoint.encrypt_payloads
        )

    # ------------------------------------------------------------------ messages

    async def send(self, message: Message) -> None:
        """Send one message in frames, and wait while the peer has too many unread frames."""
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
                        await asyncio.sleep(0)  # let the network and other tasks run
            except asyncio.CancelledError:
                self._send_close("a message was cut short")  # the peer would append the next message to it
                raise

    async def receive(self) -> Message:
        """Return the next message, whose tensors are views of the buffer that received its frames."""
        with self.transfers.open_decoder(self._max_message_bytes) as decoder:
            more = True
            while more:
                frame = await self._next_frame()
                decoder.feed(frame.payload)
                more = frame.kind is FrameKind.DATA
        return await self.transfers.read_message(decoder)

    async def _next_frame(self) -> ReceivedFrame:
        while (frame := self._endpoint.read_frame()) is None or frame.kind is FrameKind.CLOSE:
            if self._close_error is not None:
                raise self._close_error
            self._frame_received.clear()
            await self._frame_received.wait()
        if self._endpoint.ack_due:
            self._send_ping()
        return frame

    # ------------------------------------------------------------------ authentication

    @property
    def authenticated(self) -> bool:
        """True if the peer is authenticated."""
        return self._unauthenticated_usage is None

    @property
    def has_received_message(self) -> bool:
        """True if a whole message has been received."""
        return self._endpoint.messages_received > 0

    @property
    def is_receiving(self) -> bool:
        """True if a message has been received in part."""
        return self._endpoint.is_receiving

    def mark_authenticated(self) -> None:
        """Lift the limits for unauthenticated peers. Raise LinkRefused if required encryption is not in effect."""
        if self._endpoint.encrypt_payloads and self._endpoint.protection_level is not ProtectionLevel.ENCRYPTED:
            raise LinkRefused(
                "key",
                "encrypted payloads require the network key; --encrypt-payloads cannot be combined with --insecure",
            )
        self._max_message_bytes = self._limits.max_message_bytes
        self._unauthenticated_usage = None
        self._sink.on_authenticated()

    def set_session_key(self, session_key: bytes) -> None:
        """Protect all further frames in both directions, and process the protected frames received before."""
        for data in self._endpoint.set_session_key(session_key):
            self.handle_frame(data)

    def send_open(self) -> None:
        """Open the link, or answer the peer's OPEN. Raise LinkLost if the broker's connection is lost."""
        self._sink.publish(self._endpoint.build_open_frame(), True)

    # ------------------------------------------------------------------ frames

    def _send_frame(self, kind: FrameKind, payload: Payload) -> int:
        return self._sink.publish(self._endpoint.build_frame(kind, payload), True)

    def handle_frame(self, data: bytes) -> None:
        """Process a frame on the link's topic, which any client of the broker may have sent."""
        if self._close_error is not None and self._peer_done.is_set():
            return None
        # Protected frames do not count, since their tags authenticate the sender.
        if self._unauthenticated_usage is not None and self._endpoint.protection_level is ProtectionLevel.PLAIN:
            frames, size = self._unauthenticated_usage
            self._unauthenticated_usage = frames + (data[:1] != _PLAIN_PING), size + len(data)
            if not MQTT_ALLOWANCE.permits(size + len(data), frames + 1):
                return self.close_nowait("too much data before authentication")
        event = self._endpoint.handle_frame(data)
        if event is FrameEvent.DROPPED:
            self._sink.log_dropped(self._endpoint.fault)
            return None
        if event is FrameEvent.IGNORED:  # does not prove liveness, since any client may have sent it
            return None
        self._frame_bytes_received += len(data)
        if event is FrameEvent.DATA:
            self.bytes_received += self._sink.packet_size(len(data))
            self._frame_received.set()
        elif event is FrameEvent.CLOSED:
            self._peer_done.set()
            self._send_close("", _parse_close(self._endpoint.close_payload))
        elif event in (FrameEvent.FRAMES_MISSING, FrameEvent.PROTOCOL_ERROR):
            self._peer_done.set()  # further frames cannot be read
            fault = self._endpoint.fault
            error = LinkLost(fault) if event is FrameEvent.FRAMES_MISSING else ProtocolError(fault)
            self._send_close(fault, error, to_close_code(error))
        elif event is FrameEvent.GONE:
            self.fail(LinkLost("the coordinator has disconnected from the broker"))
        elif event is FrameEvent.PING:
            self._window_opened.set()
        elif event is FrameEvent.OPENED:
            self.opened.set()
        return None

    # ------------------------------------------------------------------ timers

    def _repeat(self, seconds: float, callback: Callable[[], None]) -> None:
        def run_and_repeat() -> None:
            callback()
            if self._close_error is None:
                self._repeat(seconds, callback)

        self._timers[callback] = asyncio.get_running_loop().call_later(seconds, run_and_repeat)

    def _send_ping(self) -> None:
        try:
            self._sink.publish(self._endpoint.build_ping(), False)
        except LinkError as error:
            self.fail(error)

    def _check_liveness(self) -> None:
        # With unread frames, this side does not read, so the peer cannot make progress.
        waiting = self._endpoint.is_receiving and not self._endpoint.unread_frames
        fault = self._monitor.find_fault(
            self._frame_bytes_received, self.bytes_received, self._endpoint.messages_received, is_receiving=waiting
        )
        if fault:
            self._peer_done.set()  # do not wait for the peer's CLOSE
            self._send_close(f"given up: {fault}", LinkLost(fault))

    # ------------------------------------------------------------------ closing

    async def close(self, reason: str = "", code: CloseCode = CloseCode.APPLICATION_ERROR) -> None:
        """Close the link, and wait for the peer's CLOSE for at most a sixth of ``peer_timeout``.

        The method does not wait for an unauthenticated peer.
        """
        self._send_close(reason, code=code if reason else CloseCode.NORMAL_CLOSURE)
        try:
            if self.authenticated and not self._peer_done.is_set():
                self._sink.on_closing()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(self._limits.close_timeout):
                        await self._peer_done.wait()
        finally:
            self._peer_done.set()  # a further call returns at once
            await self._sink.on_closed()

    async def wait_closed(self) -> None:
        """Wait until the link is closed."""
        await self._closed_event.wait()

    def close_nowait(self, reason: str) -> None:
        """Close the link without waiting for the peer."""
        self._peer_done.set()
        self._send_close(reason)

    def fail(self, error: LinkError) -> None:
        """Mark the link as lost without sending a CLOSE, since the peer cannot receive it."""
        self._peer_done.set()
        self._set_closed(error)

    def _send_close(
        self, reason: str, error: LinkError | None = None, code: CloseCode = CloseCode.APPLICATION_ERROR
    ) -> None:
        """Close the link, and send a CLOSE to the peer."""
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
    """Yield each piece, and whether it is the last."""
    previous = next(pieces)
    for piece in pieces:
        yield previous, False
        previous = piece
    yield previous, True


def _parse_close(payload: bytes) -> LinkError:
    first = payload[0] if payload else 0
    code = _CLOSE_CODES[first] if first < len(_CLOSE_CODES) else CloseCode.APPLICATION_ERROR
    return to_link_error(code, payload[1:].decode(errors="replace"))
