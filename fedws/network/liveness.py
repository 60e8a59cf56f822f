"""Whether the other end of a link is silent, or too slow with a message; pure, without clocks.

Time is counted in looks at the link, so that no peer is blamed while this process itself stood still.
"""

from collections import deque

SLOWEST = 1024
"""Bytes a second: what must arrive of a message under way, on the average of the last ``silence`` seconds."""
LOOKS = 30
"""A link is looked at so many times while it may be silent."""


class Vigil:
    """One link, looked at every ``silence / LOOKS`` seconds."""

    def __init__(self, silence: float) -> None:
        self._silence = silence
        self._seen = 0, 0
        self._quiet = 0  # looks
        self._progress: deque[int] = deque(maxlen=LOOKS + 1)

    def excuse(self) -> None:
        """Nothing can be told from this look: it is we who do not read."""
        self._quiet = 0
        self._progress.clear()

    def look(self, heard: int, content: int, messages: int, *, under_way: bool) -> str:
        """What the other end has done wrong up to this look; empty if nothing.

        It is told what came so far: bytes, bytes of them that are no mere signs of life, and whole messages; and
        whether one is ``under_way`` that we wait for.
        """
        (before, complete), self._seen = self._seen, (heard, messages)
        self._quiet = self._quiet + 1 if heard == before else 0
        if not under_way or messages != complete:
            self._progress.clear()
        if under_way:
            self._progress.append(content)
        if self._quiet > LOOKS:
            return f"silent for {self._silence:g} s"
        if not self._quiet and len(self._progress) > LOOKS:
            arrived = self._progress[-1] - self._progress[0]
            if arrived < SLOWEST * self._silence:
                return f"too slow: {arrived} bytes of a message in {self._silence:g} s"
        return ""
