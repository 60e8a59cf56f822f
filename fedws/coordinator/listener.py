"""The listener for nodes in dial-out mode, which holds each joined channel until the run uses it."""

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

REPLACED_REASON = "the node has joined again"
"""Reason for closing the older of two links of one node."""


@dataclass(frozen=True)
class _JoinedNode:
    """A peer that has joined under a node's name."""

    channel: Channel
    instance: str


class JoinListener:
    """A collection of joined channels by node name.

    Any peer may claim a name, and the handshake of a ``fedws.coordinator.link.Link`` authenticates it. While one
    peer is accepted under a name, other nodes of that name are rejected.
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
        """Return the first channel under this name on which ``shake_hands`` gets a welcome, with that welcome.

        The handshakes run concurrently, so that a silent peer cannot block the real node.
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
        """Wait for the next channel on which a peer has joined under this name, and return it."""
        async with self._changed:
            await self._changed.wait_for(lambda: self._pending[node])
        joined_node = self._pending[node].pop(0)
        self._contacted[node].append(joined_node)
        return joined_node.channel

    def accept(self, node: str, channel: Channel) -> None:
        """Accept ``channel`` as the node's, and close all other channels under this name."""
        accepted = next((joined_node for joined_node in self._contacted[node] if joined_node.channel is channel), None)
        if accepted is None:  # it is closed already
            return
        self._accepted[node] = accepted
        for joined_node in self._pending[node] + self._contacted[node]:
            if joined_node is not accepted:
                reason = REPLACED_REASON if joined_node.instance == accepted.instance else duplicate_node_reason(node)
                closing = asyncio.create_task(joined_node.channel.close(reason))  # a task, since it may take long
                self._closing_tasks.add(closing)
                closing.add_done_callback(self._closing_tasks.discard)
        self._pending[node].clear()

    async def handle(self, channel: Channel) -> None:
        """Receive the join on a new channel, and hold the channel until it is closed."""
        joined = await admit(
            channel, lambda: self._receive_join(channel), self._join_timeout, self._warning_log, "a node"
        )
        if joined is not None:
            await self._hold_until_closed(*joined)

    async def _receive_join(self, channel: Channel) -> tuple[str, _JoinedNode]:
        """Receive and check a join; return the node's name and the joined peer.

        Raises LinkRefused, ProtocolError and LinkLost. The refusals disclose nothing about other nodes.
        """
        join = await channel.receive()
        if not isinstance(join, Join):
            raise ProtocolError(f"unexpected message {MESSAGE_NAMES[type(join)]!r}, expected 'join'")
        name, tls = to_printable(join.node, 64), self._credentials.tls
        if join.protocol != PROTOCOL_VERSION:
            raise LinkRefused("protocol", f"the coordinator uses protocol {PROTOCOL_VERSION}, not {join.protocol}")
        if join.node not in self._expected_nodes:
            raise LinkRefused("node", f"this run does not expect {name}; check --id here and --expect-workers there")
        if tls is not None and tls.is_mutual and channel.peer != join.node:
            owner = f"the certificate of {channel.peer}" if channel.peer else "no certificate of a single node"
            raise LinkRefused("key", f"{name} presented {owner}; check --id")
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
    """Listen for the nodes that join a run, and yield the listener while the context is open.

    Yield None if no node joins: the coordinator connects to all of them, or they use a broker. Raises UsageError if the
    address cannot be used.
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
    """Return the reason for rejecting another node of the same name."""
    return f"{node} seems to be connected already; node ids must differ"
