"""A proxy between a node and its callers that holds, slows or cuts their connections on request.

It passes a reset of one side on as a reset, and an orderly end as an orderly end. A program therefore observes the same
as without the proxy.
"""

import asyncio
import contextlib
import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from socket import SO_LINGER, SOL_SOCKET
from typing import Literal

Way = Literal["there", "back"]
"""Directions of bytes: to the node, and from it."""
Cut = Literal["rst", "fin"]
WAYS: tuple[Way, ...] = ("there", "back")
CHUNK = 2**16
STEP = 0.05
"""Seconds between two pieces of a throttled link."""


@dataclass(eq=False)
class _Link:
    """One connection through the proxy, with its ends at the coordinator and at the node."""

    near: asyncio.StreamWriter
    far: asyncio.StreamWriter
    over: bool = False
    """True if the link is cut or lost; bytes that still arrive are dropped."""

    def cut(self, how: Cut) -> None:
        self.over = True
        for writer in (self.near, self.far):
            if how == "rst":
                with contextlib.suppress(OSError):  # it is closed already
                    writer.get_extra_info("socket").setsockopt(SOL_SOCKET, SO_LINGER, struct.pack("ii", 1, 0))
                writer.transport.abort()
            elif not writer.transport.is_closing():
                with contextlib.suppress(
                    OSError
                ):  # the other end has reset it, which the event loop has not processed yet
                    writer.write_eof()


@dataclass(eq=False)
class _Fuse:
    bytes: int
    how: Cut
    burnt: asyncio.Future[int]


@dataclass
class Proxy:
    """A listener at ``url`` that connects each caller to ``port``, while its context lasts."""

    port: int
    """Port of the node."""
    rate: float = float("inf")
    """Rate in bytes per second and direction."""
    passed: int = 0
    """Number of bytes passed so far, in both directions."""
    _open: dict[Way, asyncio.Event] = field(default_factory=lambda: {way: asyncio.Event() for way in WAYS})
    _links: set[_Link] = field(default_factory=set)
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)
    _fuses: list[_Fuse] = field(default_factory=list)

    async def __aenter__(self) -> "Proxy":
        self.release()
        self._server = await asyncio.start_server(self._connected, "127.0.0.1", 0)
        self.url = f"ws://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._server.wait_closed()

    @property
    def links(self) -> int:
        """Number of connections that pass bytes."""
        return sum(not link.over for link in self._links)

    def hold(self, ways: Sequence[Way] = WAYS) -> None:
        """Hold all bytes and ends of connections from now on, without a notice to either side."""
        for way in ways:
            self._open[way].clear()

    def release(self, ways: Sequence[Way] = WAYS) -> None:
        """Pass everything on, beginning with what was held."""
        for way in ways:
            self._open[way].set()

    def cut(self, how: Cut) -> int:
        """Cut every link now, by a reset or by an orderly end; return the number of links."""
        links = [link for link in self._links if not link.over]
        for link in links:
            link.cut(how)
        return len(links)

    def lose(self) -> int:
        """Pass nothing on over the existing links, as if a machine had failed; neither side gets a notice."""
        links = [link for link in self._links if not link.over]
        for link in links:
            link.over = True
        return len(links)

    def cut_after(self, num_bytes: int, how: Cut) -> asyncio.Future[int]:
        """Cut after exactly so many more bytes; the future has the number of links."""
        self._fuses.append(_Fuse(num_bytes, how, asyncio.get_running_loop().create_future()))
        return self._fuses[-1].burnt

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        writers = [writer]
        try:
            far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self.port)
            writers.append(far_writer)
            link = _Link(writer, far_writer)
            self._links.add(link)
            try:
                async with asyncio.TaskGroup() as pipes:
                    pipes.create_task(self._pipe(link, "there", reader, far_writer))
                    pipes.create_task(self._pipe(link, "back", far_reader, writer))
            finally:
                self._links.discard(link)
        except OSError:  # nothing listens there, so the caller gets a reset as from a closed port
            _Link(writer, writer).cut("rst")
        except asyncio.CancelledError:  # the proxy ends
            pass
        finally:
            for each in writers:
                each.transport.abort()
            for each in writers:
                with contextlib.suppress(OSError):
                    await each.wait_closed()
            self._tasks.discard(task)

    async def _pipe(self, link: _Link, way: Way, source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
        try:
            while data := await source.read(CHUNK):
                rest = memoryview(data)
                while rest and not link.over:
                    rest = rest[await self._pass(link, way, rest, target) :]
            await self._open[way].wait()
            if not link.over:
                target.write_eof()
        except OSError:  # one side has reset it
            if not link.over:
                link.cut("rst")

    async def _pass(self, link: _Link, way: Way, data: memoryview, target: asyncio.StreamWriter) -> int:
        """Pass on a piece, as large as the rate allows; return its size."""
        most = [len(data), *(fuse.bytes for fuse in self._fuses)]
        if self.rate != float("inf"):
            most.append(int(self.rate * STEP))
        size = max(1, min(most))
        await asyncio.sleep(size / self.rate)  # the time that a line of that rate needs
        await self._open[way].wait()
        if link.over:
            return size
        target.write(data[:size])
        await target.drain()
        self.passed += size
        for fuse in list(self._fuses):
            fuse.bytes -= size
            if fuse.bytes <= 0:
                self._fuses.remove(fuse)
                cut = self.cut(fuse.how)
                if not fuse.burnt.done():
                    fuse.burnt.set_result(cut)
        return size
