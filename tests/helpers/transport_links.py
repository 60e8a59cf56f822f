"""Nodes that are served over every registered transport, and links to them."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractAsyncContextManager

import pytest
import torch

from fedws.core import registry
from fedws.core.errors import LinkLost
from fedws.network.base import Channel, Handler, Limits, Transport
from fedws.protocol.messages import Hello, TaskRequest
from tests.helpers.mosquitto import MISSING, PASSWORD, PROGRAM, mosquitto
from tests.helpers.support import require
from tests.helpers.waiting import soon

SCHEMES = registry.list_pieces("transport")
ADDRESS = {"memory": "memory://node", "ws": "ws://localhost:0", "mqtt": ""}
"""Address of each transport in tests.

A new transport needs a line here and, for hostile bytes, one in ``raw`` of ``test_transports_limits.py``.
"""
NODE = "alice"
LIMITS = Limits(max_message_bytes=2**24, peer_timeout=60.0)
every = pytest.mark.parametrize("scheme", SCHEMES)


def made(scheme: str) -> Transport:
    found: Transport = registry.find_piece("transport", scheme)()
    return found


@pytest.fixture(scope="module", autouse=True)
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Start a broker for ``mqtt``; without Mosquitto, only the tests that need it are skipped."""
    if PROGRAM is None:
        yield
        return
    with mosquitto(tmp_path_factory.mktemp("broker")) as real:
        ADDRESS["mqtt"] = real.url
        yield


@pytest.fixture(autouse=True)
def password(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEDWS_MQTT_PASSWORD", PASSWORD)


def served(scheme: str, handle: Handler, limits: Limits, url: str = "") -> AbstractAsyncContextManager[str]:
    """Serve a node at its transport's address, or at another one."""
    if scheme == "mqtt":
        require(PROGRAM, MISSING)
    return made(scheme).serve(url or ADDRESS[scheme], handle, limits, node=NODE)


async def dialled(scheme: str, url: str, limits: Limits) -> Channel:
    return await made(scheme).connect(url, limits, NODE)


@contextlib.asynccontextmanager
async def linked(
    scheme: str, limits: Limits = LIMITS, theirs: Limits | None = None
) -> AsyncIterator[tuple[Channel, Channel]]:
    """Return both ends of a link, the caller's first."""
    arrived: asyncio.Queue[Channel] = asyncio.Queue()
    done = asyncio.Event()

    async def handle(channel: Channel) -> None:
        arrived.put_nowait(channel)
        await done.wait()

    async with served(scheme, handle, theirs or limits) as url:
        near = await soon(dialled(scheme, url, limits))
        far = await soon(arrived.get())
        near.mark_authenticated()
        far.mark_authenticated()
        try:
            yield near, far
        finally:
            done.set()
            await near.close()


async def echo(channel: Channel) -> None:
    """Send every message back until the link is lost."""
    channel.mark_authenticated()
    with contextlib.suppress(LinkLost):
        while True:
            await channel.send(await channel.receive())


def hello(run: str = "r") -> Hello:
    return Hello(run=run, node="alice", protocol=1)


def order(**tensors: torch.Tensor) -> TaskRequest:
    return TaskRequest(request_id="1/alice", worker="alice", round=1, task="t", settings={"lr": 0.1}, tensors=tensors)
