"""What may be sent of a direction's numbered frames, and what has come of them: pure, without I/O.

At most :data:`WINDOW` frames are under way: sent, and not yet read by the program at the other end. So neither the
broker nor a receiver that does not read ever holds more of a link, however large a message is.
"""

from collections import deque
from dataclasses import dataclass

from fedws.network.mqtt.encryption import Piece
from fedws.network.mqtt.frames import Kind

WINDOW = 48
"""Frames."""


class Sending:
    """Numbers the frames of one direction."""

    def __init__(self) -> None:
        self.sent = 0
        """Frames so far; the number of the next one."""
        self._read = 0

    @property
    def room(self) -> bool:
        """Whether one more frame may go."""
        return self.sent - self._read < WINDOW

    def number(self) -> int:
        """That of the next frame, which goes now."""
        self.sent += 1
        return self.sent - 1

    def read(self, count: int) -> bool:
        """The other end has read so many in all; False when that cannot be. Old news are none."""
        if count > self.sent:
            return False
        self._read = max(self._read, count)
        return True


class Gap(Exception):
    """Frames are missing: the broker has dropped one, or changed their order."""


class Flood(Exception):
    """There are more than were allowed."""


@dataclass(frozen=True)
class Part:
    """A numbered frame that came in its turn."""

    kind: Kind
    payload: Piece


class Receiving:
    """Takes the frames of one direction in their order, and holds them until they are read."""

    def __init__(self) -> None:
        self.came = 0
        """Frames so far."""
        self._waiting: deque[Part] = deque()

    def __len__(self) -> int:
        """How many wait to be read."""
        return len(self._waiting)

    @property
    def read(self) -> int:
        """How many were read."""
        return self.came - len(self._waiting)

    def take(self, number: int, part: Part) -> bool:
        """A frame has come; False when it had come before. Raises Gap and Flood."""
        if number < self.came:
            return False
        if number > self.came:
            raise Gap("a frame is missing")
        if len(self._waiting) > WINDOW:  # a CLOSE may come beyond the window
            raise Flood(f"more than {WINDOW} frames at once")
        self.came += 1
        self._waiting.append(part)
        return True

    def next(self) -> Part | None:
        """Read one; None when none is waiting."""
        return self._waiting.popleft() if self._waiting else None
