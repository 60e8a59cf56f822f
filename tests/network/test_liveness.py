"""When a link is given up: not for being slow or idle, but for silence, for dawdling, and when it will not close."""

import asyncio
import contextlib
import itertools
import re
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest
import torch
from websockets.asyncio.client import ClientConnection, connect
from websockets.asyncio.connection import Connection
from websockets.asyncio.server import serve
from websockets.frames import Frame, Opcode
from websockets.protocol import Event

from fedws.core.errors import LinkError, LinkLost
from fedws.network.base import Channel, Limits
from fedws.network.liveness import MIN_BYTES_PER_SECOND
from fedws.network.transports.ws import WebSocketTransport
from fedws.network.websocket.channel import WebSocketChannel
from fedws.protocol.encoder import encode_message
from fedws.protocol.messages import Hello, TaskRequest
from tests.helpers.federation import PATIENCE, PatientLimits, Proxy

LIMITS = PatientLimits(peer_timeout=0.6)
"""A message must bring 614 bytes in 0.6 s, and pings go every 0.2 s. Tests sleep longer, which a link must outlast."""
CLOSING = Limits(peer_timeout=3, ping_interval=1000)
"""Without pings, which would notice too when a link does not close, but later."""
HELLO = Hello(run="r", node="alice", protocol=1)
both_sides = pytest.mark.parametrize("side", ["dialled", "dialler"])


