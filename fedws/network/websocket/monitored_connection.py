"""A WebSocket that is closed if its peer is silent or too slow, according to ``fedws.network.liveness``."""

import asyncio
import contextlib
from typing import Any

from websockets.asyncio.client import ClientConnection
from websockets.asyncio.connection import Connection
from websockets.asyncio.server import ServerConnection
from websockets.frames import DATA_OPCODES, Frame, Opcode
from websockets.protocol import Event, State

from fedws.network.base import Limits
from fedws.network.liveness import LivenessMonitor, find_unread_fault
from fedws.protocol.close_codes import CloseCode


class MonitoredConnection(Connection):
    """A WebSocket that is closed if its peer is silent, is too slow with a message, or delays the closing handshake."""

    fault = ""
    """Reason why the link is closed because of the peer; empty while the link is in order."""
    _bytes_received = 0
    _control_bytes = 0  # part of _bytes_received: pings and pongs
    _messages_received = 0  # counts whole messages only
    _in_message = False  # between two frames of one message
    _timer: asyncio.TimerHandle | None = None

    @property
    def is_receiving(self) -> bool:
        """True if a message has been received in part."""
        return self._in_message or bool(self.protocol.reader.buffer)

    def start_monitoring(self, limits: Limits) -> None:
        """Start the periodic check of the peer's liveness."""
        self._check_interval = limits.check_interval
        self._max_closing_checks = round(limits.close_timeout / limits.check_interval)
        self._monitor = LivenessMonitor(limits.peer_timeout)
        self._closing_checks = 0
        self._schedule(self._check_liveness)

    def data_received(self, data: bytes) -> None:
        """Count the received bytes, including those of an incomplete frame."""
        self._bytes_received += len(data)
        super().data_received(data)

    def process_event(self, event: Event) -> None:
        """Count whole messages and the bytes of pings, and abort the link if a pinging peer does not read."""
        if isinstance(event, Frame):
            if event.opcode is Opcode.PING and (fault := find_unread_fault(self.transport.get_write_buffer_size())):
                self.fault = fault
                self.transport.abort()
                return
            if event.opcode in DATA_OPCODES:
                self._in_message = not event.fin
                self._messages_received += event.fin
            else:
                self._control_bytes += frame_size(len(event.data), masked=isinstance(self, ServerConnection))
        super().process_event(event)

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the periodic check."""
        if self._timer is not None:
            self._timer.cancel()
        super().connection_lost(exc)

    def _schedule(self, callback: Any) -> None:
        self._timer = self.loop.call_later(self._check_interval, callback)

    def _check_liveness(self) -> None:
        if self.state is not State.OPEN:
            self._closing_checks += 1
            if self._closing_checks >= self._max_closing_checks:
                return self.transport.abort()  # the library may wait without limit to send the remaining data
            return self._schedule(self._check_liveness)
        self.fault = self._find_fault()
        if not self.fault:
            return self._schedule(self._check_liveness)
        # A responsive peer has one check interval to read the reason. Then the link is aborted without its unsent data.
        with contextlib.suppress(OSError, RuntimeError):
            self.protocol.fail(CloseCode.APPLICATION_ERROR, f"given up: {self.fault}")
            self.send_data()
        return self._schedule(self.transport.abort)

    def _find_fault(self) -> str:
        """Return the fault of the peer at this check, or an empty string."""
        if self.recv_messages.paused:  # this side does not read, so the peer cannot make progress
            self._monitor.skip_check()
            return ""
        content = self._bytes_received - self._control_bytes
        return self._monitor.find_fault(
            self._bytes_received, content, self._messages_received, is_receiving=self.is_receiving
        )


class OutgoingConnection(MonitoredConnection, ClientConnection):
    """A monitored WebSocket at the side that has opened it."""


def frame_size(length: int, *, masked: bool) -> int:
    """Return the size in bytes of a frame with its header (RFC 6455, section 5.2)."""
    return length + (2 if length < 126 else 4 if length < 65536 else 10) + (4 if masked else 0)
