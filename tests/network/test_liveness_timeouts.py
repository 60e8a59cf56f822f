"""Websocket links that are given up: slow messages, stopped peers, and links that do not close."""

import asyncio
import contextlib
import itertools
import re
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest
from websockets.asyncio.client import connect

from fedws.core.errors import LinkError, LinkLost
from fedws.network.base import Channel, Limits
from fedws.network.transports.ws import WebSocketTransport
from fedws.network.websocket.channel import WebSocketChannel
from tests.helpers.waiting import soon
from tests.helpers.websocket_links import HELLO, both_sides, opposite, order, pieces

CLOSING = Limits(peer_timeout=3, ping_interval=1000)
"""Without pings, which would notice too when a link does not close, but later."""


async def lost(what: Any) -> str:
    """Why the link was lost."""
    with pytest.raises(LinkError) as caught:
        await soon(what)
    assert type(caught.value) is LinkLost
    return str(caught.value)


@both_sides
@pytest.mark.parametrize("where", ["in a frame", "between frames"])
async def test_who_dawdles_over_a_message_is_given_up_and_told(side: str, where: str) -> None:
    async with opposite(side) as (ours, peer):
        waiting = asyncio.create_task(ours.receive())

        async def dawdle() -> None:
            if where == "in a frame":
                mask = 0x80 if side == "dialled" else 0
                peer.transport.write(bytes([0x02, 127 | mask]) + (2**20).to_bytes(8) + bytes(4 if mask else 0))
                while True:
                    peer.transport.write(b"FDWS")
                    await asyncio.sleep(0.02)  # dawdles
            for number in itertools.count():
                await peer.ping(number.to_bytes(100))  # more bytes than a message would need
                await asyncio.sleep(0.02)  # dawdles

        async def begun() -> AsyncIterator[bytes]:
            yield pieces(2**20, 2**17)[0]  # a good start does not help
            await dawdle()

        doing = asyncio.create_task(dawdle() if where == "in a frame" else peer.send(begun()))
        try:
            assert (await lost(waiting)).startswith("too slow: ")
            await soon(peer.wait_closed())
            assert peer.close_code == 4000
            assert re.fullmatch(r"given up: too slow: \d+ bytes of a message in 0\.6 s", peer.close_reason or "")
        finally:
            doing.cancel()
            await asyncio.gather(doing, return_exceptions=True)


@both_sides
@pytest.mark.parametrize("when", ["idle", "while we send", "within its message"])
async def test_a_peer_that_is_stopped_is_given_up(side: str, when: str) -> None:
    """Its system still acknowledges what we send, until its memory for it is full."""
    async with opposite(side) as (ours, peer):
        peer.transport.pause_reading()
        if when == "while we send":
            assert await lost(ours.send(order(32 * 2**20))) == "silent for 0.6 s"
        elif when == "within its message":
            peer.transport.write(bytes([0x02, 126 | (0x80 if side == "dialled" else 0), 255, 255]) + bytes(1000))
        assert await lost(ours.receive()) == "silent for 0.6 s"
        assert await lost(ours.send(HELLO)) == "silent for 0.6 s"


async def send_until_blocked(channel: WebSocketChannel) -> asyncio.Task[None]:
    """Return the task that sends a message to a stopped peer, once it waits for the peer."""
    channel.mark_authenticated()  # otherwise the time limit of the handshake may end the link first
    sending = asyncio.create_task(channel.send(order(32 * 2**20)))
    while not channel._connection.paused:
        assert not sending.done(), sending
        await asyncio.sleep(0.01)
    return sending


@both_sides
@pytest.mark.parametrize("when", ["idle", "while we send"])
async def test_a_link_to_a_stopped_peer_can_be_closed(side: str, when: str) -> None:
    """In a sixth of the silence, whatever there is still to send."""
    async with opposite(side, CLOSING) as (ours, peer):
        peer.transport.pause_reading()
        if when == "while we send":
            sending = await send_until_blocked(ours)
        before = time.monotonic()
        await soon(ours.close("enough"))
        if when == "while we send":
            await lost(sending)
        assert time.monotonic() - before < 2
        await lost(ours.receive())


async def test_a_node_can_end_while_it_sends_to_a_stopped_peer() -> None:
    blocked = asyncio.Event()

    async def handle(channel: Channel) -> None:
        assert isinstance(channel, WebSocketChannel)
        sending = await send_until_blocked(channel)
        blocked.set()
        with contextlib.suppress(LinkLost):
            await sending

    async with contextlib.AsyncExitStack() as stack:
        url = await stack.enter_async_context(WebSocketTransport().serve("ws://localhost:0", handle, CLOSING))
        peer = await connect(url, compression=None, proxy=None, ping_interval=None)
        peer.transport.pause_reading()
        await soon(blocked.wait())
        await soon(stack.aclose())
        peer.transport.abort()
