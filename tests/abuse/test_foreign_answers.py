"""Servers that are not a node, or that close a link, with control characters in their texts: errors stay printable."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import pytest
from websockets.asyncio.server import ServerConnection, serve

from fedws.core.errors import LinkError, Unreachable
from fedws.network.base import Limits
from fedws.network.lookup import find_transport
from tests.abuse.test_foreign_text import HOSTILE, right, terminal

UPGRADE = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
RAW = b"\xff\x9b2J\x9d0;title\x9c"  # control bytes that HTTP lets through
ANSWERS: dict[str, bytes] = {
    "an accept key": UPGRADE + b"Sec-WebSocket-Accept: " + RAW + b"\r\n\r\n",
    "an upgrade": UPGRADE.replace(b": websocket", b": " + RAW) + b"\r\n",
    "a status": b"HTTP/1.1 500 " + RAW + b"\r\n\r\n",
    "a version": b"HTTP/9." + RAW + b" 200 OK\r\n\r\n",
    "a header": UPGRADE + RAW + b"\r\n\r\n",
    "a long header": UPGRADE + b"X: " + b"x" * 100_000 + b"\r\n\r\n",
    "an extension": UPGRADE + b"Sec-WebSocket-Extensions: " + RAW + b"\r\n\r\n",
    "no HTTP": RAW * 100,
}


@contextlib.asynccontextmanager
async def answering(answer: bytes) -> AsyncIterator[str]:
    handling: list[asyncio.Task[Any] | None] = []

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        handling.append(asyncio.current_task())
        with contextlib.suppress(ConnectionError, EOFError):
            await reader.readuntil(b"\r\n\r\n")
            writer.write(answer)
            await writer.drain()
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()

    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    async with server:
        yield f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    await asyncio.gather(*filter(None, handling))


@pytest.mark.parametrize("what", ANSWERS)
async def test_an_answer_of_something_that_is_no_node(what: str, capsys: pytest.CaptureFixture[str]) -> None:
    async with answering(ANSWERS[what]) as url:
        with pytest.raises(LinkError) as caught:
            await find_transport(url).connect(url, Limits(peer_timeout=3))
    assert all(right(line) for line in (str(caught.value), *terminal(caught.value, capsys)))
    assert len(str(caught.value)) < 600


@pytest.mark.parametrize("scheme", ["ws", "http"])
async def test_a_redirect_is_not_followed(scheme: str) -> None:
    """It could lead the coordinator into its own network, or end its run as if the plan were wrong."""
    connections = []
    server = await asyncio.start_server(lambda reader, writer: connections.append(writer), "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        answer = f"HTTP/1.1 302 Found\r\nLocation: {scheme}://127.0.0.1:{port}/\r\nContent-Length: 0\r\n\r\n"
        async with answering(answer.encode()) as url:
            with pytest.raises(Unreachable, match="HTTP 302"):
                await find_transport(url).connect(url, Limits(peer_timeout=3))
    assert connections == []


async def test_a_reason_to_close(capsys: pytest.CaptureFixture[str]) -> None:
    async def handle(socket: ServerConnection) -> None:
        await socket.close(4000, HOSTILE)

    async with serve(handle, "127.0.0.1", 0) as server:
        url = f"ws://127.0.0.1:{next(iter(server.sockets)).getsockname()[1]}"
        channel = await find_transport(url).connect(url, Limits())
        with pytest.raises(LinkError) as caught:
            await channel.receive()
        await channel.close()
    assert str(caught.value).isprintable() and all(right(line) for line in terminal(caught.value, capsys))
