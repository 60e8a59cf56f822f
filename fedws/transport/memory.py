"""``memory://NAME``: links inside one process and one event loop, for tests, notebooks and simulations.

Messages are encoded and decoded as on a socket, so that nothing is shared that a wire would not carry.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator

from fedws import wire
from fedws.errors import LinkLost, ProtocolError, Unreachable, UsageError
from fedws.interfaces import HANDSHAKE, Channel, Handler, Limits
from fedws.messages import Message
from fedws.registry import register
from fedws.tls import Tls

_serving: dict[str, tuple[Handler, Limits, set[asyncio.Task[None]]]] = {}


class MemoryChannel:
    """One end of a link; see :class:`fedws.interfaces.Channel`."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._inbox: asyncio.Queue[list[bytes] | None] = asyncio.Queue()
        self._peer: MemoryChannel | None = None
        self._closed = ""
        self._most = min(HANDSHAKE, limits.message)
        self.peer = self.address = ""
        self.sent = 0
        self.received = 0

    @classmethod
    def pair(cls, limits: Limits) -> tuple["MemoryChannel", "MemoryChannel"]:
        """Two ends of a new link."""
        near, far = cls(limits), cls(limits)
        near._peer, far._peer = far, near
        return near, far

    async def send(self, message: Message) -> None:
        """Send one message."""
        encoded = wire.encode(message, self._limits.message)
        await self.send_raw([bytes(piece) for piece in encoded.fragments()])

    async def send_raw(self, pieces: list[bytes]) -> None:
        """Send any bytes as one message, as a hostile peer might."""
        if self._closed or self._peer is None:
            raise LinkLost(self._closed or "closed")
        self._peer._inbox.put_nowait(pieces)
        self.sent += sum(map(len, pieces))
        await asyncio.sleep(0)

    async def receive(self) -> Message:
        """The next message."""
        pieces = None if self._closed and self._inbox.empty() else await self._inbox.get()
        if pieces is None:
            raise LinkLost(self._closed or "closed")
        decoder = wire.Decoder(self._most)
        for piece in pieces:
            if len(piece) > wire.FRAGMENT:
                raise ProtocolError(f"fragment of {len(piece)} bytes; at most {wire.FRAGMENT}")
            decoder.feed(piece)
            self.received += len(piece)
        return decoder.message()

    def admit(self) -> None:
        """Take messages of any size that the limits allow."""
        self._most = self._limits.message

    async def close(self, reason: str = "") -> None:
        """Close both ends."""
        for end in (self, self._peer):
            if end is not None and not end._closed:
                end._closed = reason or "closed"
                end._inbox.put_nowait(None)


@register("transport", "memory")
class Memory:
    """See :class:`fedws.interfaces.Transport`."""

    private = True

    def check(self, url: str, tls: Tls | None = None) -> None:
        """Any name will do."""

    async def connect(self, url: str, limits: Limits, node: str = "", tls: Tls | None = None) -> Channel:
        """Dial a name that is served in this process. Raises Unreachable."""
        if url not in _serving:
            raise Unreachable(f"nobody serves {url}")
        handle, theirs, tasks = _serving[url]
        near, far = MemoryChannel.pair(limits)
        far._limits = theirs

        async def serve() -> None:
            reason = "the node ends"  # as long as the handler has not returned
            try:
                await handle(far)
                reason = ""
            except Exception:
                reason = "an error in the node"
                raise
            finally:
                await far.close(reason)

        task = asyncio.create_task(serve())
        tasks.add(task)
        task.add_done_callback(tasks.discard)
        return near

    @contextlib.asynccontextmanager
    async def serve(self, url: str, handle: Handler, limits: Limits, tls: Tls | None = None) -> AsyncIterator[str]:
        """Serve a name. Raises UsageError when it is taken."""
        if url in _serving:
            raise UsageError(f"{url} is being served already")
        tasks: set[asyncio.Task[None]] = set()
        _serving[url] = handle, limits, tasks
        try:
            yield url
        finally:
            del _serving[url]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
