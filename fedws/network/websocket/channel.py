"""One websocket as a link."""

from collections.abc import Iterator

from websockets.asyncio.client import ClientConnection
from websockets.exceptions import ConnectionClosed

from fedws.core.errors import LinkError, LinkLost, ProtocolError
from fedws.network.base import HANDSHAKE, Limits
from fedws.network.body_transfer import Transfers
from fedws.network.websocket.connection import Server, Watched, address_of, framed
from fedws.protocol import encoder
from fedws.protocol.close_codes import CloseCode, error_of
from fedws.protocol.messages import Message
from fedws.security.tls import name_of

_BROKEN = (CloseCode.BROKEN_FRAME, CloseCode.NOT_UTF8, CloseCode.TOO_LARGE)  # what the library closes with
_MAX_REASON = 123  # bytes, RFC 6455, section 5.5


class WsChannel:
    """One websocket; see :class:`fedws.network.base.Channel`. Bytes are counted with their frame headers."""

    def __init__(self, socket: Watched, limits: Limits) -> None:
        self._socket = socket
        socket.watch(limits.silence)
        self._limits = limits
        self._client = isinstance(socket, ClientConnection)
        self._most = min(HANDSHAKE, limits.message)
        self._lost: LinkError | None = None
        self.peer = name_of(socket.transport.get_extra_info("peercert"))
        self.address = address_of(socket.transport)
        self.sent = 0
        self.received = 0
        self.transfers = Transfers()

    @property
    def arriving(self) -> bool:
        """Whether a part of a message has come that is not whole."""
        return self._socket.under_way

    async def send(self, message: Message) -> None:
        """Send one message in fragments of at most 1 MiB, as views of its tensors."""
        encoded = await self.transfers.encode(message)
        try:
            await self._socket.send(self._counted(encoded))
        except ConnectionClosed as closed:
            raise _lost(closed, self._socket.lost) from None

    async def receive(self) -> Message:
        """The next message; its tensors lie in the one buffer that its fragments were received into."""
        if self._lost is not None:  # the library would not say so twice
            raise self._lost
        with self.transfers.decoding(self._most) as decoder:
            try:
                async for fragment in self._socket.recv_streaming():
                    if isinstance(fragment, str):
                        raise ProtocolError("a text frame; messages are binary")
                    decoder.feed(fragment)
                    self.received += framed(len(fragment), masked=not self._client)
            except ConnectionClosed as closed:
                self._lost = _lost(closed, self._socket.lost)
                raise self._lost from None
        return await self.transfers.message(decoder)

    def admit(self) -> None:
        """Take messages of any size that the limits allow."""
        self._most = self._limits.message
        protocol = self._socket.protocol
        protocol.max_message_size, protocol.max_fragment_size = self._most, encoder.FRAGMENT
        if isinstance(self._socket, Server):
            self._socket.admit()

    def protect(self, secret: bytes) -> None:
        """TLS does it, or nobody."""

    async def close(self, reason: str = "", code: CloseCode = CloseCode.GIVEN_UP) -> None:
        """Close the link; the other end reads the code and the reason."""
        sent = code if reason else CloseCode.DONE
        await self._socket.close(sent, reason.encode()[:_MAX_REASON].decode(errors="ignore"))

    async def closed(self) -> None:
        """Wait until it is."""
        await self._socket.wait_closed()

    def _counted(self, encoded: encoder.Encoded) -> Iterator[memoryview | bytes]:
        for fragment in encoded.fragments():
            self.sent += framed(len(fragment), masked=self._client)
            yield fragment
        self.sent += framed(0, masked=self._client)  # the library ends a message with an empty frame


def _lost(closed: ConnectionClosed, given_up: str) -> LinkError:
    if given_up:
        return LinkLost(given_up)
    if closed.sent is not None and closed.sent.code in _BROKEN and not closed.rcvd_then_sent:
        return ProtocolError(closed.sent.reason or "no websocket message")
    if closed.rcvd is not None:
        return error_of(closed.rcvd.code, closed.rcvd.reason)
    if closed.sent is not None and (closed.sent.reason or closed.sent.code in (CloseCode.DONE, CloseCode.ENDING)):
        return error_of(CloseCode.DONE, closed.sent.reason)
    return LinkLost("connection lost")
