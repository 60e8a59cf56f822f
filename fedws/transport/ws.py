"""``ws://host:port``: messages over a websocket, in binary fragments. The only file that knows ``websockets``."""

import asyncio
import contextlib
import errno
import logging
import os
import socket
from collections import deque
from collections.abc import AsyncIterator, Iterator
from typing import Any
from urllib.parse import urlsplit

from websockets.asyncio.client import ClientConnection, connect
from websockets.asyncio.connection import Connection
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed, InvalidURI, WebSocketException
from websockets.frames import DATA_OPCODES, Frame
from websockets.protocol import Event, State

from fedws import wire
from fedws.errors import LinkError, LinkLost, NotTaken, ProtocolError, Unreachable, UsageError, printable
from fedws.interfaces import Channel, Handler, Limits
from fedws.messages import Message
from fedws.registry import register

_log = logging.getLogger("fedws.websockets")
_log.setLevel(logging.CRITICAL)  # the library reports a bad peer with a traceback; ours is one line
_CLOSED_FOR_A_REASON = 4000  # the first close code that is free for applications
_BROKEN = (1002, 1007, 1009)  # what the library closes with when frames are wrong, no UTF-8, or too big
_MAX_REASON = 123  # bytes, RFC 6455, section 5.5
_LOOKS = 30  # a link is looked at so many times while it may be silent
SLOWEST = 1024
"""Bytes a second: what must arrive of a message under way, on the average of the last ``silence`` seconds."""


class _Watched(Connection):
    """A websocket that is given up once its other end is silent, too slow with a message, or does not let it close.

    Time is counted in looks at it, so that no peer is blamed while this process itself stood still.
    """

    lost = ""
    """Why the other end was given up; empty while it is not."""
    _heard = 0  # bytes received
    _control = 0  # of these, bytes of pings and pongs
    _messages = 0  # whole messages received
    _inside = False  # between two frames of one message
    _timer: asyncio.TimerHandle | None = None

    def watch(self, silence: float) -> None:
        """Begin, with the seconds that the other end may be silent."""
        self._silence = silence
        self._seen = self._heard, self._messages
        self._quiet = self._closing = 0  # looks
        self._progress: deque[int] = deque(maxlen=_LOOKS + 1)
        self._wait(self._look)

    def data_received(self, data: bytes) -> None:
        """Count what comes, also of a frame that is not whole yet."""
        self._heard += len(data)
        super().data_received(data)

    def process_event(self, event: Event) -> None:
        """Tell messages from pings."""
        if isinstance(event, Frame):
            if event.opcode in DATA_OPCODES:
                self._inside = not event.fin
                self._messages += event.fin
            else:
                self._control += _framed(len(event.data), masked=isinstance(self, ServerConnection))
        super().process_event(event)

    def connection_lost(self, exc: Exception | None) -> None:
        """End the watch."""
        if self._timer is not None:
            self._timer.cancel()
        super().connection_lost(exc)

    def _wait(self, then: Any) -> None:
        self._timer = self.loop.call_later(self._silence / _LOOKS, then)

    def _look(self) -> None:
        if self.state is not State.OPEN:
            self._closing += 1
            if self._closing >= _LOOKS // 6:  # the library may wait for ever, to be rid of what it wanted to send
                return self.transport.abort()
            return self._wait(self._look)
        self.lost = self._fault()
        if not self.lost:
            return self._wait(self._look)
        # A peer that is alive reads why; one that is not has one look's time, and nobody waits for what it would read.
        with contextlib.suppress(OSError, RuntimeError):
            self.protocol.fail(_CLOSED_FOR_A_REASON, f"given up: {self.lost}")
            self.send_data()
        return self._wait(self.transport.abort)

    def _fault(self) -> str:
        """What the other end has done wrong up to this look."""
        (heard, messages), self._seen = self._seen, (self._heard, self._messages)
        if self.recv_messages.paused:  # it is we who do not read
            self._quiet = 0
            self._progress.clear()
            return ""
        self._quiet = self._quiet + 1 if heard == self._heard else 0
        under_way = self._inside or self.protocol.reader.buffer
        if not under_way or messages != self._messages:
            self._progress.clear()
        if under_way:
            self._progress.append(self._heard - self._control)
        if self._quiet > _LOOKS:
            return f"silent for {self._silence:g} s"
        if not self._quiet and len(self._progress) > _LOOKS:
            arrived = self._progress[-1] - self._progress[0]
            if arrived < SLOWEST * self._silence:
                return f"too slow: {arrived} bytes of a message in {self._silence:g} s"
        return ""


class _Client(_Watched, ClientConnection):
    pass


class _Server(_Watched, ServerConnection):
    pass


