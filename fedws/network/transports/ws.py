"""``ws://host:port``: messages over a websocket, in binary fragments; ``wss://`` is the same under TLS."""

import asyncio
import contextlib
import errno
import logging
import socket
import ssl
from collections.abc import AsyncIterator
from http import HTTPStatus
from typing import Any
from urllib.parse import urlsplit
from weakref import WeakSet

from websockets.asyncio.client import connect
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import InvalidMessage, InvalidURI, WebSocketException
from websockets.http11 import Request, Response

from fedws.core.errors import LinkError, Refused, Unreachable, UsageError
from fedws.core.rate_limited_log import Complaints
from fedws.core.registry import register
from fedws.core.untrusted_text import words
from fedws.network.admission import Gate
from fedws.network.base import HANDSHAKE, Channel, Handler, Limits
from fedws.network.connect_errors import NO_TLS, speaks_tls, why
from fedws.network.websocket.channel import WsChannel
from fedws.network.websocket.connection import Client, Server, address_of
from fedws.network.websocket.tls_listener import Door
from fedws.protocol import encoder
from fedws.security.tls import Tls, names_of, unaccepted

NO_PAGE = "requests with an Origin header are refused: web pages cannot connect to a fedws node\n"
"""The answer to a browser; every request of a page for a websocket has that header (RFC 6455, section 10.2)."""
_log = logging.getLogger("fedws.websockets")
_log.setLevel(logging.CRITICAL)  # the library reports a bad peer with a traceback; ours is one line


class _Direct(connect):
    """Connects to the address that it is given, and follows no redirect to another one."""

    def process_redirect(self, exc: Exception) -> Exception | str:
        """Return the error of an answer with a new address, so that it is raised."""
        return exc


