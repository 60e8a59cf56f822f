"""Those who are at the door of a node and have not proved yet who they are: only so many at once."""

import logging
import math
import time
from collections.abc import Callable

log = logging.getLogger("fedws")
MOST = 64
"""Handshakes in flight. A member's takes milliseconds, so the oldest of so many is no member's."""


class Gate:
    """Lets in whoever comes; when it is full, whoever has stood there longest is sent away."""

    def __init__(self, most: int = MOST) -> None:
        self._most = most
        self._waiting: dict[int, Callable[[], object]] = {}

    def __len__(self) -> int:
        """How many are waiting."""
        return len(self._waiting)

    def enter(self, guest: object, send_away: Callable[[], object]) -> None:
        """Somebody comes, and waits until :meth:`leave`; who waits already keeps their place."""
        if id(guest) not in self._waiting and len(self._waiting) >= self._most:
            oldest = next(iter(self._waiting))
            self._waiting.pop(oldest)()
        self._waiting[id(guest)] = send_away

    def leave(self, guest: object) -> None:
        """Somebody has been admitted or has gone; nothing if they are not waiting."""
        self._waiting.pop(id(guest), None)


class Complaints:
    """Says what strangers do to a node, at most once in ten seconds: they may try as often as they like."""

    APART = 10.0

    def __init__(self, node: str) -> None:
        self._node = node
        self._last = -math.inf
        self._unsaid = 0

    def hear(self, what: str) -> None:
        """Say it, or count it."""
        now = time.monotonic()
        if now - self._last < self.APART:
            self._unsaid += 1
            return
        more = f" ({self._unsaid} more since the last such line)" if self._unsaid else ""
        log.warning("%s: %s%s", self._node, what, more)
        self._last, self._unsaid = now, 0
