"""Reaches one node for a run: connects to it, or waits until it joins, and shakes hands."""

import asyncio
import logging
from typing import Literal

from fedws.coordinator.handshake import CoordinatorHandshake
from fedws.coordinator.listener import JoinListener
from fedws.core.errors import LinkError, LinkRefused, ProtocolError, RunFailed, UnexpectedNode
from fedws.core.rate_limited_log import RateLimitedLog
from fedws.network.backoff import Backoff, retry
from fedws.network.base import Channel, Limits
from fedws.network.lookup import find_transport
from fedws.protocol.messages import Welcome
from fedws.protocol.run_claim import RunClaim
from fedws.security.credentials import INSECURE, Credentials

log = logging.getLogger("fedws")
WelcomedChannel = tuple[Channel, Welcome]


class Connector:
    """The way to one node: its address, what the run expects of it, and why it cannot be reached."""

    def __init__(
        self,
        node: str,
        url: str,
        role: Literal["worker", "evaluator"],
        claim: RunClaim,
        dataset: str,
        limits: Limits,
        seed: int,
        credentials: Credentials,
        listener: JoinListener | None = None,
        *,
        has_body_store: bool = False,
    ) -> None:
        self.node = node
        self.url = url
        self.listener = listener
        self.last_error = "not dialled yet"
        """Why there was no link, the last time that there was none."""
        self.fail_on_unexpected_node = role == "worker"
        """Whether a wrong node at the first contact is a mistake in the plan, which ends the run."""
        self.was_welcomed = False
        """Whether the node has welcomed the run before."""
        self.backoff = Backoff(limits.max_backoff, f"{seed}/{node}")
        self._peer_timeout = limits.peer_timeout
        self.limits = limits
        self._transport = find_transport(url)
        self._credentials = INSECURE if self._transport.in_process else credentials
        self._expected = claim, node, role, dataset
        self._has_body_store = has_body_store
        self._warning_log = RateLimitedLog(node)

    async def connect(self) -> WelcomedChannel:
        """Connect until the node welcomes the run, or wait until it joins; log the wait at the first contact.

        Raises what :meth:`_check_first_contact` does.
        """
        if self.listener is not None:
            return await self.wait_for_join(self.listener)
        logged = self.was_welcomed

        async def attempt() -> WelcomedChannel | None:
            nonlocal logged
            if (channel := await self._dial()) and (welcome := await self._shake_hands(channel)):
                self.was_welcomed = True
                return channel, welcome
            if not logged:
                self._log_waiting()
                logged = True
            return None

        return await retry(attempt, self.backoff)

    async def wait_for_join(self, listener: JoinListener) -> WelcomedChannel:
        """Wait until the node has joined, and welcomes the run."""
        log_timer = None
        if not self.was_welcomed:
            self.last_error = "it has not joined"
            log_timer = asyncio.get_running_loop().call_later(self.limits.max_backoff, self._log_waiting)
        try:
            welcomed = await listener.wait_for_node(self.node, self._shake_hands)
        finally:
            if log_timer is not None:
                log_timer.cancel()
        self.was_welcomed = True
        return welcomed

    async def _dial(self) -> Channel | None:
        """Return a new link; None when there is none."""
        credentials = self._credentials
        try:
            async with asyncio.timeout(self._peer_timeout):
                return await self._transport.connect(
                    self.url, self.limits, self.node, credentials.tls, encrypt_payloads=credentials.encrypt_payloads
                )
        except TimeoutError:
            self.last_error = "no answer"
        except LinkRefused as refused:
            self.last_error = str(refused)
            self._check_first_contact(refused)
        except LinkError as error:
            self.last_error = str(error)
        return None

    def _log_waiting(self) -> None:
        log.info("Waiting for %s at %s (%s)", self.node, self.url, self.last_error)

    async def _shake_hands(self, channel: Channel) -> Welcome | None:
        """Return the node's welcome on a link; None when the handshake fails."""
        handshake = CoordinatorHandshake(
            *self._expected, self._credentials, self._has_body_store, self.limits.max_message_bytes
        )
        try:
            async with asyncio.timeout(self._peer_timeout):
                return await handshake.perform(channel)
        except TimeoutError:
            self.last_error = "no answer"
        except LinkRefused as refused:
            self.last_error = str(refused)
            self._check_first_contact(refused, handshake)
        except ProtocolError as error:
            self.last_error = f"broke the protocol: {error}"
            self._check_first_contact(error, handshake)
        except LinkError as error:
            self.last_error = str(error)
        if self.listener is not None:
            self._warning_log.log(f"a node joined under this name and was not accepted: {self.last_error}")
        return None

    def _check_first_contact(
        self, error: LinkRefused | ProtocolError, handshake: CoordinatorHandshake | None = None
    ) -> None:
        """End the run if this is its first contact with a node that is not the one that was meant.

        Anyone can join under any name, so a node that has not proved the key is only rejected. Raises UnexpectedNode,
        or RunFailed when the node does not speak the protocol.
        """
        unproved = self.listener is not None and not (handshake is not None and handshake.peer_authenticated)
        if not self.fail_on_unexpected_node or self.was_welcomed or unproved:
            return
        if isinstance(error, ProtocolError):
            raise RunFailed(f"{self.node} at {self.url}: {error}") from None
        if error.kind != "busy":
            raise UnexpectedNode(f"{self.node} at {self.url}: {error}") from None
