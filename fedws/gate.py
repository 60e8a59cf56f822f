"""Those who are at the door of a node and have not proved yet who they are: only so many at once."""

from collections.abc import Callable

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
        """Somebody comes, and waits until :meth:`leave`."""
        if len(self._waiting) >= self._most:
            oldest = next(iter(self._waiting))
            self._waiting.pop(oldest)()
        self._waiting[id(guest)] = send_away

    def leave(self, guest: object) -> None:
        """Somebody has been admitted or has gone; nothing if they are not waiting."""
        self._waiting.pop(id(guest), None)
