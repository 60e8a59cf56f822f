"""Whether the other end of a link is silent, or too slow with a message; pure, without clocks.

A transport acts on it: ``websocket/monitored_connection.py`` closes the websocket, ``mqtt/channel.py`` the link.
Time is counted in looks at the link, so that no peer is blamed while this process itself stood still.
"""

from collections import deque

from fedws.protocol.encoder import FRAGMENT_BYTES

MIN_BYTES_PER_SECOND = 1024
"""Bytes a second: what must arrive of a message under way, on the average of the last ``peer_timeout`` seconds."""
CHECKS_PER_TIMEOUT = 30
"""A link is looked at so many times while it may be silent."""

MAX_UNREAD_BYTES = 4 * FRAGMENT_BYTES
"""Bytes that may wait to be read by a peer that pings; more wait only for one that does not read."""


def find_unread_fault(unread_bytes: int) -> str:
    """Return why a peer that has just pinged is dropped while so many bytes wait to be read; empty if it is not."""
    return "it pings, and reads nothing" if unread_bytes > MAX_UNREAD_BYTES else ""


class LivenessMonitor:
    """One link, looked at every ``peer_timeout / CHECKS_PER_TIMEOUT`` seconds."""

    def __init__(self, peer_timeout: float) -> None:
        self._peer_timeout = peer_timeout
        self._last_counts = 0, 0
        self._idle_checks = 0  # looks
        self._content_history: deque[int] = deque(maxlen=CHECKS_PER_TIMEOUT + 1)

    def skip_check(self) -> None:
        """Nothing can be told from this look: it is we who do not read."""
        self._idle_checks = 0
        self._content_history.clear()

    def find_fault(self, bytes_received: int, content_bytes: int, messages_received: int, *, is_receiving: bool) -> str:
        """What the other end has done wrong up to this look; empty if nothing.

        It is told what came so far: bytes, bytes of them that are no mere signs of life, and whole messages; and
        whether one is ``is_receiving`` that we wait for.
        """
        (before, complete), self._last_counts = self._last_counts, (bytes_received, messages_received)
        self._idle_checks = self._idle_checks + 1 if bytes_received == before else 0
        if not is_receiving or messages_received != complete:
            self._content_history.clear()
        if is_receiving:
            self._content_history.append(content_bytes)
        if self._idle_checks > CHECKS_PER_TIMEOUT:
            return f"silent for {self._peer_timeout:g} s"
        if not self._idle_checks and len(self._content_history) > CHECKS_PER_TIMEOUT:
            arrived = self._content_history[-1] - self._content_history[0]
            if arrived < MIN_BYTES_PER_SECOND * self._peer_timeout:
                return f"too slow: {arrived} bytes of a message in {self._peer_timeout:g} s"
        return ""
