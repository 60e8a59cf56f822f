"""Where nodes arrive that dial out: each is held until the run calls it, as if it had been dialled."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Collection
from dataclasses import dataclass

from fedws.errors import LinkError, LinkLost, ProtocolError, Refused, printable
from fedws.gate import Complaints
from fedws.interfaces import Channel, Limits
from fedws.messages import Join, Refusal
from fedws.plan import Plan
from fedws.runlog import log
from fedws.schemes import transport
from fedws.security import Security
from fedws.wire import VERSION

NEWER = "the node has joined anew"
"""Why the older of two links of one node is closed."""


@dataclass(frozen=True)
class _Guest:
    """A node that has joined."""

    channel: Channel
    instance: str


class Meeting:
    """Holds those who come, by name. Of one node the newest link counts; a second node of its name is turned away."""

    def __init__(self, expected: Collection[str], limits: Limits, security: Security) -> None:
        self._expected = expected
        self._patience = limits.silence / 6
        self._security = security
        self._waiting: dict[str, Channel] = {}
        self._here: dict[str, _Guest] = {}
        self._news = asyncio.Condition()
        self._complaints = Complaints("the coordinator")

    async def call(self, node: str) -> Channel:
        """The link of a node, once it has joined."""
        async with self._news:
            await self._news.wait_for(lambda: node in self._waiting)
            return self._waiting.pop(node)

    async def arrive(self, channel: Channel) -> None:
        """Hold one link until it is not needed any more."""
        try:
            async with asyncio.timeout(self._patience):
                node, guest = await self._meet(channel)
        except TimeoutError:
            return await channel.close("no join in time")
        except Refused as refused:
            self._complaints.hear(f"a node{_at(channel)} was turned away: {refused}")
            with contextlib.suppress(LinkError):
                await channel.send(Refusal(kind=refused.kind, reason=str(refused)))
            return await channel.close()
        except ProtocolError as error:
            self._complaints.hear(f"a caller{_at(channel)} was turned away: {error}")
            return await channel.close(str(error))
        except LinkLost:
            return None
        await self._hold(node, guest)
        return None

    async def _meet(self, channel: Channel) -> tuple[str, _Guest]:
        """Hear who has come. Raises Refused, ProtocolError and LinkLost."""
        join = await channel.receive()
        if not isinstance(join, Join):
            raise ProtocolError(f"{type(join).__name__.lower()} before join")
        name, tls = printable(join.node, 64), self._security.tls
        if join.protocol != VERSION:
            raise Refused("protocol", f"the coordinator speaks protocol {VERSION}, not {join.protocol}")
        if join.node not in self._expected:
            raise Refused("node", f"this run does not expect {name}; it expects {', '.join(self._expected)}")
        if tls is not None and tls.mutual and channel.peer != join.node:
            raise Refused("key", f"{name} shows the certificate of {channel.peer or 'no node alone'}; see --id")
        known = self._here.get(join.node)
        if known is not None and known.instance != join.instance:
            where = known.channel.address
            raise Refused("busy", f"{name} is here already{f', from {where}' if where else ''}; ids must differ")
        return join.node, _Guest(channel, join.instance)

    async def _hold(self, node: str, guest: _Guest) -> None:
        older, self._here[node] = self._here.get(node), guest
        try:
            if older is not None:  # the node knows that it is lost, and this side does not yet
                await older.channel.close(NEWER)
            async with self._news:
                self._waiting[node] = guest.channel
                self._news.notify_all()
            await guest.channel.closed()
        finally:
            if self._here[node] is guest:
                del self._here[node]
            if self._waiting.get(node) is guest.channel:
                del self._waiting[node]


@contextlib.asynccontextmanager
async def listening(plan: Plan, limits: Limits, security: Security) -> AsyncIterator[Meeting | None]:
    """The meeting point of a run while the context lasts; None when all its nodes are dialled, or are at a broker.

    Raises UsageError when it cannot listen there.
    """
    if not plan.listen or transport(plan.listen).shared:
        yield None
        return
    expected = [node for node, url in (plan.workers | plan.evaluator).items() if url == plan.listen]
    meeting = Meeting(expected, limits, security)
    async with transport(plan.listen).serve(plan.listen, meeting.arrive, limits, security.tls) as address:
        log.info("Listening at %s for %s", address, ", ".join(expected))
        yield meeting


def _at(channel: Channel) -> str:
    return f" at {channel.address}" if channel.address else ""