class WsChannel:
    """One websocket; see :class:`fedws.interfaces.Channel`. Bytes are counted with their frame headers."""

    def __init__(self, socket: _Watched, limits: Limits) -> None:
        self._socket = socket
        socket.watch(limits.silence)
        self._limits = limits
        self._client = isinstance(socket, ClientConnection)
        self._lost: LinkError | None = None
        self.sent = 0
        self.received = 0

    async def send(self, message: Message) -> None:
        """Send one message in fragments of at most 1 MiB, as views of its tensors."""
        encoded = wire.encode(message, self._limits.message)
        try:
            await self._socket.send(self._counted(encoded))
        except ConnectionClosed as closed:
            raise _lost(closed, self._socket.lost) from None

    async def receive(self) -> Message:
        """The next message; its tensors lie in the one buffer that its fragments were received into."""
        if self._lost is not None:  # the library would not say so twice
            raise self._lost
        decoder = wire.Decoder(self._limits.message)
        try:
            async for fragment in self._socket.recv_streaming():
                if isinstance(fragment, str):
                    raise ProtocolError("a text frame; messages are binary")
                decoder.feed(fragment)
                self.received += _framed(len(fragment), masked=not self._client)
        except ConnectionClosed as closed:
            self._lost = _lost(closed, self._socket.lost)
            raise self._lost from None
        return decoder.message()

    async def close(self, reason: str = "") -> None:
        """Close the link; the other end reads the reason."""
        code = _CLOSED_FOR_A_REASON if reason else 1000
        await self._socket.close(code, reason.encode()[:_MAX_REASON].decode(errors="ignore"))

    def _counted(self, encoded: wire.Encoded) -> Iterator[memoryview | bytes]:
        for fragment in encoded.fragments():
            self.sent += _framed(len(fragment), masked=self._client)
            yield fragment
        self.sent += _framed(0, masked=self._client)  # the library ends a message with an empty frame


@register("transport", "ws")
class Ws:
    """See :class:`fedws.interfaces.Transport`."""

    def check(self, url: str) -> None:
        """Raises UsageError unless the URL has a host and a port."""
        _address(url)

    async def connect(self, url: str, limits: Limits) -> Channel:
        """Dial once, directly, never through a proxy. Raises Unreachable, or UsageError when the URL is none."""
        _address(url)
        try:
            socket = await connect(url, proxy=None, create_connection=_Client, **_settings(limits))
            assert isinstance(socket, _Client)
            return WsChannel(socket, limits)
        except (InvalidURI, ValueError) as error:
            raise UsageError(f"{url} is no address: {error}") from None
        except (OSError, WebSocketException, TimeoutError) as error:
            raise Unreachable(_why(error)) from None

    @contextlib.asynccontextmanager
    async def serve(self, url: str, handle: Handler, limits: Limits) -> AsyncIterator[str]:
        """Listen while the context lasts. Port 0 takes a free one. Raises UsageError when the port cannot be had."""
        host, port = _address(url)

        async def handler(connection: ServerConnection) -> None:
            assert isinstance(connection, _Server)
            await handle(WsChannel(connection, limits))

        settings = {"create_connection": _Server, **_settings(limits)}
        try:
            server = await serve(handler, _interfaces(host, port), port, **settings)  # type: ignore[arg-type]
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                raise UsageError(f"port {port} on {host} is in use; choose another with --port") from None
            raise UsageError(f"cannot listen on {host}:{port}: {error.strerror or error}") from None
        try:
            port = next(iter(server.sockets)).getsockname()[1]
            yield f"ws://{f'[{host}]' if ':' in host else host}:{port}"
        finally:
            server.close(code=1001, reason="the node ends")
            await server.wait_closed()


def _settings(limits: Limits) -> dict[str, Any]:
    """The library's own limits and timers, all derived from ours; compression costs 90 times on weights.

    It pings but waits for no pong, which on a slow link would come after all that is being sent: that is watched here.
    """
    return {
        "compression": None,
        "max_size": (limits.message, wire.FRAGMENT),
        "max_queue": 8,
        "write_limit": wire.FRAGMENT,
        "open_timeout": limits.silence / 6,
        "close_timeout": limits.silence / 6,
        "ping_interval": limits.beat,
        "ping_timeout": None,
        "logger": _log,
    }


def _address(url: str) -> tuple[str, int]:
    try:
        parts = urlsplit(url)
        if parts.hostname and parts.port is not None:
            return parts.hostname, parts.port
    except ValueError:
        pass
    raise UsageError(f"{url!r} is no address; one looks like ws://host:8777")


def _interfaces(host: str, port: int) -> list[str]:
    """``localhost`` is both loopback addresses, where the machine has both; a free port is one of IPv4."""
    if host != "localhost" or port == 0:
        return ["127.0.0.1" if host == "localhost" else host]
    with contextlib.suppress(OSError), socket.socket(socket.AF_INET6) as probe:
        probe.bind(("::1", 0))
        return ["127.0.0.1", "::1"]
    return ["127.0.0.1"]


def _framed(length: int, *, masked: bool) -> int:
    """Bytes of a frame with its header (RFC 6455, section 5.2)."""
    return length + (2 if length < 126 else 4 if length < 65536 else 10) + (4 if masked else 0)


def _lost(closed: ConnectionClosed, given_up: str) -> LinkError:
    if given_up:
        return LinkLost(given_up)
    if closed.sent is not None and closed.sent.code in _BROKEN and not closed.rcvd_then_sent:
        return ProtocolError(closed.sent.reason or "no websocket message")
    frame = closed.rcvd or closed.sent
    if closed.rcvd is not None and closed.rcvd.code in _BROKEN:
        return NotTaken(printable(closed.rcvd.reason) or "it does not take such a message")
    if frame is not None and frame.reason:
        return LinkLost(printable(frame.reason))
    if frame is not None and frame.code in (1000, 1001):
        return LinkLost("closed by the other side")
    return LinkLost("connection lost")


def _why(error: Exception) -> str:
    if isinstance(error, OSError) and error.errno is not None and error.errno > 0:
        return os.strerror(error.errno).lower()
    if "Connect call failed" in str(error):  # of several addresses of one host
        return "connection refused" if f"Errno {errno.ECONNREFUSED}" in str(error) else "cannot be reached"
    if isinstance(error, TimeoutError | asyncio.TimeoutError):
        return "no answer"
    if isinstance(error, socket.gaierror):
        return "no such host"
    if isinstance(error, WebSocketException):
        return f"no websocket there: {error}"
    return str(error)
