"""Those who are at the door of a node and have not proved yet who they are: only so many at once."""

import logging
import math
import time
from collections import Counter
from collections.abc import Callable

log = logging.getLogger("fedws")
MOST = 64
"""Handshakes in flight. A member's takes little time, and members do not come in crowds from one address."""


class Gate:
    """Lets in whoever comes. When it is full one is sent away: of those from the address with the most, the oldest."""

    def __init__(self, most: int = MOST) -> None:
        self._most = most
        self._waiting: dict[int, tuple[str, Callable[[], object]]] = {}

    def __len__(self) -> int:
        """How many are waiting."""
        return len(self._waiting)

    def enter(self, guest: object, send_away: Callable[[], object], address: str = "") -> None:
        """Somebody comes, and waits until :meth:`leave`; who waits already keeps their place."""
        if id(guest) not in self._waiting and len(self._waiting) >= self._most:
            crowd = Counter(whence for whence, _ in self._waiting.values()).most_common(1)[0][0]
            oldest = next(one for one, (whence, _) in self._waiting.items() if whence == crowd)
            self._waiting.pop(oldest)[1]()
        self._waiting[id(guest)] = address, send_away

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
