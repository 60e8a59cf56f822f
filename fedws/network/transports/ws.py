"""Links over a WebSocket: ``ws://host:port``, or ``wss://host:port`` with TLS. Messages are binary and fragmented."""

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

from fedws.core.errors import LinkError, LinkRefused, Unreachable, UsageError
from fedws.core.rate_limited_log import RateLimitedLog
from fedws.core.registry import register
from fedws.core.untrusted_text import get_error_text
from fedws.network.admission import BoundedConnectionSet
from fedws.network.base import MAX_HANDSHAKE_MESSAGE_BYTES, Channel, Handler, Limits
from fedws.network.connect_errors import PLAINTEXT_REASONS, describe_connect_error, speaks_tls
from fedws.network.websocket.channel import WebSocketChannel
from fedws.network.websocket.incoming_connection import IncomingConnection, address_of
from fedws.network.websocket.listener_close import stop_accepting
from fedws.network.websocket.monitored_connection import OutgoingConnection
from fedws.network.websocket.tls_listener import TlsListener
from fedws.protocol import encoder
from fedws.security.tls import TlsConfig, explain_rejection, list_node_ids

ORIGIN_REJECTION = "requests with an Origin header are rejected: web pages cannot connect to a fedws node\n"
"""Answer to a browser, which sends this header with every WebSocket request of a page (RFC 6455, section 10.2)."""
_DEFAULT_PORTS = (80, 443)
_log = logging.getLogger("fedws.websockets")
_log.setLevel(logging.CRITICAL)  # the library logs a traceback for a bad peer; fedws logs one line


class _NoRedirectConnect(connect):
    """A connection attempt to the given address that does not follow redirects to another one."""

    def process_redirect(self, exc: Exception) -> Exception | str:
        """Return the error of a redirect, so that it is raised."""
        return exc


@register("transport", "ws")
class WebSocketTransport:
    """A transport over WebSockets; see ``fedws.network.base.Transport``."""

    in_process = False
    brokered = False

    def __init__(self, *, encrypted: bool = False) -> None:
        self._encrypted = encrypted

    def check_url(
        self, url: str, tls: TlsConfig | None = None, *, encrypt_payloads: bool = False, is_listening: bool = False
    ) -> None:
        """Raise UsageError unless the URL has a host, a port to listen on, and the encryption that is required."""
        _parse_url(url)
        if is_listening and urlsplit(url).port is None:  # the default ports are for servers behind a proxy
            raise UsageError(f"{url!r} has no port to listen on; add one, such as :9000")
        if encrypt_payloads and not self._encrypted:
            raise UsageError(
                f"--encrypt-payloads requires links over a broker or TLS, but {url} has neither; "
                "use wss:// with --tls-cert"
            )
        if tls is not None and not self._encrypted:
            raise UsageError(f"{url} is not encrypted, but certificates are given; use wss://")

    async def connect(
        self, url: str, limits: Limits, node: str = "", tls: TlsConfig | None = None, *, encrypt_payloads: bool = False
    ) -> Channel:
        """Connect once, directly and never through a proxy.

        Raise Unreachable if the connection fails, LinkRefused if the certificate or the use of TLS does not match, and
        UsageError if the URL is not valid.
        """
        self.check_url(url, tls)
        try:
            socket = await _NoRedirectConnect(
                url,
                proxy=None,
                create_connection=OutgoingConnection,
                **self._tls_arguments(node, tls),
                **_library_settings(limits),
            )
            assert isinstance(socket, OutgoingConnection)
            # TLS compares host names: it ignores case and accepts wildcards such as '*.lab'. Node ids must be equal.
            if self._encrypted and node and node not in list_node_ids(socket.transport.get_extra_info("peercert")):
                socket.transport.abort()
                raise LinkRefused("key", f"its certificate is not issued to {node}")
            return WebSocketChannel(socket, limits)
        except ssl.SSLCertVerificationError as error:
            raise LinkRefused("key", explain_rejection(error, node or _parse_url(url)[0], tls or TlsConfig())) from None
        except InvalidMessage as error:
            raise await self._explain_early_close(error, url, limits, tls) from None
        except (InvalidURI, ValueError) as error:
            raise UsageError(f"{url!r} is not a valid address: {get_error_text(error)}") from None
        except (OSError, WebSocketException, TimeoutError) as error:
            if isinstance(error, ssl.SSLError) and error.reason in PLAINTEXT_REASONS:
                raise LinkRefused(
                    "key", "the server does not use TLS; use ws://, or start it with --tls-cert"
                ) from None
            if self._encrypted and isinstance(error, ConnectionResetError):
                raise Unreachable("the connection ended during the TLS handshake") from None
            raise Unreachable(_describe_error(error)) from None

    @contextlib.asynccontextmanager
    async def serve(
        self,
        url: str,
        handle: Handler,
        limits: Limits,
        tls: TlsConfig | None = None,
        *,
        node: str = "",
        encrypt_payloads: bool = False,
    ) -> AsyncIterator[str]:
        """Listen while the context is open; port 0 selects a free port. Raise UsageError if listening fails."""
        self.check_url(url, tls, is_listening=True)
        host, port = _parse_url(url)
        pending, closing, connections, origin_log = (
            BoundedConnectionSet(),
            BoundedConnectionSet(),
            WeakSet[IncomingConnection](),
            RateLimitedLog(url),
        )
        tls_listener = (
            TlsListener((tls or TlsConfig()).create_server_context(), RateLimitedLog(url)) if self._encrypted else None
        )

        def connection(*arguments: Any, **settings: Any) -> asyncio.Protocol:
            incoming = IncomingConnection(*arguments, **settings)
            incoming.pending_connections, incoming.closing_connections, incoming.limits = pending, closing, limits
            connections.add(incoming)
            return incoming if tls_listener is None else tls_listener.build_protocol(incoming)

        async def handler(connection: ServerConnection) -> None:
            assert isinstance(connection, IncomingConnection)
            await handle(WebSocketChannel(connection, limits))

        def upgrade(connection: ServerConnection, request: Request) -> Response | None:
            if "Origin" not in request.headers:
                return None
            origin_log.log(
                f"rejected a web page at {address_of(connection.transport)}: its request has an Origin header"
            )
            return connection.respond(HTTPStatus.FORBIDDEN, ORIGIN_REJECTION)

        settings = {"create_connection": connection, "process_request": upgrade, **_library_settings(limits)}
        try:
            server = await serve(handler, _listen_addresses(host, port), port, **settings)  # type: ignore[arg-type]
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                flag = "--port" if node else "--listen"
                raise UsageError(f"port {port} on {host} is already in use; choose another with {flag}") from None
            raise UsageError(f"cannot listen on {host}:{port}: {error.strerror or get_error_text(error)}") from None
        try:
            port = next(iter(server.sockets)).getsockname()[1]
            yield f"ws{'s' * self._encrypted}://{f'[{host}]' if ':' in host else host}:{port}"
        finally:
            try:
                await stop_accepting(server.sockets)
            finally:
                server.close(code=1001, reason="the node ends")
                if tls_listener is not None:
                    tls_listener.close()
                for incoming in connections:
                    incoming.abort_if_connecting()
                await server.wait_closed()

    async def _explain_early_close(
        self, error: InvalidMessage, url: str, limits: Limits, tls: TlsConfig | None
    ) -> LinkError:
        """Return the error for a server that closed the connection before it answered the upgrade request."""
        if not isinstance(error.__cause__, EOFError):
            return Unreachable(_describe_error(error))
        # A forwarded port without a listener behind it also closes the connection, so TLS must be tried.
        if not self._encrypted:
            if await speaks_tls(*_parse_url(url), limits.handshake_timeout):
                return LinkRefused("key", "the server uses TLS; use wss://")
            return Unreachable("the server closed the connection without an answer")
        # The server has presented a valid certificate before it closed the connection. In TLS 1.3, a server verifies
        # the client's certificate after the client has finished its part of the handshake, and Python's servers do not
        # report the result. The server may also be overloaded or shutting down, so the caller retries.
        if tls is None or tls.cert is None:
            return Unreachable(
                "the server closed the connection; if it requires client certificates, set --tls-cert and --tls-key"
            )
        return Unreachable(
            f"the server closed the connection; check that {tls.cert} has not expired and is signed by the server's CA"
        )

    def _tls_arguments(self, node: str, tls: TlsConfig | None) -> dict[str, Any]:
        """Return the TLS arguments, by which the certificate must be issued to the node's id at any address."""
        server_name = {"server_hostname": node} if node else {}  # without a node, it must be issued to the host
        return {"ssl": (tls or TlsConfig()).create_client_context(), **server_name} if self._encrypted else {}


