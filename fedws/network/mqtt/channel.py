"""One link over a broker: messages to frames and back, whoever else is on the broker."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass

from fedws.core.errors import LinkError, LinkLost, ProtocolError, Refused
from fedws.network.base import HANDSHAKE, Limits
from fedws.network.body_transfer import Transfers
from fedws.network.liveness import LOOKS, Vigil
from fedws.network.mqtt.encryption import Piece
from fedws.network.mqtt.endpoint import End, News
from fedws.network.mqtt.flow_control import Part
from fedws.network.mqtt.frames import Kind, Level
from fedws.protocol import encoder
from fedws.protocol.close_codes import CloseCode, code_of, error_of
from fedws.protocol.messages import Message

MOST_BEFORE = 2 * HANDSHAKE
"""Bytes that are taken from somebody who has proved nothing: a hello and a proof, in any frames."""
MOST_FRAMES = 32
"""Frames, likewise; but for signs of life."""
_BEAT = bytes([Kind.BEAT])
_MAX_REASON = 123  # bytes, as on a websocket
_CODES = (CloseCode.GIVEN_UP, CloseCode.NOT_TAKEN, CloseCode.TAKEN_OVER)  # by the first byte of a CLOSE


async def _nothing() -> None:
    pass


@dataclass(frozen=True)
class Road:
    """What the frames of a link go out on."""

    post: Callable[[bytes | bytearray, bool], int]
    """Publish a frame, surely or as it may be; gives the bytes of the packet. Raises LinkLost."""
    packet: Callable[[int], int]
    """Bytes of a packet that brings a frame of so many."""
    chunk: int
    """Bytes of a message in one frame, at most."""
    complain: Callable[[str], object]
    """Say that something was dropped which was not the other end's."""
    admitted: Callable[[], None] = lambda: None
    closing: Callable[[], None] = lambda: None
    """Called before a link that was admitted waits for the other end to close it too."""
    release: Callable[[], Awaitable[None]] = _nothing
    """Called once the link has ended."""


