"""Retries with increasing delays, until an attempt succeeds."""

import asyncio
from collections.abc import Awaitable, Callable
from random import Random
from typing import TypeVar

FIRST_DELAY_SECONDS = 0.1
"""Longest delay in seconds before the second attempt. It doubles for each further attempt."""

T = TypeVar("T")


class Backoff:
    """A sequence of delays that double up to a maximum.

    Each delay is shortened by a random part, so that nodes do not retry at the same time.
    """

    def __init__(self, max_delay: float, seed: str) -> None:
        self._max_delay = max(FIRST_DELAY_SECONDS, max_delay)
        self._random = Random(seed)
        self._next_delay = FIRST_DELAY_SECONDS

    def next_delay(self) -> float:
        """Return the next delay in seconds."""
        delay, self._next_delay = self._next_delay, min(2 * self._next_delay, self._max_delay)
        return delay * self._random.uniform(0.5, 1)

    def reset(self) -> None:
        """Start again with the first delay."""
        self._next_delay = FIRST_DELAY_SECONDS


class ReasonLog:
    """A log of the reasons why attempts fail, without consecutive repetitions of the same reason."""

    def __init__(self, log: Callable[[str], object]) -> None:
        self._log = log
        self._last_reason = ""

    def add(self, reason: str, line: str) -> None:
        """Log ``line`` unless the last reason was the same."""
        if reason != self._last_reason:
            self._log(line)
        self._last_reason = reason

    def reset(self) -> None:
        """Forget the last reason, so that the next one is logged in any case."""
        self._last_reason = ""


async def retry(attempt: Callable[[], Awaitable[T | None]], backoff: Backoff, *, wait_first: bool = False) -> T:
    """Call ``attempt`` until it returns something other than None, with a delay of ``backoff`` between two calls.

    With ``wait_first``, a delay also precedes the first call. An exception of ``attempt`` ends the retries.
    """
    if wait_first:
        await asyncio.sleep(backoff.next_delay())
    while True:
        result = await attempt()
        if result is not None:
            return result
        await asyncio.sleep(backoff.next_delay())
