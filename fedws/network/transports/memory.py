"""``memory://NAME``: links inside one process and one event loop, for tests, notebooks and simulations.

Messages are encoded and decoded as on a socket, so that nothing is shared that a wire would not carry.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator

from fedws.core.errors import LinkLost, ProtocolError, Unreachable, UsageError
from fedws.core.registry import register
from fedws.network.base import HANDSHAKE, Channel, Handler, Limits
from fedws.network.body_transfer import Transfers
from fedws.protocol import encoder
from fedws.protocol.close_codes import CloseCode, error_of
from fedws.protocol.messages import Message
from fedws.security.tls import Tls

_serving: dict[str, tuple[Handler, Limits, set[asyncio.Task[None]]]] = {}


class MemoryChannel:
    """One end of a link; see :class:`fedws.network.base.Channel`."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._inbox: asyncio.Queue[bytes | None] = asyncio.Queue()
        """Fragments; after each message an empty one, and None at the end of the link."""
        self._peer: MemoryChannel | None = None
        self._closed: LinkLost | None = None
        self._down = asyncio.Event()
        self._most = min(HANDSHAKE, limits.message)
        self.peer = self.address = ""
        self.sent = 0
        self.received = 0
        self.transfers = Transfers()

    @property
    def arriving(self) -> bool:
        """Whether a part of a message has come that is not whole."""
        return not self._inbox.empty()

    @classmethod
    def pair(cls, limits: Limits) -> tuple["MemoryChannel", "MemoryChannel"]:
        """Two ends of a new link."""
        near, far = cls(limits), cls(limits)
        near._peer, far._peer = far, near
        return near, far

    async def send(self, message: Message) -> None:
        """Send one message."""
        encoded = await self.transfers.encode(message)
        await self.send_raw([bytes(piece) for piece in encoded.fragments()])

    async def send_raw(self, pieces: list[bytes]) -> None:
        """Send any bytes as one message, as a hostile peer might."""
        for piece in [*filter(None, pieces), b""]:
            self.deliver(piece)
        await asyncio.sleep(0)

    def deliver(self, piece: bytes) -> None:
        """Hand one fragment over; raises LinkLost."""
        if self._closed is not None or self._peer is None:
            raise self._closed or LinkLost("closed")
        self._peer._inbox.put_nowait(piece)
        self.sent += len(piece)

    async def receive(self) -> Message:
        """The next message."""
        with self.transfers.decoding(self._most) as decoder:
            while piece := await self._next():
                if len(piece) > encoder.FRAGMENT:
                    raise ProtocolError(f"fragment of {len(piece)} bytes; at most {encoder.FRAGMENT}")
                decoder.feed(piece)
                self.received += len(piece)
        return await self.transfers.message(decoder)

    async def _next(self) -> bytes:
        piece = None if self._closed is not None and self._inbox.empty() else await self._inbox.get()
        if piece is None:
            raise self._closed or LinkLost("closed")
        return piece

    def admit(self) -> None:
        """Take messages of any size that the limits allow."""
        self._most = self._limits.message

    def protect(self, secret: bytes) -> None:
        """Nobody else is in this process."""

    async def close(self, reason: str = "", code: CloseCode = CloseCode.GIVEN_UP) -> None:
        """Close both ends."""
        for end in (self, self._peer):
            if end is not None and end._closed is None:
                end._closed = error_of(code if reason else CloseCode.DONE, reason or "closed")
                end._down.set()
                end._inbox.put_nowait(None)

    async def closed(self) -> None:
        """Wait until it is."""
        await self._down.wait()


@register("transport", "memory")
class Memory:
    """See :class:`fedws.network.base.Transport`."""

    private = True
    shared = False

    def check(self, url: str, tls: Tls | None = None, *, seal: bool = False) -> None:
        """Any name will do."""

    async def connect(
        self, url: str, limits: Limits, node: str = "", tls: Tls | None = None, *, seal: bool = False
    ) -> Channel:
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
    async def serve(
        self, url: str, handle: Handler, limits: Limits, tls: Tls | None = None, *, node: str = "", seal: bool = False
    ) -> AsyncIterator[str]:
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
