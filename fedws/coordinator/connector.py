"""The connector, which connects to one node or waits until it joins, and performs the handshake."""

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
    """A connector to one node, with its address, the expectations of the run and the newest connection error."""

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
        self.last_error = "not connected yet"
        """Reason of the newest failed or lost connection."""
        self.fail_on_unexpected_node = role == "worker"
        """True if a wrong node at the first contact ends the run, because the plan must be wrong."""
        self.was_welcomed = False
        """True if the node has accepted a handshake of this run before."""
        self.backoff = Backoff(limits.max_backoff, f"{seed}/{node}")
        self._peer_timeout = limits.peer_timeout
        self.limits = limits
        self._transport = find_transport(url)
        self._credentials = INSECURE if self._transport.in_process else credentials
        self._expected = claim, node, role, dataset
        self._has_body_store = has_body_store
        self._warning_log = RateLimitedLog(node)

    async def connect(self) -> WelcomedChannel:
        """Connect to the node with retries, or wait until it joins, until it accepts the run.

        Before the first success, log once that the run waits for the node. Raises the errors of
        ``_check_first_contact``.
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
        """Wait until the node has joined and accepts the run."""
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
        """Return a new channel, or None if the connection fails."""
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
        """Return the node's welcome, or None if the handshake on ``channel`` fails."""
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
            self._warning_log.log(f"rejected a node that joined under this name: {self.last_error}")
        return None

    def _check_first_contact(
        self, error: LinkRefused | ProtocolError, handshake: CoordinatorHandshake | None = None
    ) -> None:
        """Raise an error that ends the run if the first contact is with a wrong node.

        Any peer can join under any name. A joined node that has not proved the network key is therefore only rejected.
        Raises UnexpectedNode, or RunFailed if the node violates the protocol.
        """
        unproved = self.listener is not None and not (handshake is not None and handshake.peer_authenticated)
        if not self.fail_on_unexpected_node or self.was_welcomed or unproved:
            return
        if isinstance(error, ProtocolError):
            raise RunFailed(f"{self.node} at {self.url}: {error}") from None
        if error.kind != "busy":
            raise UnexpectedNode(f"{self.node} at {self.url}: {error}") from None
