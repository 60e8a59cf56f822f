"""Where callers shake hands over TLS: they are at the gate from the moment that they are connected."""

import asyncio
import contextlib
import socket
import ssl
from typing import cast

from fedws.core.rate_limited_log import Complaints
from fedws.core.untrusted_text import printable, words
from fedws.network.websocket.connection import Server, address_of


class Door:
    """Callers until TLS is done. A loop that serves TLS tells of them only then, however many are half-way.

    Therefore the port is served without TLS; each caller's socket is taken over at once, and TLS begun on it.
    """

    def __init__(self, context: ssl.SSLContext, complaints: Complaints) -> None:
        self._context = context
        self._complaints = complaints
        self._shaking: set[asyncio.Task[object]] = set()

    def caller(self, connection: Server) -> asyncio.Protocol:
        """What the loop is given for a caller, who is ``connection`` as soon as TLS is done."""
        return _Caller(self, connection)

    def close(self) -> None:
        """Send all away whose TLS is not done."""
        for task in self._shaking:
            task.cancel()

    def shake(self, connection: Server, own: socket.socket, address: str) -> None:
        """Begin TLS; the caller has as long for it, and for all up to a proof of the key, as one without TLS."""
        loop = asyncio.get_running_loop()
        connection.arrived = loop.time()
        shaking = loop.connect_accepted_socket(
            lambda: connection,
            own,
            ssl=self._context,
            ssl_handshake_timeout=connection.patience,
            ssl_shutdown_timeout=connection.patience,
        )
        task: asyncio.Task[object] = loop.create_task(shaking)

        def done(task: asyncio.Task[object]) -> None:
            self._shaking.discard(task)
            if task.cancelled() or task.exception() is not None:
                connection.gate.leave(connection)
                own.close()  # nobody has, if it was sent away before TLS began
            if not task.cancelled() and isinstance(error := task.exception(), ssl.SSLError):
                why = printable(getattr(error, "verify_message", "") or error.reason or words(error))
                self._complaints.hear(f"a caller at {address} was refused by TLS: {why.replace('_', ' ').lower()}")

        self._shaking.add(task)
        task.add_done_callback(done)
        connection.gate.enter(connection, task.cancel, address)  # and again, in the same place, when TLS is done


class _Caller(asyncio.Protocol):
    """One caller, for the moment until the socket has been taken over."""

    def __init__(self, door: Door, connection: Server) -> None:
        self._door = door
        self._connection = connection

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the socket over, before anything is read from it."""
        transport = cast(asyncio.Transport, transport)  # as uvloop's are, without being of the class
        theirs = transport.get_extra_info("socket")
        with contextlib.suppress(OSError):  # no more files can be opened: the caller goes
            own = socket.fromfd(theirs.fileno(), theirs.family, theirs.type)
            self._door.shake(self._connection, own, address_of(transport))
        transport.abort()  # closes its file, not the connection, which has another one now
