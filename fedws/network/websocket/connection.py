"""A websocket that does not wait for ever, whatever its other end does."""

import asyncio
import contextlib
from typing import Any

from websockets.asyncio.client import ClientConnection
from websockets.asyncio.connection import Connection
from websockets.asyncio.server import ServerConnection
from websockets.frames import DATA_OPCODES, Frame, Opcode
from websockets.protocol import Event, State

from fedws.network.admission import Gate
from fedws.network.base import HANDSHAKE
from fedws.network.liveness import LOOKS, Vigil
from fedws.protocol import encoder
from fedws.protocol.close_codes import CloseCode

MOST_BEFORE = 2 * HANDSHAKE + 2**14
"""Bytes that are taken from somebody who has proved nothing: HTTP's request, a hello and a proof, in any frames."""
MOST_FRAMES = 64
"""Frames, likewise."""
_UNREAD = 4 * encoder.FRAGMENT  # bytes; more pile up only before somebody who never reads
_TLS = b"\x16"  # the type of the record that a TLS client begins with


class Watched(Connection):
    """A websocket that is given up once its other end is silent, too slow with a message, or does not let it close."""

    lost = ""
    """Why the other end was given up; empty while it is not."""
    _heard = 0  # bytes received
    _control = 0  # of these, bytes of pings and pongs
    _messages = 0  # whole messages received
    _inside = False  # between two frames of one message
    _timer: asyncio.TimerHandle | None = None

    @property
    def under_way(self) -> bool:
        """Whether a part of a message has come that is not whole."""
        return self._inside or bool(self.protocol.reader.buffer)

    def watch(self, silence: float) -> None:
        """Begin, with the seconds that the other end may be silent."""
        self._silence = silence
        self._vigil = Vigil(silence)
        self._closing = 0  # looks
        self._wait(self._look)

    def data_received(self, data: bytes) -> None:
        """Count what comes, also of a frame that is not whole yet."""
        self._heard += len(data)
        super().data_received(data)

    def process_event(self, event: Event) -> None:
        """Tell messages from pings."""
        if isinstance(event, Frame):
            if event.opcode is Opcode.PING and self.transport.get_write_buffer_size() > _UNREAD:
                self.lost = "it pings, and reads nothing"
                self.transport.abort()
                return
            if event.opcode in DATA_OPCODES:
                self._inside = not event.fin
                self._messages += event.fin
            else:
                self._control += framed(len(event.data), masked=isinstance(self, ServerConnection))
        super().process_event(event)

    def connection_lost(self, exc: Exception | None) -> None:
        """End the watch."""
        if self._timer is not None:
            self._timer.cancel()
        super().connection_lost(exc)

    def _wait(self, then: Any) -> None:
        self._timer = self.loop.call_later(self._silence / LOOKS, then)

    def _look(self) -> None:
        if self.state is not State.OPEN:
            self._closing += 1
            if self._closing >= LOOKS // 6:  # the library may wait for ever, to be rid of what it wanted to send
                return self.transport.abort()
            return self._wait(self._look)
        self.lost = self._fault()
        if not self.lost:
            return self._wait(self._look)
        # A peer that is alive reads why; one that is not has one look's time, and nobody waits for what it would read.
        with contextlib.suppress(OSError, RuntimeError):
            self.protocol.fail(CloseCode.GIVEN_UP, f"given up: {self.lost}")
            self.send_data()
        return self._wait(self.transport.abort)

    def _fault(self) -> str:
        """What the other end has done wrong up to this look."""
        if self.recv_messages.paused:  # it is we who do not read
            self._vigil.excuse()
            return ""
        content = self._heard - self._control
        return self._vigil.look(self._heard, content, self._messages, under_way=self.under_way)


class Client(Watched, ClientConnection):
    """One that dialled."""


class Server(Watched, ServerConnection):
    """One that was dialled: at the gate until :meth:`admit`, and not for long."""

    gate: Gate
    closing: Gate
    """The links of the port that are being closed: a bounded number, since other ends need not let them close."""
    patience: float
    arrived: float | None = None
    """By the loop's clock, when it was before TLS."""
    _door: asyncio.TimerHandle
    _admitted = False
    _gone = False
    _frames = 0

    @property
    def received(self) -> int:
        """Bytes received, without those of TLS."""
        return self._heard

    @property
    def greeted(self) -> bool:
        """Whether a whole message has been received."""
        return self._messages > 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Somebody is at the door."""
        super().connection_made(transport)
        self.gate.enter(self, self.transport.abort, address_of(transport))
        arrived = self.loop.time() if self.arrived is None else self.arrived
        self._door = self.loop.call_at(arrived + self.patience, self._too_late)

    def data_received(self, data: bytes) -> None:
        """Tell those who begin with TLS at once, in plain text, that there is none here: else both would wait."""
        if self._heard == 0 and data[:1] == _TLS:
            self._heard = len(data)
            self.transport.write(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\nno TLS here\n")
            return self.transport.close()
        if not self._admitted and self._heard + len(data) > MOST_BEFORE:
            return self.transport.abort()
        return super().data_received(data)

    def process_event(self, event: Event) -> None:
        """Count what is parsed before a proof: frames without a byte of a message cost time too."""
        self._frames += 1
        if not self._admitted and self._frames > MOST_FRAMES:
            return self.transport.abort()
        return super().process_event(event)

    async def close(self, code: CloseCode | int = CloseCode.DONE, reason: str = "") -> None:
        """Close the link; it is aborted when too many are being closed."""
        if self._admitted and not self._gone:
            self.closing.enter(self, self.transport.abort, address_of(self.transport))
        await super().close(code, reason)

    def connection_lost(self, exc: Exception | None) -> None:
        """They have gone."""
        self._gone = True
        self.closing.leave(self)
        self._depart()
        super().connection_lost(exc)

    def _too_late(self) -> None:
        with contextlib.suppress(OSError, RuntimeError):  # whoever is alive reads why, for as long as one look takes
            if self.state is State.OPEN:
                self.protocol.fail(CloseCode.GIVEN_UP, "no hello in time")
                self.send_data()
        self._door = self.loop.call_later(self.patience * 6 / LOOKS, self.transport.abort)

    def admit(self) -> None:
        """They may stay, and send what they like."""
        self._admitted = True
        self._depart()

    def end(self) -> None:
        """The server ends: who is no websocket yet reads no reason, and is not waited for."""
        if self.state is State.CONNECTING and hasattr(self, "transport"):
            self.transport.abort()

    def _depart(self) -> None:
        self._door.cancel()
        self.gate.leave(self)


def framed(length: int, *, masked: bool) -> int:
    """Bytes of a frame with its header (RFC 6455, section 5.2)."""
    return length + (2 if length < 126 else 4 if length < 65536 else 10) + (4 if masked else 0)


def address_of(transport: asyncio.BaseTransport) -> str:
    """The other end's, without its port."""
    name = transport.get_extra_info("peername")
    return str(name[0]) if isinstance(name, tuple) and name else ""
