"""One end of a link as a pure machine: frames in, what they mean out; no I/O, no clocks."""

from dataclasses import dataclass
from enum import Enum, auto

from fedws.network.base import HANDSHAKE
from fedws.network.mqtt.encryption import Guard, Piece, Plain, guard
from fedws.network.mqtt.flow_control import WINDOW, Flood, Gap, Part, Receiving, Sending
from fedws.network.mqtt.frames import BEAT, HEAD, NUMBERED, Frame, Kind, Level, opened, opening, parse
from fedws.network.mqtt.topics import Will

_EARLY = 4  # protected frames that are kept until this side can read them, too
_TOLD = WINDOW // 4  # frames that are read before the other end hears of it


class News(Enum):
    """What a frame meant."""

    NOTHING = auto()
    PART = auto()
    """There is more to read."""
    CLOSED = auto()
    """There is, and it is the last."""
    BEAT = auto()
    """A sign of life; there may be room to send."""
    OPENED = auto()
    GONE = auto()
    """The other end has vanished."""
    LOST = auto()
    """Frames are missing."""
    BROKEN = auto()
    """The other end breaks the protocol."""
    ODD = auto()
    """It was not the other end's, or had come before: dropped."""


@dataclass(frozen=True)
class Names:
    """Of one link."""

    node: str
    instance: str
    link: str


class End:
    """The coordinator's end, ``dialled``, or the node's."""

    def __init__(self, names: Names, *, dialled: bool, seal: bool) -> None:
        self._names = names
        self._dialled = dialled
        self.seal = seal
        """Whether what follows the handshake is sealed: so it is when either end wants it."""
        self.why = ""
        """What was wrong with a frame that broke the link, or was odd."""
        self.farewell = b""
        """The payload of the other end's CLOSE."""
        self._inside = False
        self.messages = 0
        """That came whole."""
        self._opened = not dialled
        self._out: Guard = Plain()
        self._in: Guard = Plain()
        self._early: list[bytes] = []
        self._begin()

    def _begin(self) -> None:
        """Count frames from 0."""
        self._sending, self._receiving = Sending(), Receiving()
        self._beats, self._last_beat, self._told = 0, -1, 0
        self._announced = 0

    @property
    def protected(self) -> Level:
        """How what goes out is protected."""
        return self._out.level

    def protect(self, secret: bytes) -> list[bytes]:
        """Protect what follows, in both directions, and forget what came unprotected; gives what is to be heard now."""
        out, back = ("down", "up") if self._dialled else ("up", "down")
        names = self._names
        self._out, self._in = (
            guard(secret, way, names.node, names.instance, names.link, sealed=self.seal) for way in (out, back)
        )
        self._begin()
        early, self._early = self._early, []
        return early

    # ------------------------------------------------------------------ out

    @property
    def room(self) -> bool:
        """Whether a part of a message may go."""
        return self._sending.room

    def open(self) -> bytes | bytearray:
        """The first frame of either end."""
        return self._out.wrap(Kind.OPEN, 0, opening(self._names.instance, seal=self.seal))

    def frame(self, kind: Kind, payload: Piece) -> bytes | bytearray:
        """The next numbered frame."""
        return self._out.wrap(kind, self._sending.number(), payload)

    def beat(self) -> bytes | bytearray:
        """A sign of life."""
        self._told = self._receiving.read
        self._beats += 1
        return self._out.wrap(Kind.BEAT, self._beats - 1, BEAT.pack(self._told, self._sending.sent))

    # ------------------------------------------------------------------ in

    @property
    def under_way(self) -> bool:
        """Whether more must come: of a message that has begun, or of what the other end says that it has sent."""
        return self._inside or self._announced > self._receiving.came

    @property
    def unread(self) -> int:
        """Frames that came and wait to be read."""
        return len(self._receiving)

    def next(self) -> Part | None:
        """Read one."""
        return self._receiving.next()

    @property
    def due(self) -> bool:
        """Whether the other end should hear by now how much was read."""
        return self._receiving.read - self._told >= _TOLD

    def hear(self, data: bytes) -> News:
        """Something came on the link's topic, from whomever."""
        frame = parse(data)
        if frame is None:
            return self._odd("a frame that is none")
        if frame.kind is Kind.OPEN:
            return self._open(frame)
        if frame.kind is Kind.GONE:
            return self._gone(frame)
        if self._in.level is Level.PLAIN and frame.level is not Level.PLAIN:
            if len(self._early) < _EARLY and len(data) <= HANDSHAKE:
                self._early.append(data)
            return News.NOTHING
        payload = self._in.unwrap(frame)
        if payload is None:
            if frame.kind is Kind.BEAT and frame.level is Level.PLAIN:  # it may have crossed the first protected one
                return News.NOTHING
            return self._odd("a frame with a wrong tag")
        if frame.kind in NUMBERED:
            return self._numbered(frame, payload)
        return self._beat(frame, payload)

    def _numbered(self, frame: Frame, payload: Piece) -> News:
        try:
            if not self._receiving.take(frame.number, Part(frame.kind, payload)):
                return self._odd("a frame a second time")
        except Gap as gap:
            self.why = str(gap)
            return News.LOST
        except Flood as flood:
            self.why = str(flood)
            return News.BROKEN
        if frame.kind is Kind.CLOSE:
            self.farewell = bytes(payload)
            return News.CLOSED
        self._inside = frame.kind is Kind.DATA
        self.messages += frame.kind is Kind.END
        return News.PART

    def _beat(self, frame: Frame, payload: Piece) -> News:
        if frame.number <= self._last_beat:
            return self._odd("a sign of life a second time")
        self._last_beat = frame.number
        read, sent = BEAT.unpack(payload) if len(payload) == BEAT.size else (2**64, 0)
        if not self._sending.read(read):
            self.why = "it says that it has read what was not sent"
            return News.BROKEN
        self._announced = max(self._announced, sent)
        return News.BEAT

    def _open(self, frame: Frame) -> News:
        found = opened(frame)
        if self._opened or found is None or found[0] != self._names.instance:
            return self._odd("a beginning of a link that has begun")
        self._opened = True
        self.seal |= found[1]
        return News.OPENED

    def _gone(self, frame: Frame) -> News:
        """Only who made the link, and the broker for it, know the secret that the link's name is the digest of."""
        if not self._dialled and Will(frame.data[HEAD.size :]).name == self._names.link:
            return News.GONE
        return self._odd("a forged end of the link")

    def _odd(self, why: str) -> News:
        self.why = why
        return News.ODD
