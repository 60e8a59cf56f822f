"""A node that dials out: it joins the run that is listening somewhere, and the next one there, and is then as any."""

import asyncio
import contextlib
import logging
import secrets
from collections.abc import AsyncIterator
from functools import partial

from fedws.core.error_text import describe_with_location
from fedws.core.errors import BodyUnavailable, LinkError, LinkLost, LinkRefused, ProtocolError, Unreachable, UsageError
from fedws.core.rate_limited_log import BURST_LINES, RateLimitedLog
from fedws.core.untrusted_text import to_printable
from fedws.network.backoff import Backoff, ReasonLog, retry
from fedws.network.base import Channel, Limits, Transport
from fedws.network.lookup import find_transport
from fedws.node.server import NodeServer, resolve_node_credentials, serve
from fedws.node.worker import Worker
from fedws.object_store.base import BodyStore
from fedws.protocol.encoder import PROTOCOL_VERSION
from fedws.protocol.messages import DEFAULT_COORDINATOR_ID, Join, Message, Refusal
from fedws.security.credentials import Credentials


class _RunJoiner:
    """Dials until it is ended: whoever listens may not do so yet, or not any more."""

    def __init__(
        self, server: NodeServer, node: str, url: str, limits: Limits, credentials: Credentials, coordinator: str
    ) -> None:
        self._server = server
        self._url = url
        self._transport: Transport = find_transport(url)
        self._limits = limits
        self._credentials = credentials
        # A certificate of a public CA is of a host; one of a private CA is of a node.
        self._peer_and_tls = (
            coordinator if credentials.tls is not None and credentials.tls.ca is not None else "",
            credentials.tls,
        )
        self._join_message = Join(node=node, protocol=PROTOCOL_VERSION, instance_id=secrets.token_hex(32))
        self._backoff = Backoff(limits.max_backoff, self._join_message.instance_id)
        self._status_log = RateLimitedLog(node, BURST_LINES)
        self._reasons = ReasonLog(partial(self._status_log.log, level=logging.INFO))

    async def run(self) -> None:
        """Join whenever there is no link, until cancelled."""

        async def attempt() -> None:
            try:
                requests_before = self._server.num_requests
                await self._join_once()
                if self._server.num_requests > requests_before:
                    self._backoff.reset()
            except (LinkError, UsageError) as error:  # a name that no network can have is found when it is dialled
                self._reasons.add(str(error), f"waits to join at {self._url} ({error})")
            except Exception as error:  # a bug costs a link, and not the node
                self._status_log.log(
                    f"an error on a link to {self._url}: {describe_with_location(error)}", logging.ERROR, error
                )

        await retry(attempt, self._backoff)

    async def _join_once(self) -> None:
        """Join once, and be served. Raises LinkError, as LinkRefused."""
        try:
            async with asyncio.timeout(self._limits.peer_timeout):
                channel = await self._transport.connect(
                    self._url, self._limits, *self._peer_and_tls, encrypt_payloads=self._credentials.encrypt_payloads
                )
        except TimeoutError:
            raise Unreachable("no answer") from None
        reason = "the node ends"  # as long as it has not come to an end by itself
        try:
            first = await self._receive_first(channel)
            self._status_log.log(f"has joined at {self._url}", logging.INFO)
            self._reasons.reset()
            await self._server.handle(channel, first)
        except Exception as error:
            reason = to_printable(str(error)) if isinstance(error, LinkError) else "an error in the node"
            raise
        finally:
            await channel.close(reason)  # nothing, where that has been done

    async def _receive_first(self, channel: Channel) -> Message:
        """The coordinator's first word to who has joined. Raises LinkError."""
        try:
            async with asyncio.timeout(self._limits.peer_timeout):
                await channel.send(self._join_message)
                first = await channel.receive()
        except TimeoutError:
            raise LinkLost("no hello in time") from None
        except BodyUnavailable as error:  # nobody has been asked for tensors yet
            raise ProtocolError(str(error)) from None
        if isinstance(first, Refusal):
            raise LinkRefused(first.kind, to_printable(first.reason))
        return first


async def _serve_brokered(
    stack: contextlib.AsyncExitStack,
    worker: Worker,
    url: str,
    limits: Limits,
    credentials: Credentials | None,
    body_store: BodyStore | None,
) -> str:
    reasons = ReasonLog(partial(RateLimitedLog(worker.node, BURST_LINES).log, level=logging.INFO))

    async def attempt() -> str | None:
        try:
            return await stack.enter_async_context(serve(worker, url, limits, credentials, body_store))
        except Unreachable as error:
            reasons.add(str(error), f"waits for a broker ({error})")
            return None

    return await retry(attempt, Backoff(limits.max_backoff, worker.node))


@contextlib.asynccontextmanager
async def join_run(
    worker: Worker,
    url: str,
    limits: Limits | None = None,
    credentials: Credentials | None = None,
    coordinator: str = DEFAULT_COORDINATOR_ID,
    body_store: BodyStore | None = None,
) -> AsyncIterator[str]:
    """Have ``worker`` join whoever listens at ``url``, again and again while the context lasts; gives the URL.

    At a broker, where nobody is dialled, it is served, as soon as the broker is there. Under TLS with a CA of one's
    own, who listens must show the certificate of ``coordinator``. Without ``credentials`` it must know the user's own
    network key, but for ``memory://``. Raises UsageError for a URL that is none, or does not go with ``credentials``.
    """
    limits, way = limits or Limits(), find_transport(url)
    if way.brokered:
        async with contextlib.AsyncExitStack() as stack:
            yield await _serve_brokered(stack, worker, url, limits, credentials, body_store)
        return
    credentials = resolve_node_credentials(worker, way, credentials)
    way.check_url(url, credentials.tls, encrypt_payloads=credentials.encrypt_payloads)
    with contextlib.closing(NodeServer(worker, limits, credentials, body_store)) as service:
        task = asyncio.create_task(_RunJoiner(service, worker.node, url, limits, credentials, coordinator).run())
        try:
            yield url
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
