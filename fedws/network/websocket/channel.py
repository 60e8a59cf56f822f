"""The channel over one WebSocket."""

from collections.abc import Iterator

from websockets.asyncio.client import ClientConnection
from websockets.exceptions import ConnectionClosed

from fedws.core.errors import LinkError, LinkLost, ProtocolError
from fedws.core.untrusted_text import to_printable
from fedws.network.base import MAX_HANDSHAKE_MESSAGE_BYTES, Limits
from fedws.network.body_transfer import BodyTransfers
from fedws.network.websocket.incoming_connection import IncomingConnection, address_of
from fedws.network.websocket.monitored_connection import MonitoredConnection, frame_size
from fedws.protocol import encoder
from fedws.protocol.close_codes import CloseCode, to_link_error, truncate_reason
from fedws.protocol.messages import Message
from fedws.security.tls import get_node_id

# Codes with which the library closes a connection after a protocol error of the peer.
_PROTOCOL_ERROR_CODES = (CloseCode.PROTOCOL_ERROR, CloseCode.INVALID_DATA, CloseCode.MESSAGE_TOO_BIG)


class WebSocketChannel:
    """A channel over one WebSocket; see ``fedws.network.base.Channel``. Byte counts include frame headers."""

    def __init__(self, connection: MonitoredConnection, limits: Limits) -> None:
        self._connection = connection
        connection.start_monitoring(limits)
        self._limits = limits
        self._is_client = isinstance(connection, ClientConnection)
        self._max_message_bytes = min(MAX_HANDSHAKE_MESSAGE_BYTES, limits.max_message_bytes)
        self._close_error: LinkError | None = None
        self.peer = get_node_id(connection.transport.get_extra_info("peercert"))
        self.address = address_of(connection.transport)
        self.encryption = "" if connection.transport.get_extra_info("ssl_object") is None else "TLS"
        self.bytes_sent = 0
        self.bytes_received = 0
        self.transfers = BodyTransfers()

    @property
    def is_receiving(self) -> bool:
        """True if a message has been received in part."""
        return self._connection.is_receiving

    async def send(self, message: Message) -> None:
        """Send one message in fragments of at most 1 MiB, which are views of its tensors."""
        encoded = await self.transfers.encode(message)
        try:
            await self._connection.send(self._count_fragments(encoded))
        except ConnectionClosed as closed:
            raise _to_close_error(closed, self._connection.fault) from None

    async def receive(self) -> Message:
        """Return the next message, whose tensors are views of the buffer that received its fragments."""
        if self._close_error is not None:  # the library would not raise the same error again
            raise self._close_error
        with self.transfers.open_decoder(self._max_message_bytes) as decoder:
            try:
                async for fragment in self._connection.recv_streaming():
                    if isinstance(fragment, str):
                        raise ProtocolError("unexpected text frame; messages are binary")
                    decoder.feed(fragment)
                    self.bytes_received += frame_size(len(fragment), masked=not self._is_client)
            except ConnectionClosed as closed:
                self._close_error = _to_close_error(closed, self._connection.fault)
                raise self._close_error from None
        return await self.transfers.read_message(decoder)

    def mark_authenticated(self) -> None:
        """Accept messages up to ``Limits.max_message_bytes``."""
        self._max_message_bytes = self._limits.max_message_bytes
        protocol = self._connection.protocol
        protocol.max_message_size, protocol.max_fragment_size = self._max_message_bytes, encoder.FRAGMENT_BYTES
        if isinstance(self._connection, IncomingConnection):
            self._connection.mark_authenticated()

    def set_session_key(self, session_key: bytes) -> None:
        """Do nothing, since only TLS protects the messages on a WebSocket."""

    async def close(self, reason: str = "", code: CloseCode = CloseCode.APPLICATION_ERROR) -> None:
        """Close the link, and send the code and the reason to the peer."""
        close_code = code if reason else CloseCode.NORMAL_CLOSURE
        await self._connection.close(close_code, truncate_reason(reason))

    async def wait_closed(self) -> None:
        """Wait until the link is closed."""
        await self._connection.wait_closed()

    def _count_fragments(self, encoded: encoder.EncodedMessage) -> Iterator[memoryview | bytes]:
        for fragment in encoded.fragments():
            self.bytes_sent += frame_size(len(fragment), masked=self._is_client)
            yield fragment
        self.bytes_sent += frame_size(0, masked=self._is_client)  # the library ends a message with an empty frame


def _to_close_error(closed: ConnectionClosed, fault: str) -> LinkError:
    if fault:
        return LinkLost(fault)
    if closed.sent is not None and closed.sent.code in _PROTOCOL_ERROR_CODES and not closed.rcvd_then_sent:
        return ProtocolError(closed.sent.reason or "not a valid WebSocket message")
    if closed.rcvd is not None:
        return to_link_error(closed.rcvd.code, closed.rcvd.reason)
    if closed.sent is not None and (
        closed.sent.reason or closed.sent.code in (CloseCode.NORMAL_CLOSURE, CloseCode.GOING_AWAY)
    ):
        return LinkLost(to_printable(closed.sent.reason) or "closed")
    return LinkLost("connection lost")
