"""Links inside one process and one event loop (``memory://NAME``), for tests, notebooks and simulations.

Messages are encoded and decoded as on a socket, so that the two ends share no objects.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator

from fedws.core.errors import LinkLost, ProtocolError, Unreachable, UsageError
from fedws.core.registry import register
from fedws.network.base import MAX_HANDSHAKE_MESSAGE_BYTES, Channel, Handler, Limits
from fedws.network.body_transfer import BodyTransfers
from fedws.protocol import encoder
from fedws.protocol.close_codes import CloseCode, to_link_error
from fedws.protocol.messages import Message
from fedws.security.tls import TlsConfig

_listeners: dict[str, tuple[Handler, Limits, set[asyncio.Task[None]]]] = {}


class MemoryChannel:
    """One end of a link in memory; see ``fedws.network.base.Channel``."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._inbox: asyncio.Queue[bytes | None] = asyncio.Queue()
        """Queue of fragments, with an empty one after each message and None at the end of the link."""
        self._peer: MemoryChannel | None = None
        self._close_error: LinkLost | None = None
        self._closed_event = asyncio.Event()
        self._max_message_bytes = min(MAX_HANDSHAKE_MESSAGE_BYTES, limits.max_message_bytes)
        self.peer = self.address = self.encryption = ""
        self.bytes_sent = 0
        self.bytes_received = 0
        self.transfers = BodyTransfers()

    @property
    def is_receiving(self) -> bool:
        """True if a message has been received in part."""
        return not self._inbox.empty()

    @classmethod
    def create_pair(cls, limits: Limits) -> tuple["MemoryChannel", "MemoryChannel"]:
        """Return the two ends of a new link."""
        near, far = cls(limits), cls(limits)
        near._peer, far._peer = far, near
        return near, far

    async def send(self, message: Message) -> None:
        """Send one message."""
        encoded = await self.transfers.encode(message)
        await self.send_raw([bytes(piece) for piece in encoded.fragments()])

    async def send_raw(self, fragments: list[bytes]) -> None:
        """Send ``fragments`` as one message without encoding. Tests imitate a hostile peer with it."""
        for piece in [*filter(None, fragments), b""]:
            self.deliver(piece)
        await asyncio.sleep(0)

    def deliver(self, fragment: bytes) -> None:
        """Deliver one fragment to the other end. Raise LinkLost if the link is closed."""
        if self._close_error is not None or self._peer is None:
            raise self._close_error or LinkLost("closed")
        self._peer._inbox.put_nowait(fragment)
        self.bytes_sent += len(fragment)

    async def receive(self) -> Message:
        """Return the next message."""
        with self.transfers.open_decoder(self._max_message_bytes) as decoder:
            while piece := await self._next_fragment():
                if len(piece) > encoder.FRAGMENT_BYTES:
                    raise ProtocolError(
                        f"fragment of {len(piece)} bytes exceeds the limit of {encoder.FRAGMENT_BYTES} bytes"
                    )
                decoder.feed(piece)
                self.bytes_received += len(piece)
        return await self.transfers.read_message(decoder)

    async def _next_fragment(self) -> bytes:
        piece = None if self._close_error is not None and self._inbox.empty() else await self._inbox.get()
        if piece is None:
            raise self._close_error or LinkLost("closed")
        return piece

    def mark_authenticated(self) -> None:
        """Accept messages up to ``Limits.max_message_bytes``."""
        self._max_message_bytes = self._limits.max_message_bytes

    def set_session_key(self, session_key: bytes) -> None:
        """Do nothing, since a link inside one process needs no protection."""

    async def close(self, reason: str = "", code: CloseCode = CloseCode.APPLICATION_ERROR) -> None:
        """Close both ends."""
        for end in (self, self._peer):
            if end is not None and end._close_error is None:
                end._close_error = to_link_error(code if reason else CloseCode.NORMAL_CLOSURE, reason or "closed")
                end._closed_event.set()
                end._inbox.put_nowait(None)

    async def wait_closed(self) -> None:
        """Wait until the link is closed."""
        await self._closed_event.wait()


@register("transport", "memory")
class MemoryTransport:
    """A transport inside one process; see ``fedws.network.base.Transport``."""

    in_process = True
    brokered = False

    def check_url(
        self, url: str, tls: TlsConfig | None = None, *, encrypt_payloads: bool = False, is_listening: bool = False
    ) -> None:
        """Accept any name."""

    async def connect(
        self, url: str, limits: Limits, node: str = "", tls: TlsConfig | None = None, *, encrypt_payloads: bool = False
    ) -> Channel:
        """Connect to a name that is served in this process. Raise Unreachable if it is not served."""
        if url not in _listeners:
            raise Unreachable(f"no node serves {url}")
        handle, listener_limits, tasks = _listeners[url]
        near, far = MemoryChannel.create_pair(limits)
        far._limits = listener_limits

        async def serve() -> None:
            reason = "the node ends"  # the reason if this task is cancelled before the handler returns
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
        self,
        url: str,
        handle: Handler,
        limits: Limits,
        tls: TlsConfig | None = None,
        *,
        node: str = "",
        encrypt_payloads: bool = False,
    ) -> AsyncIterator[str]:
        """Serve a name while the context is open. Raise UsageError if the name is already served."""
        if url in _listeners:
            raise UsageError(f"{url} is already in use; choose another name")
        tasks: set[asyncio.Task[None]] = set()
        _listeners[url] = handle, limits, tasks
        try:
            yield url
        finally:
            del _listeners[url]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
