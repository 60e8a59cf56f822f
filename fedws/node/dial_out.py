"""A node that dials out: it joins the run that is listening somewhere, and the next one there, and is then as any."""

import asyncio
import contextlib
import logging
import secrets
from collections.abc import AsyncIterator

from fedws.core.error_location import placed
from fedws.core.errors import (
    LinkError,
    LinkLost,
    ProtocolError,
    Refused,
    Undelivered,
    Unreachable,
    UsageError,
    printable,
)
from fedws.core.rate_limited_log import BURST, Complaints
from fedws.network.backoff import Pauses
from fedws.network.base import Channel, Limits, Transport
from fedws.network.lookup import transport
from fedws.node.server import Service, asked, serving
from fedws.node.worker import Worker
from fedws.object_store.base import Shelf
from fedws.protocol.encoder import VERSION
from fedws.protocol.messages import COORDINATOR, Join, Message, Refusal
from fedws.security.credentials import Security


class _Joining:
    """Dials until it is ended: whoever listens may not do so yet, or not any more."""

    def __init__(self, service: Service, node: str, url: str, limits: Limits, security: Security, whom: str) -> None:
        self._service = service
        self._url = url
        self._way: Transport = transport(url)
        self._limits = limits
        self._security = security
        # A certificate of a public CA is of a host; one of a private CA is of a node.
        self._whom = (whom if security.tls is not None and security.tls.ca is not None else "", security.tls)
        self._join = Join(node=node, protocol=VERSION, instance=secrets.token_hex(32))
        self._pauses = Pauses(limits.silence, self._join.instance)
        self._said = ""
        self._lines = Complaints(node, BURST)

    async def keep(self) -> None:
        """Join whenever there is no link, until cancelled."""
        while True:
            try:
                orders = self._service.orders
                await self._joined()
                if self._service.orders > orders:  # the link has been good for something
                    self._pauses.again()
            except (LinkError, UsageError) as error:  # a name that no network could have is found when it is dialled
                self._say(str(error))
            except Exception as error:  # a bug costs a link, and not the node
                self._lines.hear(f"an error on a link to {self._url}: {placed(error)}", logging.ERROR, error)
            await asyncio.sleep(self._pauses.next())

    async def _joined(self) -> None:
        """Join once, and be served. Raises LinkError, as Refused."""
        try:
            async with asyncio.timeout(self._limits.silence):
                channel = await self._way.connect(self._url, self._limits, *self._whom, seal=self._security.seal)
        except TimeoutError:
            raise Unreachable("no answer") from None
        reason = "the node ends"  # as long as it has not come to an end by itself
        try:
            first = await self._called(channel)
            self._lines.hear(f"has joined at {self._url}", logging.INFO)
            self._said = ""
            await self._service.handle(channel, first)
        except Exception as error:
            reason = printable(str(error)) if isinstance(error, LinkError) else "an error in the node"
            raise
        finally:
            await channel.close(reason)  # nothing, where that has been done

    async def _called(self, channel: Channel) -> Message:
        """The coordinator's first word to who has joined. Raises LinkError."""
        try:
            async with asyncio.timeout(self._limits.silence):
                await channel.send(self._join)
                first = await channel.receive()
        except TimeoutError:
            raise LinkLost("no hello in time") from None
        except Undelivered as error:  # nobody has been asked for tensors yet
            raise ProtocolError(str(error)) from None
        if isinstance(first, Refusal):
            raise Refused(first.kind, printable(first.reason))
        return first

    def _say(self, trouble: str) -> None:
        if trouble != self._said:
            self._lines.hear(f"waits to join at {self._url} ({trouble})", logging.INFO)
        self._said = trouble


async def _served(
    stack: contextlib.AsyncExitStack,
    worker: Worker,
    url: str,
    limits: Limits,
    security: Security | None,
    shelf: Shelf | None,
) -> str:
    pauses, said, lines = Pauses(limits.silence, worker.node), "", Complaints(worker.node, BURST)
    while True:
        try:
            return await stack.enter_async_context(serving(worker, url, limits, security, shelf))
        except Unreachable as error:
            if str(error) != said:
                lines.hear(f"waits for a broker ({error})", logging.INFO)
            said = str(error)
        await asyncio.sleep(pauses.next())


@contextlib.asynccontextmanager
async def joining(
    worker: Worker,
    url: str,
    limits: Limits | None = None,
    security: Security | None = None,
    coordinator: str = COORDINATOR,
    shelf: Shelf | None = None,
) -> AsyncIterator[str]:
    """Have ``worker`` join whoever listens at ``url``, again and again while the context lasts; gives the URL.

    At a broker, where nobody is dialled, it is served, as soon as the broker is there. Under TLS with a CA of one's
    own, who listens must show the certificate of ``coordinator``. Without ``security`` it must know the user's own
    network key, but for ``memory://``. Raises UsageError for a URL that is none, or does not go with ``security``.
    """
    limits, way = limits or Limits(), transport(url)
    if way.shared:
        async with contextlib.AsyncExitStack() as stack:
            yield await _served(stack, worker, url, limits, security, shelf)
        return
    security = asked(worker, way, security)
    way.check(url, security.tls, seal=security.seal)
    with contextlib.closing(Service(worker, limits, security, shelf)) as service:
        task = asyncio.create_task(_Joining(service, worker.node, url, limits, security, coordinator).keep())
        try:
            yield url
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
