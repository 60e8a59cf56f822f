"""Links over an MQTT 5 broker to which both ends connect: ``mqtt://[user@]broker[:port]``, or ``mqtts://`` with TLS.

The environment variable ``FEDWS_MQTT_PASSWORD`` contains the password of the user. Alternatively,
``FEDWS_MQTT_PASSWORD_FILE`` names a file that contains it.
"""

import contextlib
from collections.abc import AsyncIterator

from fedws.core.errors import Unreachable, UsageError
from fedws.core.rate_limited_log import RateLimitedLog
from fedws.core.registry import register
from fedws.network.base import Channel, Handler, Limits
from fedws.network.mqtt.broker_url import parse_broker_url
from fedws.network.mqtt.dialer import MqttDialer
from fedws.network.mqtt.listener import MqttListener
from fedws.network.mqtt.session import ListenerConfig
from fedws.security.tls import TlsConfig


@register("transport", "mqtt")
class MqttTransport:
    """A transport over an MQTT broker; see ``fedws.network.base.Transport``.

    Certificates authenticate the broker and its clients to each other. They do not authenticate nodes.
    """

    in_process = False
    brokered = True

    def __init__(self, *, encrypted: bool = False) -> None:
        self._encrypted = encrypted

    def check_url(
        self, url: str, tls: TlsConfig | None = None, *, encrypt_payloads: bool = False, is_listening: bool = False
    ) -> None:
        """Raise UsageError unless the URL has a host, has no password, and is encrypted if ``tls`` is given."""
        parse_broker_url(url)
        if tls is not None and not self._encrypted:
            raise UsageError(f"{url} is not encrypted, but certificates are given; use mqtts://")

    async def connect(
        self, url: str, limits: Limits, node: str = "", tls: TlsConfig | None = None, *, encrypt_payloads: bool = False
    ) -> Channel:
        """Find ``node`` at the broker, and open one link to it.

        Raise Unreachable if the broker or the node cannot be reached, UsageError if the URL is not valid, and
        LinkRefused if the broker rejects the connection or a topic.
        """
        self.check_url(url, tls, encrypt_payloads=encrypt_payloads)
        return await MqttDialer(
            parse_broker_url(url), self._tls_config(tls), node, limits, encrypt_payloads=encrypt_payloads
        ).connect()

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
        """Connect to the broker as ``node`` while the context is open, and reconnect after a lost connection.

        Raise UsageError if the broker rejects the connection or another ``node`` is connected to it. Raise Unreachable
        if the broker cannot be reached.
        """
        self.check_url(url, tls, encrypt_payloads=encrypt_payloads)
        config = ListenerConfig(
            parse_broker_url(url), self._tls_config(tls), node, handle, limits, encrypt_payloads, RateLimitedLog(node)
        )
        async with contextlib.AsyncExitStack() as stack:
            try:
                await stack.enter_async_context(MqttListener(config).serve())
            except Unreachable as error:
                raise Unreachable(f"{url}: {error}") from None
            except UsageError as error:
                raise UsageError(f"{url}: {error}") from None
            yield url

    def _tls_config(self, tls: TlsConfig | None) -> TlsConfig | None:
        return (tls or TlsConfig()) if self._encrypted else None
