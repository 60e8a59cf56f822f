"""``mqtt://[user@]broker[:port]``: links over an MQTT 5 broker, which both ends dial; ``mqtts://`` under TLS.

The password of the user is in ``FEDWS_MQTT_PASSWORD``, or in the file that ``FEDWS_MQTT_PASSWORD_FILE`` names.
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
    """See :class:`fedws.network.base.Transport`. Certificates are the broker's, and those it is shown; no node's."""

    in_process = False
    brokered = True

    def __init__(self, *, encrypted: bool = False) -> None:
        self._encrypted = encrypted

    def check_url(self, url: str, tls: TlsConfig | None = None, *, encrypt_payloads: bool = False) -> None:
        """Raises UsageError unless the URL has a host, and no password, and goes with the certificates."""
        parse_broker_url(url)
        if tls is not None and not self._encrypted:
            raise UsageError(f"{url} is not encrypted, though certificates are given; write mqtts://")

    async def connect(
        self, url: str, limits: Limits, node: str = "", tls: TlsConfig | None = None, *, encrypt_payloads: bool = False
    ) -> Channel:
        """Find ``node`` on the broker, and open a link to it, once.

        Raises Unreachable, UsageError when the URL is none, and Refused when the broker does not let us.
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
        """Be on the broker as ``node`` while the context lasts, connecting again when it was away.

        Raises UsageError when it does not let us, or another ``node`` is there, and Unreachable when there is none.
        """
        self.check_url(url, tls, encrypt_payloads=encrypt_payloads)
        served = ListenerConfig(
            parse_broker_url(url), self._tls_config(tls), node, handle, limits, encrypt_payloads, RateLimitedLog(node)
        )
        async with contextlib.AsyncExitStack() as stack:
            try:
                await stack.enter_async_context(MqttListener(served).serve())
            except Unreachable as error:
                raise Unreachable(f"{url}: {error}") from None
            except UsageError as error:
                raise UsageError(f"{url}: {error}") from None
            yield url

    def _tls_config(self, tls: TlsConfig | None) -> TlsConfig | None:
        return (tls or TlsConfig()) if self._encrypted else None
