"""How long to wait before a dial is tried again."""

from random import Random

FIRST_DELAY_SECONDS = 0.1
"""Seconds before the second dial, at most; each further pause is twice as long, up to a twelfth of ``peer_timeout``."""


class Backoff:
    """Longer each time that the one before came to nothing, and drawn, so that nodes do not dial in step."""

    def __init__(self, peer_timeout: float, seed: str) -> None:
        self._max_delay = max(FIRST_DELAY_SECONDS, peer_timeout / 12)
        self._random = Random(seed)
        self._next_delay = FIRST_DELAY_SECONDS

    def next_delay(self) -> float:
        """The next one, in seconds."""
        pause, self._next_delay = self._next_delay, min(2 * self._next_delay, self._max_delay)
        return pause * self._random.uniform(0.5, 1)

    def reset(self) -> None:
        """The last dial was good for something: begin anew."""
        self._next_delay = FIRST_DELAY_SECONDS
