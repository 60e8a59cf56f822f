"""Where nodes arrive that dial out: each is held until the run calls it, as if it had been dialled."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Collection, Coroutine
from dataclasses import dataclass
from typing import Any

from fedws.core.errors import LinkError, LinkLost, ProtocolError, Refused, Undelivered, printable
from fedws.core.plan import Plan
from fedws.core.rate_limited_log import Complaints, at
from fedws.network.base import Channel, Limits
from fedws.network.lookup import transport
from fedws.protocol.close_codes import CloseCode
from fedws.protocol.encoder import VERSION
from fedws.protocol.messages import Join, Refusal, Welcome
from fedws.recording.run_log import log
from fedws.security.credentials import INSECURE, Security

NEWER = "the node has joined anew"
"""Why the older of two links of one node is closed."""


@dataclass(frozen=True)
class _Guest:
    """Who has joined under a node's name."""

    channel: Channel
    instance: str


class Meeting:
    """Holds those who come, by name. Anybody may claim one; whose it is, the :class:`Link` that calls them finds out.

    Once that is known, another node of the same name is refused.
    """

    def __init__(self, expected: Collection[str], limits: Limits, security: Security) -> None:
        self._expected = expected
        self._patience = limits.silence / 6
        self._security = security
        self._waiting: dict[str, list[_Guest]] = {node: [] for node in expected}
        self._called: dict[str, list[_Guest]] = {node: [] for node in expected}
        self._here: dict[str, _Guest] = {}
        self._closing: set[asyncio.Task[None]] = set()
        self._news = asyncio.Condition()
        self._complaints = Complaints("the coordinator")

    async def find(
        self, node: str, greet: Callable[[Channel], Coroutine[Any, Any, Welcome | None]]
    ) -> tuple[Channel, Welcome]:
        """The first link under this name on which ``greet`` gets a welcome.

        All are greeted at once, so that nobody who says nothing keeps the node out.
        """
        greetings: dict[asyncio.Task[Welcome | None], Channel] = {}
        call = asyncio.create_task(self.call(node))
        try:
            while True:
                done, _ = await asyncio.wait([call, *greetings], return_when=asyncio.FIRST_COMPLETED)
                for greeting in greetings.keys() & done:
                    channel = greetings.pop(greeting)
                    if welcome := greeting.result():
                        self.keep(node, channel)
                        return channel, welcome
                if call.done():
                    channel = call.result()
                    greetings[asyncio.create_task(greet(channel))] = channel
                    call = asyncio.create_task(self.call(node))
        finally:
            for task in (call, *greetings):
                task.cancel()
            await asyncio.gather(call, *greetings, return_exceptions=True)

    async def call(self, node: str) -> Channel:
        """The next link on which somebody has joined under this name."""
        async with self._news:
            await self._news.wait_for(lambda: self._waiting[node])
        guest = self._waiting[node].pop(0)
        self._called[node].append(guest)
        return guest.channel

    def keep(self, node: str, channel: Channel) -> None:
        """On this link it is the node; all others under its name are closed."""
        kept = next((guest for guest in self._called[node] if guest.channel is channel), None)
        if kept is None:  # it has gone already
            return
        self._here[node] = kept
        for guest in self._waiting[node] + self._called[node]:
            if guest is not kept:
                why = NEWER if guest.instance == kept.instance else second(node)
                closing = asyncio.create_task(guest.channel.close(why))  # which may take long
                self._closing.add(closing)
                closing.add_done_callback(self._closing.discard)
        self._waiting[node].clear()

    async def arrive(self, channel: Channel) -> None:
        """Hold one link until it is not needed any more."""
        try:
            async with asyncio.timeout(self._patience):
                node, guest = await self._meet(channel)
        except TimeoutError:
            return await channel.close("no hello in time")
        except Refused as refused:
            self._complaints.hear(f"a node{at(channel.address)} was refused: {refused}")
            with contextlib.suppress(LinkError):
                await channel.send(Refusal(kind=refused.kind, reason=str(refused)))
            return await channel.close()
        except (ProtocolError, Undelivered) as error:
            self._complaints.hear(f"a caller{at(channel.address)} was refused: {error}")
            return await channel.close(str(error), CloseCode.NOT_TAKEN)
        except LinkLost:
            return None
        return await self._hold(node, guest)

    async def _meet(self, channel: Channel) -> tuple[str, _Guest]:
        """Hear who has come. Raises Refused, which tells a stranger nothing of others, ProtocolError and LinkLost."""
        join = await channel.receive()
        if not isinstance(join, Join):
            raise ProtocolError(f"{type(join).__name__.lower()} before join")
        name, tls = printable(join.node, 64), self._security.tls
        if join.protocol != VERSION:
            raise Refused("protocol", f"the coordinator speaks protocol {VERSION}, not {join.protocol}")
        if join.node not in self._expected:
            raise Refused("node", f"this run does not expect {name}; see --id here, and --expect there")
        if tls is not None and tls.mutual and channel.peer != join.node:
            raise Refused("key", f"{name} shows the certificate of {channel.peer or 'no node alone'}; see --id")
        known = self._here.get(join.node)
        if known is not None and known.instance != join.instance:
            raise Refused("busy", second(name))
        return join.node, _Guest(channel, join.instance)

    async def _hold(self, node: str, guest: _Guest) -> None:
        try:
            async with self._news:
                self._waiting[node].append(guest)
                self._news.notify_all()
            await guest.channel.closed()
        finally:
            for held in (self._waiting[node], self._called[node]):
                if guest in held:
                    held.remove(guest)
            if self._here.get(node) is guest:
                del self._here[node]


@contextlib.asynccontextmanager
async def listening(plan: Plan, limits: Limits, security: Security) -> AsyncIterator[Meeting | None]:
    """The meeting point of a run while the context lasts; None when all its nodes are dialled, or are at a broker.

    Raises UsageError when it cannot listen there.
    """
    if not plan.listen or transport(plan.listen).shared:
        yield None
        return
    expected = [node for node, url in (plan.workers | plan.evaluator).items() if url == plan.listen]
    way = transport(plan.listen)
    meeting = Meeting(expected, limits, INSECURE if way.private else security)
    async with way.serve(plan.listen, meeting.arrive, limits, security.tls) as address:
        log.info("Listening at %s for %s", address, ", ".join(expected))
        yield meeting


def second(node: str) -> str:
    """What another node of its name is told."""
    return f"{node} is here already, or seems to be; ids must differ"
