"""Every registered transport: limits of messages, and bytes that do not form a message."""

import asyncio
import contextlib
from collections.abc import Sequence
from itertools import product
from typing import Any

import pytest
import torch
import websockets

from fedws.core.errors import LinkLost, MessageRejected, MessageTooLarge, ProtocolError, TakenOver
from fedws.core.limits import MessageLimits
from fedws.network.base import Channel, Limits
from fedws.network.mqtt.channel import MqttChannel
from fedws.network.mqtt.frames import FrameKind
from fedws.network.transports.memory import MemoryChannel
from fedws.protocol.encoder import encode_message
from tests.helpers.transport_links import LIMITS, SCHEMES, dialled, echo, every, hello, linked, order, served
from tests.helpers.transport_links import broker as broker
from tests.helpers.transport_links import password as password
from tests.helpers.waiting import soon


async def raw(scheme: str, url: str, pieces: Sequence[bytes | str]) -> str:
    """Send any bytes as one message, in these fragments, past our own code; gives why the other end closed."""
    if scheme == "memory":
        channel = await dialled(scheme, url, LIMITS)
        assert isinstance(channel, MemoryChannel)
        await channel.send_raw([piece.encode() if isinstance(piece, str) else piece for piece in pieces])
        with pytest.raises(LinkLost) as lost:
            await soon(channel.receive())
        return str(lost.value)
    if scheme == "mqtt":
        channel = await dialled(scheme, url, LIMITS)
        assert isinstance(channel, MqttChannel)
        parts = [piece.encode() if isinstance(piece, str) else piece for piece in pieces]
        for number, part in enumerate(parts, 1):
            while not channel._endpoint.can_send:
                await asyncio.sleep(0)
            channel._send_frame(FrameKind.END if number == len(parts) else FrameKind.DATA, part)
        with pytest.raises(LinkLost) as lost:
            await soon(channel.receive())
        await channel.close()
        return str(lost.value)
    async with websockets.connect(url, compression=None, proxy=None, max_size=None) as socket:
        with contextlib.suppress(websockets.ConnectionClosed):  # the other end may close before it has sent all
            await socket.send(list(pieces) if isinstance(pieces[0], bytes) else str(pieces[0]))
        await soon(socket.wait_closed())
        return socket.close_reason or ""


@every
async def test_a_message_above_the_limit_is_not_sent(scheme: str) -> None:
    async with linked(scheme, LIMITS, theirs=Limits(max_message_bytes=4096)) as (near, far):
        near.transfers.set_peer_limits(MessageLimits(4096, peer="bob"))  # as the handshake does
        with pytest.raises(MessageTooLarge, match="bytes, which exceeds bob's limit of 4,096 bytes"):
            await near.send(order(w=torch.ones(2000)))
        await near.send(hello())
        assert await soon(far.receive()) == hello(), "and nothing of it was"


@every
async def test_a_message_above_the_receivers_limit_is_refused(scheme: str) -> None:
    async with linked(scheme, LIMITS, theirs=Limits(max_message_bytes=4096)) as (near, far):
        with contextlib.suppress(LinkLost):
            await near.send(order(w=torch.ones(2000)))
        with pytest.raises(ProtocolError, match=r"bytes.* 4096"):
            await soon(far.receive())


HELLO = b"".join(bytes(piece) for piece in encode_message(hello()).fragments())
HOSTILE: dict[str, list[bytes | str]] = {
    "noise": [b"\0\1\2\3" * 10],
    "text": ["hello"],
    "nothing": [b""],
    "HTTP": [b"GET / HTTP/1.1\r\n\r\n"],
    "a message cut short": [HELLO[:-1]],
    "a message with more behind": [HELLO, b"more"],
    "two messages in one": [HELLO, HELLO],
    "another version": [HELLO[:4] + b"\2" + HELLO[5:]],
    "a header too long": [HELLO[:8] + b"\xff\xff\xff\xff" + HELLO[12:]],
    "a message in one fragment too long": [b"".join(encode_message(order(w=torch.ones(2**19))).fragments())],
    "many fragments of nothing": [b""] * 50,
}
UNSENT = {("mqtt", "a message in one fragment too long")}
"""A broker keeps from us packets that are larger than we take."""


@pytest.mark.parametrize(("scheme", "what"), [pair for pair in product(SCHEMES, HOSTILE) if pair not in UNSENT])
async def test_bytes_that_are_no_message_are_refused_and_others_are_served(scheme: str, what: str) -> None:
    raised: asyncio.Queue[Exception] = asyncio.Queue()

    async def handle(channel: Channel) -> None:
        try:
            await echo(channel)
        except Exception as error:
            raised.put_nowait(error)
            await channel.close(str(error))

    async with served(scheme, handle, LIMITS) as url:
        before = await soon(dialled(scheme, url, LIMITS))
        reason = await soon(raw(scheme, url, HOSTILE[what]))
        error = await soon(raised.get())
        assert isinstance(error, ProtocolError)
        assert str(error).startswith(reason) and reason
        for channel in (before, await soon(dialled(scheme, url, LIMITS))):
            await channel.send(hello())
            assert await soon(channel.receive()) == hello()
            await channel.close()
        assert raised.empty()


@every
async def test_a_message_in_small_pieces_is_a_message(scheme: str) -> None:
    found: asyncio.Queue[Any] = asyncio.Queue()

    async def handle(channel: Channel) -> None:
        found.put_nowait(await channel.receive())

    async with served(scheme, handle, LIMITS) as url:
        pieces = [HELLO[start : start + 7] for start in range(0, len(HELLO), 7)]
        await soon(raw(scheme, url, pieces))
        assert await soon(found.get()) == hello()


@pytest.mark.parametrize("code", [1002, 1009, 1011, 4000, 4001, 4002])
async def test_a_peer_that_finds_fault_with_us_is_lost_and_not_at_fault(code: int) -> None:
    raised: asyncio.Queue[Exception] = asyncio.Queue()

    async def handle(channel: Channel) -> None:
        try:
            await channel.receive()
        except Exception as error:
            raised.put_nowait(error)

    async with served("ws", handle, LIMITS) as url:
        async with websockets.connect(url, compression=None, proxy=None) as socket:
            await socket.close(code, "what was that")
        error = await soon(raised.get())
    kinds = {1002: MessageRejected, 1009: MessageRejected, 4001: TakenOver, 4002: MessageRejected}
    assert type(error) is kinds.get(code, LinkLost) and str(error) == "what was that"
