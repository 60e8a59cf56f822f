"""Reaches one node for a run: connects to it, or waits until it joins, and shakes hands."""

import asyncio
import logging
from typing import Literal

from fedws.coordinator.handshake import Greeting
from fedws.coordinator.listener import Meeting
from fedws.core.errors import LinkError, ProtocolError, Refused, RunFailed, WrongNode
from fedws.core.rate_limited_log import Complaints
from fedws.network.backoff import Pauses
from fedws.network.base import Channel, Limits
from fedws.network.lookup import transport
from fedws.protocol.messages import Welcome
from fedws.protocol.run_claim import Claim
from fedws.security.credentials import INSECURE, Security

log = logging.getLogger("fedws")
Found = tuple[Channel, Welcome]


class Contact:
    """The way to one node: its address, what the run expects of it, and why it cannot be reached."""

    def __init__(
        self,
        node: str,
        url: str,
        role: Literal["worker", "evaluator"],
        claim: Claim,
        dataset: str,
        limits: Limits,
        seed: int,
        security: Security,
        meeting: Meeting | None = None,
        *,
        blobs: bool = False,
    ) -> None:
        self.node = node
        self.url = url
        self.meeting = meeting
        self.trouble = "not dialled yet"
        """Why there was no link, the last time that there was none."""
        self.strict = role == "worker"
        """Whether a wrong node at the first contact is a mistake in the plan, which ends the run."""
        self.known = False
        """Whether the node has welcomed the run before."""
        self.pauses = Pauses(limits.silence, f"{seed}/{node}")
        self._silence = limits.silence
        self._limits = limits
        self._transport = transport(url)
        self._security = INSECURE if self._transport.private else security
        self._expected = claim, node, role, dataset
        self._blobs = blobs
        self._complaints = Complaints(node)

    async def find(self) -> Found:
        """Connect until the node welcomes the run, or wait until it joins; log the wait at the first contact.

        Raises what :meth:`_judge` does.
        """
        if self.meeting is not None:
            return await self.joined(self.meeting)
        logged = self.known
        while True:
            if (channel := await self._connected()) and (welcome := await self._greeted(channel)):
                self.known = True
                return channel, welcome
            if not logged:
                self._log_waiting()
                logged = True
            await asyncio.sleep(self.pauses.next())

    async def joined(self, meeting: Meeting) -> Found:
        """Wait until the node has joined, and welcomes the run."""
        waits = None
        if not self.known:
            self.trouble = "it has not joined"
            waits = asyncio.get_running_loop().call_later(self._silence / 12, self._log_waiting)
        try:
            found = await meeting.find(self.node, self._greeted)
        finally:
            if waits is not None:
                waits.cancel()
        self.known = True
        return found

    async def _connected(self) -> Channel | None:
        """Return a new link; None when there is none."""
        security = self._security
        try:
            async with asyncio.timeout(self._silence):
                return await self._transport.connect(
                    self.url, self._limits, self.node, security.tls, seal=security.seal
                )
        except TimeoutError:
            self.trouble = "no answer"
        except Refused as refused:
            self.trouble = str(refused)
            self._judge(refused)
        except LinkError as error:
            self.trouble = str(error)
        return None

    def _log_waiting(self) -> None:
        log.info("Waiting for %s at %s (%s)", self.node, self.url, self.trouble)

    async def _greeted(self, channel: Channel) -> Welcome | None:
        """Return the node's welcome on a link; None when the handshake fails."""
        greeting = Greeting(*self._expected, self._security, self._blobs, self._limits.message)
        try:
            async with asyncio.timeout(self._silence):
                return await greeting.greet(channel)
        except TimeoutError:
            self.trouble = "no answer"
        except Refused as refused:
            self.trouble = str(refused)
            self._judge(refused, greeting)
        except ProtocolError as error:
            self.trouble = f"broke the protocol: {error}"
            self._judge(error, greeting)
        except LinkError as error:
            self.trouble = str(error)
        if self.meeting is not None:
            self._complaints.hear(f"a node joined under this name and was not accepted: {self.trouble}")
        return None

    def _judge(self, error: Refused | ProtocolError, greeting: Greeting | None = None) -> None:
        """End the run if this is its first contact with a node that is not the one that was meant.

        Anyone can join under any name, so a node that has not proved the key is only rejected. Raises WrongNode,
        or RunFailed when the node does not speak the protocol.
        """
        unproved = self.meeting is not None and not (greeting is not None and greeting.proved)
        if not self.strict or self.known or unproved:
            return
        if isinstance(error, ProtocolError):
            raise RunFailed(f"{self.node} at {self.url}: {error}") from None
        if error.kind != "busy":
            raise WrongNode(f"{self.node} at {self.url}: {error}") from None
