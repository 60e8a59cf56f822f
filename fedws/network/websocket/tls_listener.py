"""Listener for TLS connections, which are limited from the moment that they are accepted."""

import asyncio
import contextlib
import socket
import ssl
from typing import cast

from fedws.core.rate_limited_log import RateLimitedLog
from fedws.core.untrusted_text import get_error_text, to_printable
from fedws.network.websocket.incoming_connection import IncomingConnection, address_of


class TlsListener:
    """Callers until TLS is done. A loop that serves TLS tells of them only then, however many are half-way.

    Therefore the port is served without TLS; each caller's socket is taken over at once, and TLS begun on it.
    """

    def __init__(self, context: ssl.SSLContext, rate_limited_log: RateLimitedLog) -> None:
        self._context = context
        self._rate_limited_log = rate_limited_log
        self._handshakes: set[asyncio.Task[object]] = set()

    def build_protocol(self, connection: IncomingConnection) -> asyncio.Protocol:
        """What the loop is given for a caller, who is ``connection`` as soon as TLS is done."""
        return _HandoverProtocol(self, connection)

    def close(self) -> None:
        """Send all away whose TLS is not done."""
        for task in self._handshakes:
            task.cancel()

    def start_handshake(self, connection: IncomingConnection, accepted_socket: socket.socket, address: str) -> None:
        """Begin TLS; the caller has as long for it, and for all up to a proof of the key, as one without TLS."""
        loop = asyncio.get_running_loop()
        connection.accepted_at = loop.time()
        shaking = loop.connect_accepted_socket(
            lambda: connection,
            accepted_socket,
            ssl=self._context,
            ssl_handshake_timeout=connection.limits.handshake_timeout,
            ssl_shutdown_timeout=connection.limits.close_timeout,
        )
        task: asyncio.Task[object] = loop.create_task(shaking)

        def done(task: asyncio.Task[object]) -> None:
            self._handshakes.discard(task)
            if task.cancelled() or task.exception() is not None:
                connection.pending_connections.discard(connection)
                accepted_socket.close()  # nobody has, if it was sent away before TLS began
            if not task.cancelled() and isinstance(error := task.exception(), ssl.SSLError):
                why = to_printable(getattr(error, "verify_message", "") or error.reason or get_error_text(error))
                self._rate_limited_log.log(f"a caller at {address} was refused by TLS: {why.replace('_', ' ').lower()}")

        self._handshakes.add(task)
        task.add_done_callback(done)
        connection.pending_connections.add(
            connection, task.cancel, address
        )  # and again, in the same place, when TLS is done


class _HandoverProtocol(asyncio.Protocol):
    """One caller, for the moment until the socket has been taken over."""

    def __init__(self, listener: TlsListener, connection: IncomingConnection) -> None:
        self._listener = listener
        self._connection = connection

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the socket over, before anything is read from it."""
        transport = cast(asyncio.Transport, transport)  # as uvloop's are, without being of the class
        theirs = transport.get_extra_info("socket")
        with contextlib.suppress(OSError):  # no more files can be opened: the caller goes
            own = socket.fromfd(theirs.fileno(), theirs.family, theirs.type)
            self._listener.start_handshake(self._connection, own, address_of(transport))
        transport.abort()  # closes its file, not the connection, which has another one now
