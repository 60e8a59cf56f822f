"""A node in dial-out mode: it connects to a listening coordinator, joins its run, and then joins the next one."""

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
from fedws.node.node_credentials import resolve_node_credentials
from fedws.node.server import NodeServer, serve
from fedws.node.worker import Worker
from fedws.object_store.base import BodyStore
from fedws.protocol.encoder import PROTOCOL_VERSION
from fedws.protocol.messages import DEFAULT_COORDINATOR_ID, Join, Message, Refusal
from fedws.security.credentials import Credentials

_QUIET_SECONDS = 30.0
"""Time in seconds after the end of a run during which an unreachable coordinator is not logged."""


class _RunJoiner:
    """A loop that connects to a coordinator until it is cancelled, since the coordinator may not listen yet."""

    def __init__(
        self, server: NodeServer, node: str, url: str, limits: Limits, credentials: Credentials, coordinator: str
    ) -> None:
        self._server = server
        self._url = url
        self._transport: Transport = find_transport(url)
        self._limits = limits
        self._credentials = credentials
        # A certificate of a public CA names a host. A certificate of a private CA names a node.
        self._peer_and_tls = (
            coordinator if credentials.tls is not None and credentials.tls.ca is not None else "",
            credentials.tls,
        )
        self._join_message = Join(node=node, protocol=PROTOCOL_VERSION, instance_id=secrets.token_hex(32))
        self._backoff = Backoff(limits.max_backoff, self._join_message.instance_id)
        self._status_log = RateLimitedLog(node, BURST_LINES)
        self._reasons = ReasonLog(partial(self._status_log.log, level=logging.INFO))
        self._run_ended_at: float | None = None

    async def run(self) -> None:
        """Join a run whenever the node has no link, until cancelled."""

        async def attempt() -> None:
            try:
                requests_before = self._server.num_requests
                await self._join_once()
                if self._server.num_requests > requests_before:
                    self._backoff.reset()
                if self._server.run_has_ended:
                    self._wait_for_next_run()
            except (LinkLost, Unreachable) as error:
                self._log_unreachable(error)
            except (LinkError, UsageError) as error:  # connecting raises UsageError for an invalid host name
                self._reasons.add(str(error), f"waiting to join at {self._url} ({error})")
            except Exception as error:  # a bug ends the link, but not the node
                self._status_log.log(
                    f"link to {self._url} failed: {describe_with_location(error)}", logging.ERROR, error
                )

        await retry(attempt, self._backoff)

    async def _join_once(self) -> None:
        """Join once and serve the link until it closes. Raises LinkError, or LinkRefused if it is rejected."""
        try:
            async with asyncio.timeout(self._limits.peer_timeout):
                channel = await self._transport.connect(
                    self._url, self._limits, *self._peer_and_tls, encrypt_payloads=self._credentials.encrypt_payloads
                )
        except TimeoutError:
            raise Unreachable("no answer") from None
        reason = "the node ends"  # the reason if this task is cancelled
        try:
            first = await self._receive_first(channel)
            await self._server.handle(channel, first, self._log_joined)
        except Exception as error:
            reason = to_printable(str(error)) if isinstance(error, LinkError) else "an error in the node"
            raise
        finally:
            await channel.close(reason)  # does nothing on a closed channel

    def _log_joined(self) -> None:
        """Log that the node has accepted the run."""
        self._status_log.log(f"joined the run at {self._url}", logging.INFO)
        self._reasons.reset()
        self._run_ended_at = None

    def _wait_for_next_run(self) -> None:
        """Log that the run has ended."""
        self._status_log.log(f"waiting for the next run at {self._url}", logging.INFO)
        self._run_ended_at = asyncio.get_running_loop().time()

    def _log_unreachable(self, error: LinkError) -> None:
        """Log a new reason why no coordinator is reachable. Directly after a run, its coordinator has just ended."""
        if self._run_ended_at is None:
            self._reasons.add(str(error), f"waiting to join at {self._url} ({error})")
        elif asyncio.get_running_loop().time() - self._run_ended_at > _QUIET_SECONDS:
            self._reasons.add(str(error), f"waiting for the next run at {self._url} ({error})")

    async def _receive_first(self, channel: Channel) -> Message:
        """Send ``join`` and return the coordinator's first message. Raises LinkError."""
        try:
            async with asyncio.timeout(self._limits.peer_timeout):
                await channel.send(self._join_message)
                first = await channel.receive()
        except TimeoutError:
            raise LinkLost("no hello in time") from None
        except BodyUnavailable as error:  # no request for tensors was sent yet
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
            reasons.add(str(error), f"waiting for the broker ({error})")
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
    """Connect ``worker`` to the coordinator at ``url`` repeatedly while the context lasts, and yield the URL.

    At a broker the node does not dial. It is served as soon as the broker is reachable. Under TLS with a private
    CA, the coordinator must present the certificate of ``coordinator``. Without ``credentials`` the coordinator must
    prove the user's own network key, except for ``memory://``. Raises UsageError for a URL that is not valid or that
    does not fit ``credentials``.
    """
    limits, way = limits or Limits(), find_transport(url)
    if way.brokered:
        async with contextlib.AsyncExitStack() as stack:
            yield await _serve_brokered(stack, worker, url, limits, credentials, body_store)
        return
    credentials = resolve_node_credentials(worker.node, way, credentials)
    way.check_url(url, credentials.tls, encrypt_payloads=credentials.encrypt_payloads)
    with contextlib.closing(NodeServer(worker, limits, credentials, body_store)) as service:
        task = asyncio.create_task(_RunJoiner(service, worker.node, url, limits, credentials, coordinator).run())
        try:
            yield url
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
