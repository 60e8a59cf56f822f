"""``mqtt://[user@]broker[:port]``: links over an MQTT 5 broker, which both ends dial; ``mqtts://`` under TLS.

The password of the user is in ``FEDWS_MQTT_PASSWORD``, or in the file that ``FEDWS_MQTT_PASSWORD_FILE`` names.
"""

import contextlib
from collections.abc import AsyncIterator

from fedws.core.errors import Unreachable, UsageError
from fedws.core.rate_limited_log import Complaints
from fedws.core.registry import register
from fedws.network.base import Channel, Handler, Limits
from fedws.network.mqtt.broker_url import address
from fedws.network.mqtt.dialer import Dialler
from fedws.network.mqtt.listener import Node
from fedws.network.mqtt.session import Served
from fedws.security.tls import Tls


@register("transport", "mqtt")
class Mqtt:
    """See :class:`fedws.network.base.Transport`. Certificates are the broker's, and those it is shown; no node's."""

    private = False
    shared = True

    def __init__(self, *, encrypted: bool = False) -> None:
        self._encrypted = encrypted

    def check(self, url: str, tls: Tls | None = None, *, seal: bool = False) -> None:
        """Raises UsageError unless the URL has a host, and no password, and goes with the certificates."""
        address(url)
        if tls is not None and not self._encrypted:
            raise UsageError(f"{url} is not encrypted, though certificates are given; write mqtts://")

    async def connect(
        self, url: str, limits: Limits, node: str = "", tls: Tls | None = None, *, seal: bool = False
    ) -> Channel:
        """Find ``node`` on the broker, and open a link to it, once.

        Raises Unreachable, UsageError when the URL is none, and Refused when the broker does not let us.
        """
        self.check(url, tls, seal=seal)
        return await Dialler(address(url), self._tls(tls), node, limits, seal=seal).dial()

    @contextlib.asynccontextmanager
    async def serve(
        self, url: str, handle: Handler, limits: Limits, tls: Tls | None = None, *, node: str = "", seal: bool = False
    ) -> AsyncIterator[str]:
        """Be on the broker as ``node`` while the context lasts, connecting again when it was away.

        Raises UsageError when it does not let us, or another ``node`` is there, and Unreachable when there is none.
        """
        self.check(url, tls, seal=seal)
        served = Served(address(url), self._tls(tls), node, handle, limits, seal, Complaints(node))
        async with contextlib.AsyncExitStack() as stack:
            try:
                await stack.enter_async_context(Node(served).served())
            except Unreachable as error:
                raise Unreachable(f"{url}: {error}") from None
            except UsageError as error:
                raise UsageError(f"{url}: {error}") from None
            yield url

    def _tls(self, tls: Tls | None) -> Tls | None:
        return (tls or Tls()) if self._encrypted else None
