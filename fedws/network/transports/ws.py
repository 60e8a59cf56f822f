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

ORIGIN_REJECTION = "requests with an Origin header are refused: web pages cannot connect to a fedws node\n"
"""The answer to a browser; every request of a page for a websocket has that header (RFC 6455, section 10.2)."""
_log = logging.getLogger("fedws.websockets")
_log.setLevel(logging.CRITICAL)  # the library reports a bad peer with a traceback; ours is one line


class _NoRedirectConnect(connect):
    """Connects to the address that it is given, and follows no redirect to another one."""

    def process_redirect(self, exc: Exception) -> Exception | str:
        """Return the error of an answer with a new address, so that it is raised."""
        return exc


@register("transport", "ws")
class WebSocketTransport:
    """See :class:`fedws.network.base.Transport`."""

    in_process = False
    brokered = False

    def __init__(self, *, encrypted: bool = False) -> None:
        self._encrypted = encrypted

    def check_url(self, url: str, tls: TlsConfig | None = None, *, encrypt_payloads: bool = False) -> None:
        """Raises UsageError unless the URL has a host and a port, and is encrypted where that is wanted."""
        _parse_url(url)
        if encrypt_payloads and not self._encrypted:
            raise UsageError(
                f"--encrypt-payloads is for links over a broker; for {url} there is TLS: --tls-cert and wss://"
            )
        if tls is not None and not self._encrypted:
            raise UsageError(f"{url} is not encrypted, though certificates are given; write wss://")

    async def connect(
        self, url: str, limits: Limits, node: str = "", tls: TlsConfig | None = None, *, encrypt_payloads: bool = False
    ) -> Channel:
        """Dial once, directly, never through a proxy. Raises Unreachable, or UsageError when the URL is none."""
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
            # To TLS, names of hosts, 'Alice' is alice, and '*.lab' whoever is of that lab; to us they are other nodes.
            if self._encrypted and node and node not in list_node_ids(socket.transport.get_extra_info("peercert")):
                socket.transport.abort()
                raise LinkRefused("key", f"its certificate is not one of {node}")
            return WebSocketChannel(socket, limits)
        except ssl.SSLCertVerificationError as error:
            raise LinkRefused("key", explain_rejection(error, node or _parse_url(url)[0], tls or TlsConfig())) from None
        except InvalidMessage as error:
            raise await self._explain_early_close(error, url, limits, tls) from None
        except (InvalidURI, ValueError) as error:
            raise UsageError(f"{url} is no address: {get_error_text(error)}") from None
        except (OSError, WebSocketException, TimeoutError) as error:
            if isinstance(error, ssl.SSLError) and error.reason in PLAINTEXT_REASONS:
                raise LinkRefused("key", "it is served without TLS; write ws://, or give it --tls-cert") from None
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
        """Listen while the context lasts. Port 0 takes a free one. Raises UsageError when the port cannot be had."""
        self.check_url(url, tls)
        host, port = _parse_url(url)
        pending, closing, connections, pages = (
            BoundedConnectionSet(),
            BoundedConnectionSet(),
            WeakSet[IncomingConnection](),
            RateLimitedLog(url),
        )
        tls_listener = (
            TlsListener((tls or TlsConfig()).create_server_context(), RateLimitedLog(url)) if self._encrypted else None
        )

        def connection(*given: Any, **settings: Any) -> asyncio.Protocol:
            incoming = IncomingConnection(*given, **settings)
            incoming.pending_connections, incoming.closing_connections, incoming.limits = pending, closing, limits
            connections.add(incoming)
            return incoming if tls_listener is None else tls_listener.build_protocol(incoming)

        async def handler(connection: ServerConnection) -> None:
            assert isinstance(connection, IncomingConnection)
            await handle(WebSocketChannel(connection, limits))

        def upgrade(connection: ServerConnection, request: Request) -> Response | None:
            if "Origin" not in request.headers:
                return None
            pages.log(f"refused a web page at {address_of(connection.transport)}: its request has an Origin")
            return connection.respond(HTTPStatus.FORBIDDEN, ORIGIN_REJECTION)

        settings = {"create_connection": connection, "process_request": upgrade, **_library_settings(limits)}
        try:
            server = await serve(handler, _listen_addresses(host, port), port, **settings)  # type: ignore[arg-type]
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                flag = "--port" if node else "--listen"
                raise UsageError(f"port {port} on {host} is in use; choose another with {flag}") from None
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
        """What it means that no answer came to a websocket's first words."""
        if not isinstance(error.__cause__, EOFError):
            return Unreachable(_describe_error(error))
        if not self._encrypted:  # which a port does too behind which nobody listens yet, so it is asked
            if await speaks_tls(*_parse_url(url), limits.handshake_timeout):
                return LinkRefused("key", "it is served with TLS; write wss://")
            return Unreachable("it ended the connection without a word")
        # It has proved that it is the node that was meant, and closed: in TLS 1.3 a server judges its caller's
        # certificate after the caller has done its part, and Python's servers do not say how they judged. It may also
        # have been too busy with strangers, or just have ended, so the caller tries again.
        if tls is None or tls.cert is None:
            return Unreachable("it hangs up: does it ask callers for a certificate? --tls-cert and --tls-key")
        return Unreachable(f"it hangs up: is the certificate in {tls.cert} expired, or not signed by its CA?")

    def _tls_arguments(self, node: str, tls: TlsConfig | None) -> dict[str, Any]:
        """The certificate must be one of the node's id, wherever it is."""
        named = {"server_hostname": node} if node else {}  # else it must be one of the host
        return {"ssl": (tls or TlsConfig()).create_client_context(), **named} if self._encrypted else {}


def _library_settings(limits: Limits) -> dict[str, Any]:
    """The library's own limits and timers, all derived from ours; compression costs 90 times on weights.

    It pings but waits for no pong, which on a slow link would come after all that is being sent: that is watched here.
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
    try:
        parts = urlsplit(url)
        if parts.hostname and parts.port is not None:
            return parts.hostname, parts.port
    except ValueError:
        pass
    raise UsageError(f"{url!r} is no address; one looks like ws://host:8777")


def _listen_addresses(host: str, port: int) -> list[str]:
    """``localhost`` is both loopback addresses, where the machine has both; a free port is one of IPv4."""
    if host != "localhost" or port == 0:
        return ["127.0.0.1" if host == "localhost" else host]
    with contextlib.suppress(OSError), socket.socket(socket.AF_INET6) as probe:
        probe.bind(("::1", 0))
        return ["127.0.0.1", "::1"]
    return ["127.0.0.1"]


def _describe_error(error: Exception) -> str:
    return (
        f"no websocket there: {get_error_text(error)}"
        if isinstance(error, WebSocketException)
        else describe_connect_error(error)
    )
