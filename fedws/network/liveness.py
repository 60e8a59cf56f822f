"""The check that a peer is neither silent nor too slow with a message. This module uses no I/O and no clocks.

The transports act on the result: ``websocket/monitored_connection.py`` closes the WebSocket, and ``mqtt/channel.py``
closes the link. Time is counted in checks of the link. A pause of this process is therefore not counted as a silence of
the peer.
"""

from collections import deque

from fedws.protocol.encoder import FRAGMENT_BYTES

MIN_BYTES_PER_SECOND = 1024
"""Minimum rate of an unfinished message in bytes per second, as an average over ``peer_timeout`` seconds."""
CHECKS_PER_TIMEOUT = 30
"""Number of liveness checks in ``peer_timeout`` seconds."""

MAX_UNREAD_BYTES = 4 * FRAGMENT_BYTES
"""Largest number of outgoing bytes that a peer may leave unread while it sends pings."""


def find_unread_fault(unread_bytes: int) -> str:
    """Return why a peer is disconnected that sends a ping and has ``unread_bytes`` bytes unread.

    The result is empty if the peer may stay connected.
    """
    return "the peer sends pings but does not read" if unread_bytes > MAX_UNREAD_BYTES else ""


class LivenessMonitor:
    """The liveness state of one link, which is checked every ``peer_timeout / CHECKS_PER_TIMEOUT`` seconds."""

    def __init__(self, peer_timeout: float) -> None:
        self._peer_timeout = peer_timeout
        self._last_counts = 0, 0
        self._idle_checks = 0
        self._content_history: deque[int] = deque(maxlen=CHECKS_PER_TIMEOUT + 1)

    def skip_check(self) -> None:
        """Reset the counters, since this side is not reading and the check would prove nothing."""
        self._idle_checks = 0
        self._content_history.clear()

    def find_fault(self, bytes_received: int, content_bytes: int, messages_received: int, *, is_receiving: bool) -> str:
        """Return the fault of the peer at this check, or an empty string.

        The numbers are totals of the link so far. ``content_bytes`` leaves out pings and pongs.
        ``messages_received`` counts whole messages. ``is_receiving`` states that a message has been received in part.
        """
        (last_bytes, last_messages), self._last_counts = self._last_counts, (bytes_received, messages_received)
        self._idle_checks = self._idle_checks + 1 if bytes_received == last_bytes else 0
        if not is_receiving or messages_received != last_messages:
            self._content_history.clear()
        if is_receiving:
            self._content_history.append(content_bytes)
        if self._idle_checks > CHECKS_PER_TIMEOUT:
            return f"silent for {self._peer_timeout:g} s"
        if not self._idle_checks and len(self._content_history) > CHECKS_PER_TIMEOUT:
            num_bytes = self._content_history[-1] - self._content_history[0]
            if num_bytes < MIN_BYTES_PER_SECOND * self._peer_timeout:
                return f"too slow: {num_bytes} bytes of a message in {self._peer_timeout:g} s"
        return ""
