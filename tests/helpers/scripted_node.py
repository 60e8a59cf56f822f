"""A node that follows a script, and a link that is kept to it, without sockets and threads."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from typing import Any

import torch

from fedws.coordinator.connector import Connector
from fedws.coordinator.link import Link
from fedws.core.errors import LinkLost
from fedws.network.base import Channel, Limits
from fedws.network.transports.memory import MemoryTransport
from fedws.protocol import encoder
from fedws.protocol.messages import Hello, Message, Refusal, TaskFailure, TaskRequest, TaskResult, Welcome
from fedws.protocol.run_claim import RunClaim, derive_takeover_key
from fedws.scheduling.events import Event, WorkerConnected, WorkerDisconnected
from fedws.security.credentials import INSECURE
from tests.helpers.virtual_time import now

WELCOME = Welcome(node="alice", role="worker", dataset="points", num_examples=120, labels=[0, 1])
MODEL = {"w": torch.arange(1000.0)}


class Peer:
    """The peer at ``memory://NODE``, which receives a ``hello`` on each link, then runs the next part of its script."""

    def __init__(self, *script: "Part", node: str = "alice") -> None:
        self.node = node
        self.url = f"memory://{node}"
        self.script = list(script)
        self.dialled: list[float] = []
        """Time at which each link was opened."""
        self.channels: list[Channel] = []
        self.reasons: list[str] = []
        """Reason why each link was closed, if a part waited for that."""

    @contextlib.asynccontextmanager
    async def served(self) -> AsyncIterator[None]:
        async with MemoryTransport().serve(self.url, self._handle, Limits()):
            yield

    async def welcomes(self, channel: Channel) -> None:
        """Send a ``welcome``, and close the link."""
        await channel.send(replace(WELCOME, node=self.node))

    async def stays(self, channel: Channel) -> None:
        """Send a ``welcome``, and answer nothing."""
        await self.welcomes(channel)
        await self.reads(channel)

    async def works(self, channel: Channel) -> None:
        """Send a ``welcome``, and answer every request."""
        await self.welcomes(channel)
        with contextlib.suppress(LinkLost):
            while True:
                await channel.send(reported(await channel.receive()))

    async def reads(self, channel: Channel) -> None:
        """Read all messages."""
        try:
            while True:
                await channel.receive()
        except LinkLost as lost:
            self.reasons.append(str(lost))

    async def _handle(self, channel: Channel) -> None:
        self.dialled.append(now())
        self.channels.append(channel)
        hello = await channel.receive()
        assert hello == Hello(run="cafe", node=self.node, protocol=encoder.PROTOCOL_VERSION)
        await (self.script.pop(0) if len(self.script) > 1 else self.script[0])(self, channel)


Part = Callable[[Peer, Channel], Awaitable[None]]


def says(*messages: Message) -> Part:
    """Return the part that answers the ``hello`` with a message, and closes the link."""

    async def part(peer: Peer, channel: Channel) -> None:
        for message in messages:
            await channel.send(message)

    return part


def answers(*messages: Message) -> Part:
    """Return the part that answers one request with a message, and stays connected."""

    async def part(peer: Peer, channel: Channel) -> None:
        await peer.welcomes(channel)
        await channel.receive()
        for message in messages:
            await channel.send(message)
        await peer.reads(channel)

    return part


class Heard:
    """A link that is kept open, with all its events and answers in order."""

    def __init__(self, url: str = "memory://alice", node: str = "alice", silence: float = 60, **more: Any) -> None:
        given: dict[str, Any] = {"role": "worker", "seed": 1, "message": 2**30, "security": INSECURE, "meeting": None}
        given |= more
        limits, security, meeting = Limits(given["message"], silence), given["security"], given["meeting"]
        claim = RunClaim("cafe", security.coordinator, derive_takeover_key(bytes(32), node))
        contact = Connector(node, url, given["role"], claim, "points", limits, given["seed"], security, meeting)
        self.link = Link(contact)
        self.all: list[Event] = []
        self._news: asyncio.Queue[Event] = asyncio.Queue()

    async def __aenter__(self) -> "Heard":
        self.task = asyncio.create_task(self.link.run(self._post))
        return self

    async def __aexit__(self, *_: object) -> None:
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)

    def _post(self, event: Event) -> None:
        self.all.append(event)
        self._news.put_nowait(event)

    async def next(self) -> Event:
        return await self._news.get()

    async def give(self, order: TaskRequest) -> None:
        await self.link.send_request(order, self._post)


def asked(node: str = "alice", round_number: int = 1) -> TaskRequest:
    return TaskRequest(request_id=f"{round_number}/{node}", worker=node, round=round_number, task="t", tensors=MODEL)


def reported(order: Message, **changes: Any) -> TaskResult:
    assert isinstance(order, TaskRequest)
    report = TaskResult(
        request_id=order.request_id, worker=order.worker, round=order.round, num_examples=120, tensors=order.tensors
    )
    return replace(report, **changes)


def failed(kind: Any, reason: str = "as it is") -> TaskFailure:
    return TaskFailure(request_id="1/alice", worker="alice", round=1, kind=kind, reason=reason)


REPORT = reported(asked())
JOINED = WorkerConnected(worker="alice", num_examples=120)
LOST = failed("lost", "link lost: the node ends")
LEFT = WorkerDisconnected(worker="alice", reason="link lost: the node ends")


def refusal(kind: Any) -> Refusal:
    return Refusal(kind=kind, reason="this is bob\x1b, not alice")
