"""An incoming WebSocket, which is limited in bytes, frames and time until its peer is authenticated."""

import asyncio
import contextlib

from websockets.asyncio.server import ServerConnection
from websockets.protocol import Event, State

from fedws.network.admission import WEBSOCKET_ALLOWANCE, BoundedConnectionSet
from fedws.network.base import Limits
from fedws.network.websocket.monitored_connection import MonitoredConnection
from fedws.protocol.close_codes import CloseCode

_TLS_HANDSHAKE_RECORD = b"\x16"  # the type of the first record that a TLS client sends


class IncomingConnection(MonitoredConnection, ServerConnection):
    """An incoming WebSocket with strict limits and a deadline until ``mark_authenticated``."""

    pending_connections: BoundedConnectionSet
    """The unauthenticated connections of the port."""
    closing_connections: BoundedConnectionSet
    """The closing connections of the port; a bounded number, since a peer can delay the closing handshake."""
    limits: Limits
    """Limits of the link."""
    accepted_at: float | None = None
    """Time by the loop's clock at which the socket was accepted, if that was before a TLS handshake."""
    _handshake_timer: asyncio.TimerHandle
    _authenticated = False
    _disconnected = False
    _frames_received = 0

    @property
    def bytes_received(self) -> int:
        """Number of bytes received, without the overhead of TLS."""
        return self._bytes_received

    @property
    def has_received_message(self) -> bool:
        """True if a whole message has been received."""
        return self._messages_received > 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Add the connection to the unauthenticated ones, and start its deadline."""
        super().connection_made(transport)
        self.pending_connections.add(self, self.transport.abort, address_of(transport))
        accepted_at = self.loop.time() if self.accepted_at is None else self.accepted_at
        deadline = accepted_at + self.limits.handshake_timeout
        self._handshake_timer = self.loop.call_at(deadline, self._on_handshake_timeout)

    def data_received(self, data: bytes) -> None:
        """Process received bytes within the limits, and answer a TLS client in plain text.

        Without this answer, both ends would wait for each other.
        """
        if self._bytes_received == 0 and data[:1] == _TLS_HANDSHAKE_RECORD:
            self._bytes_received = len(data)
            self.transport.write(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\nthis port does not use TLS\n")
            return self.transport.close()
        if not self._authenticated and not WEBSOCKET_ALLOWANCE.permits(self._bytes_received + len(data), 0):
            return self.transport.abort()
        return super().data_received(data)

    def process_event(self, event: Event) -> None:
        """Process a frame, and count it while the peer is unauthenticated, since empty frames also cost time."""
        self._frames_received += 1
        if not self._authenticated and not WEBSOCKET_ALLOWANCE.permits(0, self._frames_received):
            return self.transport.abort()
        return super().process_event(event)

    async def close(self, code: CloseCode | int = CloseCode.NORMAL_CLOSURE, reason: str = "") -> None:
        """Close the link. It is aborted if too many links of the port are closing."""
        if self._authenticated and not self._disconnected:
            self.closing_connections.add(self, self.transport.abort, address_of(self.transport))
        await super().close(code, reason)

    def connection_lost(self, exc: Exception | None) -> None:
        """Remove the connection from the sets of the port."""
        self._disconnected = True
        self.closing_connections.discard(self)
        self._leave_pending()
        super().connection_lost(exc)

    def _on_handshake_timeout(self) -> None:
        with contextlib.suppress(OSError, RuntimeError):  # a responsive peer has one check interval to read the reason
            if self.state is State.OPEN:
                self.protocol.fail(CloseCode.APPLICATION_ERROR, "no hello in time")
                self.send_data()
        self._handshake_timer = self.loop.call_later(self.limits.check_interval, self.transport.abort)

    def mark_authenticated(self) -> None:
        """Lift the limits for unauthenticated peers."""
        self._authenticated = True
        self._leave_pending()

    def abort_if_connecting(self) -> None:
        """Abort the connection if its WebSocket handshake is not done, since it cannot receive a close reason yet."""
        if self.state is State.CONNECTING and hasattr(self, "transport"):
            self.transport.abort()

    def _leave_pending(self) -> None:
        self._handshake_timer.cancel()
        self.pending_connections.discard(self)


def address_of(transport: asyncio.BaseTransport) -> str:
    """Return the address of the peer without its port, or an empty string."""
    name = transport.get_extra_info("peername")
    return str(name[0]) if isinstance(name, tuple) and name else ""
