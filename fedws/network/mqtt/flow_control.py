"""What may be sent of a direction's numbered frames, and what has come of them: pure, without I/O.

At most :data:`WINDOW_FRAMES` frames are under way: sent, and not yet read by the program at the other end. So neither
the broker nor a receiver that does not read ever holds more of a link, however large a message is.
"""

from collections import deque
from dataclasses import dataclass

from fedws.network.mqtt.encryption import Payload
from fedws.network.mqtt.frames import FrameKind

WINDOW_FRAMES = 48
"""Frames."""


class SendWindow:
    """Numbers the frames of one direction."""

    def __init__(self) -> None:
        self.frames_sent = 0
        """Frames so far; the number of the next one."""
        self._frames_read = 0

    @property
    def can_send(self) -> bool:
        """Whether one more frame may go."""
        return self.frames_sent - self._frames_read < WINDOW_FRAMES

    def next_number(self) -> int:
        """That of the next frame, which goes now."""
        self.frames_sent += 1
        return self.frames_sent - 1

    def acknowledge(self, count: int) -> bool:
        """The other end has read so many in all; False when that cannot be. Old news are none."""
        if count > self.frames_sent:
            return False
        self._frames_read = max(self._frames_read, count)
        return True


class FramesMissing(Exception):
    """Frames are missing: the broker has dropped one, or changed their order."""


class WindowExceeded(Exception):
    """There are more than were allowed."""


@dataclass(frozen=True)
class ReceivedFrame:
    """A numbered frame that came in its turn."""

    kind: FrameKind
    payload: Payload


class ReceiveWindow:
    """Takes the frames of one direction in their order, and holds them until they are read."""

    def __init__(self) -> None:
        self.frames_received = 0
        """Frames so far."""
        self._unread: deque[ReceivedFrame] = deque()

    def __len__(self) -> int:
        """How many wait to be read."""
        return len(self._unread)

    @property
    def frames_read(self) -> int:
        """How many were read."""
        return self.frames_received - len(self._unread)

    def accept(self, number: int, frame: ReceivedFrame) -> bool:
        """A frame has come; False when it had come before. Raises Gap and Flood."""
        if number < self.frames_received:
            return False
        if number > self.frames_received:
            raise FramesMissing("a frame is missing")
        if len(self._unread) > WINDOW_FRAMES:  # a CLOSE may come beyond the window
            raise WindowExceeded(f"more than {WINDOW_FRAMES} frames at once")
        self.frames_received += 1
        self._unread.append(frame)
        return True

    def read_frame(self) -> ReceivedFrame | None:
        """Read one; None when none is waiting."""
        return self._unread.popleft() if self._unread else None
