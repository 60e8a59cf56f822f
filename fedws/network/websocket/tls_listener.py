"""A listener for TLS connections, which are limited from the moment that they are accepted."""

import asyncio
import contextlib
import socket
import ssl
from typing import cast

from fedws.core.rate_limited_log import RateLimitedLog
from fedws.core.untrusted_text import get_error_text, to_printable
from fedws.network.websocket.incoming_connection import IncomingConnection, address_of


class TlsListener:
    """The TLS handshakes of one port.

    An asyncio server with TLS reports a connection only after its handshake, so that pending handshakes cannot be
    limited. The port is therefore served without TLS. This class takes over the socket of each connection at once and
    starts TLS on it.
    """

    def __init__(self, context: ssl.SSLContext, rate_limited_log: RateLimitedLog) -> None:
        self._context = context
        self._rate_limited_log = rate_limited_log
        self._handshakes: set[asyncio.Task[object]] = set()

    def build_protocol(self, connection: IncomingConnection) -> asyncio.Protocol:
        """Return the protocol for an accepted socket, which becomes ``connection`` after the TLS handshake."""
        return _HandoverProtocol(self, connection)

    def close(self) -> None:
        """Cancel all TLS handshakes."""
        for task in self._handshakes:
            task.cancel()

    def start_handshake(self, connection: IncomingConnection, accepted_socket: socket.socket, address: str) -> None:
        """Start the TLS handshake.

        The deadline for TLS and the proof of the network key together is the same as for a connection without TLS.
        """
        loop = asyncio.get_running_loop()
        connection.accepted_at = loop.time()
        handshake = loop.connect_accepted_socket(
            lambda: connection,
            accepted_socket,
            ssl=self._context,
            ssl_handshake_timeout=connection.limits.handshake_timeout,
            ssl_shutdown_timeout=connection.limits.close_timeout,
        )
        task: asyncio.Task[object] = loop.create_task(handshake)

        def done(task: asyncio.Task[object]) -> None:
            self._handshakes.discard(task)
            if task.cancelled() or task.exception() is not None:
                connection.pending_connections.discard(connection)
                accepted_socket.close()  # it is still open if the task was cancelled before TLS started
            if not task.cancelled() and isinstance(error := task.exception(), ssl.SSLError):
                why = to_printable(getattr(error, "verify_message", "") or error.reason or get_error_text(error))
                self._rate_limited_log.log(f"TLS handshake with {address} failed: {why.replace('_', ' ').lower()}")

        self._handshakes.add(task)
        task.add_done_callback(done)
        # After the handshake, IncomingConnection.connection_made adds the connection again, which keeps its place.
        connection.pending_connections.add(connection, task.cancel, address)


class _HandoverProtocol(asyncio.Protocol):
    """The protocol of an accepted socket until the TLS listener has taken it over."""

    def __init__(self, listener: TlsListener, connection: IncomingConnection) -> None:
        self._listener = listener
        self._connection = connection

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Hand a copy of the socket to the TLS listener before any data is read from it."""
        transport = cast(asyncio.Transport, transport)  # uvloop's transports do not inherit from asyncio.Transport
        original = transport.get_extra_info("socket")
        with contextlib.suppress(OSError):  # without a free file descriptor, the connection is closed
            duplicate = socket.fromfd(original.fileno(), original.family, original.type)
            self._listener.start_handshake(self._connection, duplicate, address_of(transport))
        transport.abort()  # closes the original descriptor; the connection stays open with the duplicate