class MqttChannel:
    """See :class:`fedws.network.base.Channel`. Bytes are counted with the packets' headers, without signs of life."""

    def __init__(self, end: End, road: Road, limits: Limits) -> None:
        self._end = end
        self._road = road
        self._limits = limits
        self._most = min(HANDSHAKE, limits.message)
        self._before: tuple[int, int] | None = (0, 0)  # frames and bytes, until they are admitted
        self._lost: LinkError | None = None
        self._turn = asyncio.Lock()
        self._news, self._room = asyncio.Event(), asyncio.Event()
        self._quits, self._down = asyncio.Event(), asyncio.Event()
        self.opened = asyncio.Event()
        """Set when the other end has answered, or the link has ended."""
        self._heard = 0
        self._vigil = Vigil(limits.silence)
        self._timers: dict[Callable[[], None], asyncio.TimerHandle] = {}
        self._every(limits.silence / LOOKS, self._look)
        self._every(limits.beat, self._beat)
        self.peer = self.address = ""
        self.sent = 0
        self.received = 0
        self.transfers = Transfers()

    # ------------------------------------------------------------------ messages

    async def send(self, message: Message) -> None:
        """Send one message in frames, waiting while too many are unread at the other end."""
        encoded = await self.transfers.encode(message)
        async with self._turn:
            try:
                for piece, last in _marked(_cut(encoded, self._road.chunk)):
                    while self._lost is None and not self._end.room:
                        self._room.clear()
                        await self._room.wait()
                    if self._lost is not None:
                        raise self._lost
                    self.sent += self._post(Kind.END if last else Kind.DATA, piece)
                    if not last:
                        await asyncio.sleep(0)  # the network, and others, have something to do
            except asyncio.CancelledError:
                self._finish("a message was cut short")  # nobody could tell the next one from it
                raise

    async def receive(self) -> Message:
        """The next message; its tensors lie in the one buffer that its frames are written into."""
        with self.transfers.decoding(self._most) as decoder:
            more = True
            while more:
                part = await self._next()
                decoder.feed(part.payload)
                more = part.kind is Kind.DATA
        return await self.transfers.message(decoder)

    async def _next(self) -> Part:
        while (part := self._end.next()) is None or part.kind is Kind.CLOSE:
            if self._lost is not None:
                raise self._lost
            self._news.clear()
            await self._news.wait()
        if self._end.due:
            self._beat()
        return part

    # ------------------------------------------------------------------ who is there

    @property
    def admitted(self) -> bool:
        """Whether the other end has proved who it is."""
        return self._before is None

    @property
    def greeted(self) -> bool:
        """Whether a whole message has been received."""
        return self._end.messages > 0

    @property
    def arriving(self) -> bool:
        """Whether a part of a message has come that is not whole."""
        return self._end.under_way

    def admit(self) -> None:
        """Take messages of any size that the limits allow. Raises Refused when they should be sealed and cannot be."""
        if self._end.seal and self._end.protected is not Level.SEALED:
            raise Refused("key", "a sealed link needs the network key: --seal does not go with --insecure")
        self._most = self._limits.message
        self._before = None
        self._road.admitted()

    def protect(self, secret: bytes) -> None:
        """From now on every frame has a tag, in both directions."""
        for data in self._end.protect(secret):
            self.hear(data)

    def open(self) -> None:
        """Begin the link, or answer who did. Raises LinkLost."""
        self._road.post(self._end.open(), True)

    # ------------------------------------------------------------------ frames

    def _post(self, kind: Kind, payload: Piece) -> int:
        return self._road.post(self._end.frame(kind, payload), True)

    def hear(self, data: bytes) -> None:
        """Something came for this link, from whomever."""
        if self._lost is not None and self._quits.is_set():
            return None
        if self._before is not None and self._end.protected is Level.PLAIN:  # after it, tags tell who sends
            frames, size = self._before
            self._before = frames + (data[:1] != _BEAT), size + len(data)
            if frames >= MOST_FRAMES or size + len(data) > MOST_BEFORE:
                return self.dismiss("too much before a proof")
        news = self._end.hear(data)
        if news is News.ODD:
            self._road.complain(self._end.why)
            return None
        if news is News.NOTHING:  # no sign of life: anybody may have sent it
            return None
        self._heard += len(data)
        if news is News.PART:
            self.received += self._road.packet(len(data))
            self._news.set()
        elif news is News.CLOSED:
            self._quits.set()
            self._finish("", _closed(self._end.farewell))
        elif news in (News.LOST, News.BROKEN):
            self._quits.set()  # nothing that comes can be read
            why = self._end.why
            error = LinkLost(why) if news is News.LOST else ProtocolError(why)
            self._finish(why, error, code_of(error))
        elif news is News.GONE:
            self.fail(LinkLost("the coordinator is gone"))
        elif news is News.BEAT:
            self._room.set()
        elif news is News.OPENED:
            self.opened.set()
        return None

    # ------------------------------------------------------------------ time

    def _every(self, seconds: float, what: Callable[[], None]) -> None:
        def again() -> None:
            what()
            if self._lost is None:
                self._every(seconds, what)

        self._timers[what] = asyncio.get_running_loop().call_later(seconds, again)

    def _beat(self) -> None:
        try:
            self._road.post(self._end.beat(), False)
        except LinkError as error:
            self.fail(error)

    def _look(self) -> None:
        under_way = self._end.under_way and not self._end.unread  # else it is we who do not read
        fault = self._vigil.look(self._heard, self.received, self._end.messages, under_way=under_way)
        if fault:
            self._quits.set()  # nobody waits for it to close
            self._finish(f"given up: {fault}", LinkLost(fault))

    # ------------------------------------------------------------------ the end

    async def close(self, reason: str = "", code: CloseCode = CloseCode.GIVEN_UP) -> None:
        """Close the link; returns when the other end has too, in a sixth of ``silence`` at the latest.

        Nobody waits for those who have proved nothing.
        """
        self._finish(reason, code=code)
        try:
            if self.admitted and not self._quits.is_set():
                self._road.closing()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(self._limits.silence / 6):
                        await self._quits.wait()
        finally:
            self._quits.set()  # a further call need not wait again
            await self._road.release()

    async def closed(self) -> None:
        """Wait until the link is down."""
        await self._down.wait()

    def dismiss(self, reason: str) -> None:
        """Close the link, and do not wait for the other end."""
        self._quits.set()
        self._finish(reason)

    def fail(self, error: LinkError) -> None:
        """The link is lost, and nobody is there who could be told."""
        self._quits.set()
        self._ended(error)

    def _finish(self, reason: str, error: LinkError | None = None, code: CloseCode = CloseCode.GIVEN_UP) -> None:
        """End the link, and tell the other end."""
        if self._lost is not None:
            return
        first = bytes([_CODES.index(code) if code in _CODES else 0])
        try:
            self._post(Kind.CLOSE, first + reason.encode()[:_MAX_REASON].decode(errors="ignore").encode())
        except LinkError:
            self._quits.set()
        self._ended(error or LinkLost(reason or "closed"))

    def _ended(self, error: LinkError) -> None:
        self._lost = self._lost or error
        for timer in self._timers.values():
            timer.cancel()
        for event in (self._news, self._room, self.opened, self._down):
            event.set()


def _cut(encoded: encoder.Encoded, size: int) -> Iterator[memoryview]:
    for fragment in encoded.fragments():
        view = memoryview(fragment)
        for start in range(0, len(view), size):
            yield view[start : start + size]


def _marked(pieces: Iterator[memoryview]) -> Iterator[tuple[memoryview, bool]]:
    """Each piece, and whether it is the last."""
    before = next(pieces)
    for piece in pieces:
        yield before, False
        before = piece
    yield before, True


def _closed(payload: bytes) -> LinkError:
    first = payload[0] if payload else 0
    code = _CODES[first] if first < len(_CODES) else CloseCode.GIVEN_UP
    return error_of(code, payload[1:].decode(errors="replace"))