def order(size: int) -> TaskRequest:
    """An order of about so many bytes."""
    return TaskRequest(request_id="1", worker="alice", round=1, task="t", tensors={"w": torch.arange(size // 8)})


def pieces(size: int, length: int) -> list[bytes]:
    """An order's bytes, cut."""
    data = b"".join(bytes(piece) for piece in encode_message(order(size)).fragments())
    return [data[start : start + length] for start in range(0, len(data), length)]


async def soon(what: Any) -> Any:
    """A result that comes, or never."""
    async with asyncio.timeout(PATIENCE):
        return await what


@contextlib.asynccontextmanager
async def linked(limits: Limits, proxy: type[Proxy] | None = None) -> AsyncIterator[tuple[Channel, Channel]]:
    """Both ends of a link, the dialler's first."""
    arrived: asyncio.Queue[Channel] = asyncio.Queue()
    done = asyncio.Event()

    async def handle(channel: Channel) -> None:
        arrived.put_nowait(channel)
        await done.wait()

    async with (
        WebSocketTransport().serve("ws://localhost:0", handle, limits) as url,
        contextlib.AsyncExitStack() as stack,
    ):
        if proxy is not None:
            url = (await stack.enter_async_context(proxy(url))).url
        near = await soon(WebSocketTransport().connect(url, limits))
        far = await soon(arrived.get())
        near.mark_authenticated()
        far.mark_authenticated()
        try:
            yield near, far
        finally:
            done.set()
            await near.close()


@contextlib.asynccontextmanager
async def opposite(side: str, limits: Limits = LIMITS) -> AsyncIterator[tuple[WebSocketChannel, Connection]]:
    """Our end of a link, dialled or dialler, and at its other end a plain websocket that sends no pings of its own."""
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


async def lost(what: Any) -> str:
    """Why the link was lost."""
    with pytest.raises(LinkError) as caught:
        await soon(what)
    assert type(caught.value) is LinkLost
    return str(caught.value)


# --------------------------------------------------------------------------- slow, but going on


class Slow(Proxy):
    """Passes on 24 KiB a second each way, whatever it is; a ping waits behind what was sent before it."""

    async def _pipe(self, source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
        try:
            while data := await source.read(512):
                await asyncio.sleep(len(data) / (24 * MIN_BYTES_PER_SECOND))  # what a line of that rate takes
                target.write(data)
                await target.drain()
        except ConnectionError:
            pass
        finally:  # also where the test ends before all has passed
            target.close()


@both_sides
async def test_a_transfer_may_take_any_time_while_it_goes_on(side: str) -> None:
    """More than twice the silence, in which no ping gets past it."""
    async with linked(LIMITS, Slow) as (near, far):
        sender, receiver = (near, far) if side == "dialled" else (far, near)
        before = time.monotonic()
        await sender.send(order(36 * 1024))
        assert len((await soon(receiver.receive())).tensors["w"]) == 36 * 128
        assert time.monotonic() - before > 2 * LIMITS.peer_timeout
        await receiver.send(HELLO)
        assert await soon(sender.receive()) == HELLO


async def test_an_idle_link_is_kept_by_its_heartbeats() -> None:
    async with linked(LIMITS) as (near, far):
        waiting = asyncio.create_task(far.receive())
        await asyncio.sleep(2.5 * LIMITS.peer_timeout)
        await near.send(HELLO)
        assert await soon(waiting) == HELLO


@both_sides
async def test_pongs_are_a_sign_of_life_too(side: str) -> None:
    """Of a peer that answers pings and sends none."""
    async with opposite(side) as (ours, peer):
        await asyncio.sleep(2 * LIMITS.peer_timeout)
        await ours.send(HELLO)
        assert await soon(peer.recv())


async def test_heartbeats_come_as_often_as_asked() -> None:
    beats = asyncio.Queue[bytes]()

    class Listener(ClientConnection):
        def process_event(self, event: Event) -> None:
            if isinstance(event, Frame) and event.opcode is Opcode.PING:
                beats.put_nowait(bytes(event.data))
            super().process_event(event)

    async def handle(channel: Channel) -> None:
        await channel.receive()

    async with (
        WebSocketTransport().serve("ws://localhost:0", handle, Limits(ping_interval=0.05)) as url,
        connect(url, compression=None, proxy=None, ping_interval=None, create_connection=Listener),
    ):
        assert len({await soon(beats.get()) for _ in range(3)}) == 3


async def test_nobody_is_blamed_while_this_process_stands_still() -> None:
    async with linked(LIMITS) as (near, far):
        await near.send(HELLO)
        assert await soon(far.receive()) == HELLO
        time.sleep(2 * LIMITS.peer_timeout)  # stands still
        await asyncio.sleep(LIMITS.peer_timeout / 2)  # time to blame somebody
        await near.send(HELLO)
        assert await soon(far.receive()) == HELLO


@both_sides
async def test_nobody_is_blamed_for_what_is_left_unread_here(side: str) -> None:
    """Orders that came early stay with the network while the node trains, and pings behind them."""
    async with opposite(side) as (ours, peer):
        sending = asyncio.create_task(peer.send(pieces(24 * 2**20, 2**20)))
        await asyncio.sleep(2 * LIMITS.peer_timeout)
        assert not sending.done(), "more than the network holds"
        assert len((await soon(ours.receive())).tensors["w"]) == 3 * 2**20
        await soon(sending)


async def test_messages_may_be_small_and_far_between() -> None:
    """Each is soon complete; only together they are fewer than 1 KiB a second."""
    (hello,) = encode_message(HELLO).fragments()
    middle = len(hello) // 2
    assert len(hello) - middle < 126, "so that one byte holds a frame's length"
    halves = (0x02, hello[:middle]), (0x80, hello[middle:])
    first, last = (bytes([head, len(half), *half]) for head, half in halves)
    async with opposite("dialler") as (ours, peer):
        peer.transport.write(first)
        for _ in range(9):
            await asyncio.sleep(0.15)  # far between
            peer.transport.write(last + first)
            assert await soon(ours.receive()) == HELLO


# --------------------------------------------------------------------------- given up


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


@both_sides
@pytest.mark.parametrize("when", ["idle", "while we send"])
async def test_a_link_to_a_stopped_peer_can_be_closed(side: str, when: str) -> None:
    """In a sixth of the silence, whatever there is still to send."""
    async with opposite(side, CLOSING) as (ours, peer):
        peer.transport.pause_reading()
        before = time.monotonic()
        if when == "while we send":
            sending = asyncio.create_task(ours.send(order(32 * 2**20)))
            while not ours._connection.paused:
                await asyncio.sleep(0)
        await soon(ours.close("enough"))
        if when == "while we send":
            await lost(sending)
        assert time.monotonic() - before < 2
        await lost(ours.receive())


async def test_a_node_can_end_while_it_sends_to_a_stopped_peer() -> None:
    blocked = asyncio.Event()

    async def handle(channel: Channel) -> None:
        assert isinstance(channel, WebSocketChannel)
        sending = asyncio.create_task(channel.send(order(32 * 2**20)))
        while not channel._connection.paused:
            await asyncio.sleep(0)
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
