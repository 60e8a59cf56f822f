"""A link to a plain websocket that sends no pings, and large requests for it."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import pytest
import torch
from websockets.asyncio.client import connect
from websockets.asyncio.connection import Connection
from websockets.asyncio.server import serve

from fedws.network.base import Limits
from fedws.network.transports.ws import WebSocketTransport
from fedws.network.websocket.channel import WebSocketChannel
from fedws.protocol.encoder import encode_message
from fedws.protocol.messages import Hello, TaskRequest
from tests.helpers.federation import PatientLimits
from tests.helpers.waiting import soon

LIMITS = PatientLimits(peer_timeout=0.6)
"""Limits under which a message must bring 614 bytes in 0.6 s, with a ping every 0.2 s.

Tests sleep longer, which a link must survive.
"""
HELLO = Hello(run="r", node="alice", protocol=1)
both_sides = pytest.mark.parametrize("side", ["dialled", "dialler"])


def order(size: int) -> TaskRequest:
    """Return a request of about so many bytes."""
    return TaskRequest(request_id="1", worker="alice", round=1, task="t", tensors={"w": torch.arange(size // 8)})


def pieces(size: int, length: int) -> list[bytes]:
    """Return the bytes of a request in pieces."""
    data = b"".join(bytes(piece) for piece in encode_message(order(size)).fragments())
    return [data[start : start + length] for start in range(0, len(data), length)]


@contextlib.asynccontextmanager
async def opposite(side: str, limits: Limits = LIMITS) -> AsyncIterator[tuple[WebSocketChannel, Connection]]:
    """Return our end of a link, and at its other end a plain websocket that sends no pings of its own."""
    arrived: asyncio.Queue[Any] = asyncio.Queue()
    done = asyncio.Event()

    async def handle(end: Any) -> None:
        arrived.put_nowait(end)
        await done.wait()

    plain: dict[str, Any] = {"compression": None, "ping_interval": None, "max_size": None, "close_timeout": 0.1}
    async with contextlib.AsyncExitStack() as stack:
        if side == "dialled":
            url = await stack.enter_async_context(WebSocketTransport().serve("ws://localhost:0", handle, limits))
            peer: Connection = await soon(connect(url, proxy=None, **plain))
            ours = await soon(arrived.get())
        else:
            server = await stack.enter_async_context(serve(handle, "127.0.0.1", 0, **plain))
            ours = await soon(
                WebSocketTransport().connect(f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}", limits)
            )
            peer = await soon(arrived.get())
        ours.mark_authenticated()
        try:
            yield ours, peer
        finally:
            done.set()
            peer.transport.abort()
            await ours.close()
