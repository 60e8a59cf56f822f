"""Websocket links that stay open: slow transfers, idle links, and a process that stands still."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator

from websockets.asyncio.client import ClientConnection, connect
from websockets.frames import Frame, Opcode
from websockets.protocol import Event

from fedws.network.base import Channel, Limits
from fedws.network.liveness import MIN_BYTES_PER_SECOND
from fedws.network.transports.ws import WebSocketTransport
from fedws.protocol.encoder import encode_message
from tests.helpers.federation import Proxy
from tests.helpers.waiting import soon
from tests.helpers.websocket_links import HELLO, LIMITS, both_sides, opposite, order, pieces


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
        await asyncio.sleep(LIMITS.peer_timeout / 2)  # time for a wrong time-out
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
