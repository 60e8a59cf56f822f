"""The proxy passes everything on until a test makes it hold, slow or cut."""

import asyncio
import contextlib
import struct
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from socket import SO_LINGER, SOL_SOCKET

import pytest

from tests.chaos.proxy import CHUNK, Proxy, Way
from tests.helpers.federation import PATIENCE

HELD = 0.1
"""Seconds during which held bytes must not arrive.

If they were too few, a test could miss a fault, but not fail without one.
"""


@dataclass
class Far:
    """A server behind a proxy that keeps what it reads, and its newest connection."""

    proxy: Proxy
    heard: bytearray = field(default_factory=bytearray)
    ended: list[BaseException | None] = field(default_factory=list)
    """How each connection ended; None for an orderly end."""
    writers: list[asyncio.StreamWriter] = field(default_factory=list)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.writers.append(writer)
        try:
            while data := await reader.read(CHUNK):
                self.heard += data
            self.ended.append(None)
        except ConnectionError as error:
            self.ended.append(error)
            writer.transport.abort()

    @contextlib.asynccontextmanager
    async def dialled(self) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
        reader, writer = await asyncio.open_connection("127.0.0.1", int(self.proxy.url.rpartition(":")[2]))
        try:
            yield reader, writer
        finally:
            writer.transport.abort()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()


@pytest.fixture
async def far() -> AsyncIterator[Far]:
    proxy = Proxy(0)
    served = Far(proxy)
    server = await asyncio.start_server(served.serve, "127.0.0.1", 0)
    proxy.port = server.sockets[0].getsockname()[1]
    async with asyncio.timeout(PATIENCE), proxy:
        yield served
    server.close()
    for writer in served.writers:
        writer.transport.abort()
    await server.wait_closed()


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(PATIENCE):
        while not condition():
            await asyncio.sleep(0.005)  # between two checks


