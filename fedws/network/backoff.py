"""How long to wait before a dial is tried again."""

from random import Random

FIRST = 0.1
"""Seconds before the second dial, at most; each further pause is twice as long, up to a twelfth of ``silence``."""


class Pauses:
    """Longer each time that the one before came to nothing, and drawn, so that nodes do not dial in step."""

    def __init__(self, silence: float, seed: str) -> None:
        self._most = max(FIRST, silence / 12)
        self._random = Random(seed)
        self._next = FIRST

    def next(self) -> float:
        """The next one, in seconds."""
        pause, self._next = self._next, min(2 * self._next, self._most)
        return pause * self._random.uniform(0.5, 1)

    def again(self) -> None:
        """The last dial was good for something: begin anew."""
        self._next = FIRST
