"""A websocket that was accepted: bounded in bytes, frames and time until its peer has authenticated."""

import asyncio
import contextlib

from websockets.asyncio.server import ServerConnection
from websockets.protocol import Event, State

from fedws.network.admission import WEBSOCKET_ALLOWANCE, BoundedConnectionSet
from fedws.network.base import Limits
from fedws.network.websocket.monitored_connection import MonitoredConnection
from fedws.protocol.close_codes import CloseCode

_TLS_HANDSHAKE_RECORD = b"\x16"  # the type of the record that a TLS client begins with


class IncomingConnection(MonitoredConnection, ServerConnection):
    """An incoming connection: limited until :meth:`mark_authenticated`, and for a short time only."""

    pending_connections: BoundedConnectionSet
    closing_connections: BoundedConnectionSet
    """The links of the port that are being closed: a bounded number, since other ends need not let them close."""
    limits: Limits
    """Bounds of the link."""
    accepted_at: float | None = None
    """By the loop's clock, when it was before TLS."""
    _handshake_timer: asyncio.TimerHandle
    _authenticated = False
    _disconnected = False
    _frames_received = 0

    @property
    def bytes_received(self) -> int:
        """Bytes received, without those of TLS."""
        return self._bytes_received

    @property
    def has_received_message(self) -> bool:
        """Whether a whole message has been received."""
        return self._messages_received > 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Count the connection as not authenticated."""
        super().connection_made(transport)
        self.pending_connections.add(self, self.transport.abort, address_of(transport))
        arrived = self.loop.time() if self.accepted_at is None else self.accepted_at
        self._handshake_timer = self.loop.call_at(arrived + self.limits.handshake_timeout, self._on_handshake_timeout)

    def data_received(self, data: bytes) -> None:
        """Tell those who begin with TLS at once, in plain text, that there is none here: else both would wait."""
        if self._bytes_received == 0 and data[:1] == _TLS_HANDSHAKE_RECORD:
            self._bytes_received = len(data)
            self.transport.write(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\nno TLS here\n")
            return self.transport.close()
        if not self._authenticated and not WEBSOCKET_ALLOWANCE.permits(self._bytes_received + len(data), 0):
            return self.transport.abort()
        return super().data_received(data)

    def process_event(self, event: Event) -> None:
        """Count what is parsed before a proof: frames without a byte of a message cost time too."""
        self._frames_received += 1
        if not self._authenticated and not WEBSOCKET_ALLOWANCE.permits(0, self._frames_received):
            return self.transport.abort()
        return super().process_event(event)

    async def close(self, code: CloseCode | int = CloseCode.NORMAL_CLOSURE, reason: str = "") -> None:
        """Close the link; it is aborted when too many are being closed."""
        if self._authenticated and not self._disconnected:
            self.closing_connections.add(self, self.transport.abort, address_of(self.transport))
        await super().close(code, reason)

    def connection_lost(self, exc: Exception | None) -> None:
        """They have gone."""
        self._disconnected = True
        self.closing_connections.discard(self)
        self._leave_pending()
        super().connection_lost(exc)

    def _on_handshake_timeout(self) -> None:
        with contextlib.suppress(OSError, RuntimeError):  # whoever is alive reads why, for as long as one look takes
            if self.state is State.OPEN:
                self.protocol.fail(CloseCode.APPLICATION_ERROR, "no hello in time")
                self.send_data()
        self._handshake_timer = self.loop.call_later(self.limits.check_interval, self.transport.abort)

    def mark_authenticated(self) -> None:
        """They may stay, and send what they like."""
        self._authenticated = True
        self._leave_pending()

    def abort_if_connecting(self) -> None:
        """The server ends: who is no websocket yet reads no reason, and is not waited for."""
        if self.state is State.CONNECTING and hasattr(self, "transport"):
            self.transport.abort()

    def _leave_pending(self) -> None:
        self._handshake_timer.cancel()
        self.pending_connections.discard(self)


def address_of(transport: asyncio.BaseTransport) -> str:
    """The other end's, without its port."""
    name = transport.get_extra_info("peername")
    return str(name[0]) if isinstance(name, tuple) and name else ""