def reset(writer: asyncio.StreamWriter) -> None:
    writer.get_extra_info("socket").setsockopt(SOL_SOCKET, SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


async def test_all_bytes_pass_both_ways(far: Far) -> None:
    sent = bytes(range(256)) * 4000
    async with far.dialled() as (reader, writer):
        writer.write(sent)
        await until(lambda: len(far.heard) == len(sent))
        far.writers[0].write(sent[::-1])
        assert await reader.readexactly(len(sent)) == sent[::-1]
    assert far.heard == sent
    assert far.proxy.passed == 2 * len(sent)


async def test_an_end_passes_as_an_end_and_the_other_way_stays_open(far: Far) -> None:
    async with far.dialled() as (reader, writer):
        writer.write(b"all")
        writer.write_eof()
        await until(lambda: far.ended == [None])
        far.writers[0].write(b"answer")
        far.writers[0].close()
        assert await reader.read() == b"answer"
    await until(lambda: far.proxy.links == 0)


async def test_a_reset_passes_as_a_reset(far: Far) -> None:
    async with far.dialled() as (reader, writer):
        writer.write(b"x")
        await until(lambda: far.heard)
        reset(writer)
        await until(lambda: far.ended)
        assert isinstance(far.ended[0], ConnectionResetError)
    async with far.dialled() as (reader, writer):
        writer.write(b"x")
        await until(lambda: len(far.writers) == 2)
        reset(far.writers[1])
        with pytest.raises(ConnectionResetError):
            await reader.read()


async def test_nobody_there_is_a_reset(far: Far) -> None:
    async with await asyncio.start_server(far.serve, "127.0.0.1", 0) as other:
        far.proxy.port = other.sockets[0].getsockname()[1]
    async with far.dialled() as (reader, _):
        with pytest.raises(ConnectionResetError):
            await reader.read()


@pytest.mark.parametrize(("ways", "free"), [(("there",), "back"), (("back",), "there"), (("there", "back"), None)])
async def test_what_is_held_comes_whole_when_released(far: Far, ways: tuple[Way, ...], free: Way | None) -> None:
    async with far.dialled() as (reader, writer):
        writer.write(b"1")
        await until(lambda: far.heard)
        far.proxy.hold(ways)
        writer.write(b"234")
        writer.write_eof()
        far.writers[0].write(b"answer")
        answer = asyncio.create_task(reader.readexactly(6))
        await until(lambda: free is None or (far.ended if free == "there" else answer.done()))
        await asyncio.sleep(HELD)
        assert bytes(far.heard) == (b"1234" if free == "there" else b"1")
        assert bool(far.ended) == (free == "there"), "the end is held too"
        assert answer.done() == (free == "back")
        far.proxy.release()
        assert await answer == b"answer"
        await until(lambda: far.ended)
        assert far.heard == b"1234"


async def test_who_comes_while_it_holds_is_heard_later(far: Far) -> None:
    far.proxy.hold()
    async with far.dialled() as (_, writer):
        writer.write(b"hello")
        await asyncio.sleep(HELD)
        assert far.heard == b""
        far.proxy.release()
        await until(lambda: bytes(far.heard) == b"hello")


async def test_a_slowed_link_takes_its_time(far: Far) -> None:
    far.proxy.rate = 10_000
    async with far.dialled() as (_, writer):
        began = time.monotonic()
        writer.write(bytes(3000))
        await until(lambda: len(far.heard) == 3000)
        assert time.monotonic() - began >= 0.29
        far.proxy.rate = 10
        writer.write(bytes(3000))
        await until(lambda: far.proxy.passed > 3000)
        assert len(far.heard) < 6000
        far.proxy.rate = float("inf")
        await until(lambda: len(far.heard) == 6000)


async def test_a_reset_cuts_both_sides(far: Far) -> None:
    async with far.dialled() as (reader, writer):
        writer.write(b"x")
        await until(lambda: far.heard)
        assert far.proxy.cut("rst") == 1
        with pytest.raises(ConnectionResetError):
            await reader.read()
        await until(lambda: far.ended)
        assert isinstance(far.ended[0], ConnectionResetError)
    assert far.proxy.cut("rst") == 0, "nothing is left to cut"


async def test_an_orderly_cut_ends_both_sides_and_drops_the_rest(far: Far) -> None:
    async with far.dialled() as (reader, writer):
        writer.write(b"x")
        await until(lambda: far.heard)
        assert far.proxy.cut("fin") == 1
        assert await reader.read() == b""
        await until(lambda: far.ended == [None])
        writer.write(b"more")
        writer.write_eof()
        far.writers[0].close()
        await until(lambda: not far.proxy._links)
        assert far.heard == b"x"


async def test_a_lost_link_tells_nobody(far: Far) -> None:
    async with far.dialled() as (_, writer):
        writer.write(b"x")
        await until(lambda: far.heard)
        assert far.proxy.lose() == 1
        writer.write(b"more")
        reset(writer)
        async with far.dialled() as (_, other):
            other.write(b"y")
            other.write_eof()
            await until(lambda: far.ended)
            assert far.ended == [None], "that is the second one"
        assert bytes(far.heard) == b"xy"


@pytest.mark.parametrize("how", ["rst", "fin"])
async def test_a_cut_comes_after_exactly_so_many_bytes(far: Far, how: str) -> None:
    burnt = far.proxy.cut_after(100_003, "rst" if how == "rst" else "fin")
    later = far.proxy.cut_after(100_005, "fin")
    async with far.dialled() as (reader, writer):
        writer.write(bytes(200_000))
        assert await burnt == 1
        await until(lambda: far.ended)
        assert far.proxy.passed == 100_003
        assert how == "rst" or len(far.heard) == 100_003, "a reset may overtake what was sent before it"
        with contextlib.suppress(ConnectionResetError):
            assert await reader.read() == b""
    async with far.dialled() as (_, writer):
        writer.write(b"12345")
        assert await later == 1
        await until(lambda: len(far.ended) == 2)
        assert far.heard.endswith(b"12") and far.proxy.passed == 100_005


async def test_everything_is_closed_at_its_end(far: Far) -> None:
    async with Proxy(far.proxy.port) as proxy:
        reader, writer = await asyncio.open_connection("127.0.0.1", int(proxy.url.rpartition(":")[2]))
        proxy.hold()
        proxy.rate = 1
        writer.write(bytes(100))
        await until(lambda: proxy.links)
    with contextlib.suppress(ConnectionError):
        assert await reader.read() == b""
    await until(lambda: far.ended)
    writer.transport.abort()
    with contextlib.suppress(ConnectionError):
        await writer.wait_closed()
