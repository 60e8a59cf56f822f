"""The flow control for the numbered frames of one direction. This module does no I/O.

At most ``WINDOW_FRAMES`` frames are in flight, which means sent but not yet read by the program at the other end.
The broker and a receiver that does not read therefore never hold more frames of a link, whatever the message size.
"""

from collections import deque
from dataclasses import dataclass

from fedws.network.mqtt.encryption import Payload
from fedws.network.mqtt.frames import FrameKind

WINDOW_FRAMES = 48
"""Largest number of frames in flight."""


class SendWindow:
    """The send window of one direction, which numbers its frames."""

    def __init__(self) -> None:
        self.frames_sent = 0
        """Number of frames sent so far, which is also the number of the next frame."""
        self._frames_read = 0

    @property
    def can_send(self) -> bool:
        """True if one more frame may be sent."""
        return self.frames_sent - self._frames_read < WINDOW_FRAMES

    def next_number(self) -> int:
        """Return the number of the next frame, and count the frame as sent."""
        self.frames_sent += 1
        return self.frames_sent - 1

    def acknowledge(self, count: int) -> bool:
        """Record that the peer has read ``count`` frames in total; return False if fewer frames were sent.

        A count below an earlier one has no effect.
        """
        if count > self.frames_sent:
            return False
        self._frames_read = max(self._frames_read, count)
        return True


class FramesMissing(Exception):
    """The error that a frame is missing, since the broker has dropped one or changed their order."""


class WindowExceeded(Exception):
    """The error that the peer has sent more frames than the window permits."""


@dataclass(frozen=True)
class ReceivedFrame:
    """A numbered frame that was received in order."""

    kind: FrameKind
    payload: Payload


class ReceiveWindow:
    """The receive window of one direction, which holds the frames in order until they are read."""

    def __init__(self) -> None:
        self.frames_received = 0
        """Number of frames received so far."""
        self._unread: deque[ReceivedFrame] = deque()

    def __len__(self) -> int:
        """Return the number of unread frames."""
        return len(self._unread)

    @property
    def frames_read(self) -> int:
        """Number of frames read so far."""
        return self.frames_received - len(self._unread)

    def accept(self, number: int, frame: ReceivedFrame) -> bool:
        """Add a received frame; return False if it is a duplicate.

        Raise FramesMissing if an earlier frame is missing, and WindowExceeded if too many frames are unread.
        """
        if number < self.frames_received:
            return False
        if number > self.frames_received:
            raise FramesMissing("a frame is missing")
        if len(self._unread) > WINDOW_FRAMES:  # a CLOSE frame may exceed the window by one
            raise WindowExceeded(f"more than {WINDOW_FRAMES} unread frames")
        self.frames_received += 1
        self._unread.append(frame)
        return True

    def read_frame(self) -> ReceivedFrame | None:
        """Return the next frame and count it as read, or None if all frames are read."""
        return self._unread.popleft() if self._unread else None