@register("transport", "ws")
class Ws:
    """See :class:`fedws.network.base.Transport`."""

    private = False
    shared = False

    def __init__(self, *, encrypted: bool = False) -> None:
        self._encrypted = encrypted

    def check(self, url: str, tls: Tls | None = None, *, seal: bool = False) -> None:
        """Raises UsageError unless the URL has a host and a port, and is encrypted where that is wanted."""
        _address(url)
        if seal and not self._encrypted:
            raise UsageError(f"--seal is for links over a broker; for {url} there is TLS: --tls-cert and wss://")
        if tls is not None and not self._encrypted:
            raise UsageError(f"{url} is not encrypted, though certificates are given; write wss://")

    async def connect(
        self, url: str, limits: Limits, node: str = "", tls: Tls | None = None, *, seal: bool = False
    ) -> Channel:
        """Dial once, directly, never through a proxy. Raises Unreachable, or UsageError when the URL is none."""
        self.check(url, tls)
        try:
            socket = await _Direct(
                url, proxy=None, create_connection=Client, **self._client(node, tls), **_settings(limits)
            )
            assert isinstance(socket, Client)
            # To TLS, names of hosts, 'Alice' is alice, and '*.lab' whoever is of that lab; to us they are other nodes.
            if self._encrypted and node and node not in names_of(socket.transport.get_extra_info("peercert")):
                socket.transport.abort()
                raise Refused("key", f"its certificate is not one of {node}")
            return WsChannel(socket, limits)
        except ssl.SSLCertVerificationError as error:
            raise Refused("key", unaccepted(error, node or _address(url)[0], tls or Tls())) from None
        except InvalidMessage as error:
            raise await self._ended(error, url, limits, tls) from None
        except (InvalidURI, ValueError) as error:
            raise UsageError(f"{url} is no address: {words(error)}") from None
        except (OSError, WebSocketException, TimeoutError) as error:
            if isinstance(error, ssl.SSLError) and error.reason in NO_TLS:
                raise Refused("key", "it is served without TLS; write ws://, or give it --tls-cert") from None
            if self._encrypted and isinstance(error, ConnectionResetError):
                raise Unreachable("the connection ended during the TLS handshake") from None
            raise Unreachable(_why(error)) from None

    @contextlib.asynccontextmanager
    async def serve(
        self, url: str, handle: Handler, limits: Limits, tls: Tls | None = None, *, node: str = "", seal: bool = False
    ) -> AsyncIterator[str]:
        """Listen while the context lasts. Port 0 takes a free one. Raises UsageError when the port cannot be had."""
        self.check(url, tls)
        host, port = _address(url)
        gate, closing, callers, pages = Gate(), Gate(), WeakSet[Server](), Complaints(url)
        door = Door((tls or Tls()).server(), Complaints(url)) if self._encrypted else None

        def connection(*given: Any, **settings: Any) -> asyncio.Protocol:
            caller = Server(*given, **settings)
            caller.gate, caller.closing, caller.patience = gate, closing, limits.silence / 6
            callers.add(caller)
            return caller if door is None else door.caller(caller)

        async def handler(connection: ServerConnection) -> None:
            assert isinstance(connection, Server)
            await handle(WsChannel(connection, limits))

        def upgrade(connection: ServerConnection, request: Request) -> Response | None:
            if "Origin" not in request.headers:
                return None
            pages.hear(f"refused a web page at {address_of(connection.transport)}: its request has an Origin")
            return connection.respond(HTTPStatus.FORBIDDEN, NO_PAGE)

        settings = {"create_connection": connection, "process_request": upgrade, **_settings(limits)}
        try:
            server = await serve(handler, _interfaces(host, port), port, **settings)  # type: ignore[arg-type]
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                flag = "--port" if node else "--listen"
                raise UsageError(f"port {port} on {host} is in use; choose another with {flag}") from None
            raise UsageError(f"cannot listen on {host}:{port}: {error.strerror or words(error)}") from None
        try:
            port = next(iter(server.sockets)).getsockname()[1]
            yield f"ws{'s' * self._encrypted}://{f'[{host}]' if ':' in host else host}:{port}"
        finally:
            server.close(code=1001, reason="the node ends")
            if door is not None:
                door.close()
            for caller in callers:
                caller.end()
            await server.wait_closed()

    async def _ended(self, error: InvalidMessage, url: str, limits: Limits, tls: Tls | None) -> LinkError:
        """What it means that no answer came to a websocket's first words."""
        if not isinstance(error.__cause__, EOFError):
            return Unreachable(_why(error))
        if not self._encrypted:  # which a port does too behind which nobody listens yet, so it is asked
            if await speaks_tls(*_address(url), limits.silence / 6):
                return Refused("key", "it is served with TLS; write wss://")
            return Unreachable("it ended the connection without a word")
        # It has proved that it is the node that was meant, and closed: in TLS 1.3 a server judges its caller's
        # certificate after the caller has done its part, and Python's servers do not say how they judged. It may also
        # have been too busy with strangers, or just have ended, so the caller tries again.
        if tls is None or tls.cert is None:
            return Unreachable("it hangs up: does it ask callers for a certificate? --tls-cert and --tls-key")
        return Unreachable(f"it hangs up: is the certificate in {tls.cert} expired, or not signed by its CA?")

    def _client(self, node: str, tls: Tls | None) -> dict[str, Any]:
        """The certificate must be one of the node's id, wherever it is."""
        named = {"server_hostname": node} if node else {}  # else it must be one of the host
        return {"ssl": (tls or Tls()).client(), **named} if self._encrypted else {}


def _settings(limits: Limits) -> dict[str, Any]:
    """The library's own limits and timers, all derived from ours; compression costs 90 times on weights.

    It pings but waits for no pong, which on a slow link would come after all that is being sent: that is watched here.
    """
    return {
        "compression": None,
        "max_size": (min(HANDSHAKE, limits.message), HANDSHAKE),  # see WsChannel.admit
        "max_queue": 8,
        "write_limit": encoder.FRAGMENT,
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


def _why(error: Exception) -> str:
    return f"no websocket there: {words(error)}" if isinstance(error, WebSocketException) else why(error)
