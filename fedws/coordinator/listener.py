"""Where nodes arrive that dial out: each is held until the run calls it, as if it had been dialled."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Collection, Coroutine
from dataclasses import dataclass
from typing import Any

from fedws.core.errors import LinkRefused, ProtocolError
from fedws.core.plan import Plan
from fedws.core.rate_limited_log import RateLimitedLog
from fedws.core.untrusted_text import to_printable
from fedws.network.admission import admit
from fedws.network.base import Channel, Limits
from fedws.network.lookup import find_transport
from fedws.protocol.encoder import PROTOCOL_VERSION
from fedws.protocol.messages import MESSAGE_NAMES, Join, Welcome
from fedws.recording.run_log import log
from fedws.security.credentials import INSECURE, Credentials

REPLACED_REASON = "the node has joined anew"
"""Why the older of two links of one node is closed."""


@dataclass(frozen=True)
class _JoinedNode:
    """Who has joined under a node's name."""

    channel: Channel
    instance: str


class JoinListener:
    """Holds those who come, by name. Anybody may claim one; whose it is, the :class:`Link` that calls them finds out.

    Once that is known, another node of the same name is refused.
    """

    def __init__(self, expected_nodes: Collection[str], limits: Limits, credentials: Credentials) -> None:
        self._expected_nodes = expected_nodes
        self._join_timeout = limits.handshake_timeout
        self._credentials = credentials
        self._pending: dict[str, list[_JoinedNode]] = {node: [] for node in expected_nodes}
        self._contacted: dict[str, list[_JoinedNode]] = {node: [] for node in expected_nodes}
        self._accepted: dict[str, _JoinedNode] = {}
        self._closing_tasks: set[asyncio.Task[None]] = set()
        self._changed = asyncio.Condition()
        self._warning_log = RateLimitedLog("the coordinator")

    async def wait_for_node(
        self, node: str, shake_hands: Callable[[Channel], Coroutine[Any, Any, Welcome | None]]
    ) -> tuple[Channel, Welcome]:
        """The first link under this name on which ``shake_hands`` gets a welcome.

        All are greeted at once, so that nobody who says nothing keeps the node out.
        """
        handshakes: dict[asyncio.Task[Welcome | None], Channel] = {}
        next_join = asyncio.create_task(self.next_channel(node))
        try:
            while True:
                done, _ = await asyncio.wait([next_join, *handshakes], return_when=asyncio.FIRST_COMPLETED)
                for handshake_task in handshakes.keys() & done:
                    channel = handshakes.pop(handshake_task)
                    if welcome := handshake_task.result():
                        self.accept(node, channel)
                        return channel, welcome
                if next_join.done():
                    channel = next_join.result()
                    handshakes[asyncio.create_task(shake_hands(channel))] = channel
                    next_join = asyncio.create_task(self.next_channel(node))
        finally:
            for task in (next_join, *handshakes):
                task.cancel()
            await asyncio.gather(next_join, *handshakes, return_exceptions=True)

    async def next_channel(self, node: str) -> Channel:
        """The next link on which somebody has joined under this name."""
        async with self._changed:
            await self._changed.wait_for(lambda: self._pending[node])
        joined_node = self._pending[node].pop(0)
        self._contacted[node].append(joined_node)
        return joined_node.channel

    def accept(self, node: str, channel: Channel) -> None:
        """On this link it is the node; all others under its name are closed."""
        accepted = next((joined_node for joined_node in self._contacted[node] if joined_node.channel is channel), None)
        if accepted is None:  # it has gone already
            return
        self._accepted[node] = accepted
        for joined_node in self._pending[node] + self._contacted[node]:
            if joined_node is not accepted:
                reason = REPLACED_REASON if joined_node.instance == accepted.instance else duplicate_node_reason(node)
                closing = asyncio.create_task(joined_node.channel.close(reason))  # which may take long
                self._closing_tasks.add(closing)
                closing.add_done_callback(self._closing_tasks.discard)
        self._pending[node].clear()

    async def handle(self, channel: Channel) -> None:
        """Hold one link until it is not needed any more."""
        joined = await admit(
            channel, lambda: self._receive_join(channel), self._join_timeout, self._warning_log, "a node"
        )
        if joined is not None:
            await self._hold_until_closed(*joined)

    async def _receive_join(self, channel: Channel) -> tuple[str, _JoinedNode]:
        """Receive a join. Raises LinkRefused, which tells a stranger nothing of others, ProtocolError and LinkLost."""
        join = await channel.receive()
        if not isinstance(join, Join):
            raise ProtocolError(f"{MESSAGE_NAMES[type(join)]} before join")
        name, tls = to_printable(join.node, 64), self._credentials.tls
        if join.protocol != PROTOCOL_VERSION:
            raise LinkRefused("protocol", f"the coordinator speaks protocol {PROTOCOL_VERSION}, not {join.protocol}")
        if join.node not in self._expected_nodes:
            raise LinkRefused("node", f"this run does not expect {name}; see --id here, and --expect-workers there")
        if tls is not None and tls.is_mutual and channel.peer != join.node:
            raise LinkRefused("key", f"{name} shows the certificate of {channel.peer or 'no node alone'}; see --id")
        accepted = self._accepted.get(join.node)
        if accepted is not None and accepted.instance != join.instance_id:
            raise LinkRefused("busy", duplicate_node_reason(name))
        return join.node, _JoinedNode(channel, join.instance_id)

    async def _hold_until_closed(self, node: str, joined_node: _JoinedNode) -> None:
        try:
            async with self._changed:
                self._pending[node].append(joined_node)
                self._changed.notify_all()
            await joined_node.channel.wait_closed()
        finally:
            for joined_nodes in (self._pending[node], self._contacted[node]):
                if joined_node in joined_nodes:
                    joined_nodes.remove(joined_node)
            if self._accepted.get(node) is joined_node:
                del self._accepted[node]


@contextlib.asynccontextmanager
async def listen(plan: Plan, limits: Limits, credentials: Credentials) -> AsyncIterator[JoinListener | None]:
    """Listen for nodes that join a run, while the context lasts; give None when all its nodes are dialled, or are at a
    broker.

    Raises UsageError when it cannot listen there.
    """
    if not plan.listen or find_transport(plan.listen).brokered:
        yield None
        return
    expected = [node for node, url in (plan.workers | plan.evaluator).items() if url == plan.listen]
    transport = find_transport(plan.listen)
    listener = JoinListener(expected, limits, INSECURE if transport.in_process else credentials)
    async with transport.serve(plan.listen, listener.handle, limits, credentials.tls) as address:
        log.info("Listening at %s for %s", address, ", ".join(expected))
        yield listener


def duplicate_node_reason(node: str) -> str:
    """What another node of its name is told."""
    return f"{node} is here already, or seems to be; ids must differ"