def _library_settings(limits: Limits) -> dict[str, Any]:
    """Return the limits and timers of the library, derived from ``limits``.

    Compression is disabled, since it multiplies the cost of sending weights by 90. The library sends pings but does not
    wait for the pongs, since on a slow link they follow all other data. ``MonitoredConnection`` checks liveness
    instead.
    """
    return {
        "compression": None,
        "max_size": (
            min(MAX_HANDSHAKE_MESSAGE_BYTES, limits.max_message_bytes),
            MAX_HANDSHAKE_MESSAGE_BYTES,
        ),  # see WebSocketChannel.mark_authenticated
        "max_queue": 8,
        "write_limit": encoder.FRAGMENT_BYTES,
        "open_timeout": limits.handshake_timeout,
        "close_timeout": limits.close_timeout,
        "ping_interval": limits.effective_ping_interval,
        "ping_timeout": None,
        "logger": _log,
    }


def _parse_url(url: str) -> tuple[str, int]:
    """Return the host and the port of a URL, by default the scheme's port (RFC 6455, section 3)."""
    is_encrypted = url.lower().startswith("wss:")
    try:
        parts = urlsplit(url)
        if parts.hostname:
            return parts.hostname, _DEFAULT_PORTS[is_encrypted] if parts.port is None else parts.port
    except ValueError:
        pass
    raise UsageError(f"{url!r} is not a valid address; use the form {'wss' if is_encrypted else 'ws'}://host:8777")


def _listen_addresses(host: str, port: int) -> list[str]:
    """Return the addresses to listen at.

    ``localhost`` stands for both loopback addresses if the machine has both. With port 0 it is the IPv4 address alone.
    """
    if host != "localhost" or port == 0:
        return ["127.0.0.1" if host == "localhost" else host]
    with contextlib.suppress(OSError), socket.socket(socket.AF_INET6) as probe:
        probe.bind(("::1", 0))
        return ["127.0.0.1", "::1"]
    return ["127.0.0.1"]


def _describe_error(error: Exception) -> str:
    return (
        f"not a WebSocket server: {get_error_text(error)}"
        if isinstance(error, WebSocketException)
        else describe_connect_error(error)
    )
