"""Rate limiting of log lines that peers can cause."""

import logging
import math
import time

log = logging.getLogger("fedws")
BURST_LINES = 20
"""Burst size for lines that authenticated peers cause, such as the start and the end of runs."""


class RateLimitedLog:
    """A log of lines that a peer can cause, with a limited rate.

    After a burst of lines, it logs one line in ten seconds on average. Each line reports how many lines were suppressed
    since the previous one.
    """

    INTERVAL_SECONDS = 10.0
    """Average time in seconds between two lines."""

    def __init__(self, node: str, burst: int = 1) -> None:
        """Create the log of ``node``, which accepts up to ``burst`` lines at once."""
        self._node = node
        self._burst = burst
        self._budget_restored_at = -math.inf  # time at which a full burst is available again
        self._num_suppressed = 0

    def log(self, message: str, level: int = logging.WARNING, error: BaseException | None = None) -> bool:
        """Log a line, or count it as suppressed. Return whether it was logged.

        The traceback of ``error`` is logged at level DEBUG.
        """
        now = time.monotonic()
        if self._budget_restored_at - now > (self._burst - 1) * self.INTERVAL_SECONDS:
            self._num_suppressed += 1
            return False
        more = f" ({self._num_suppressed} similar lines suppressed)" if self._num_suppressed else ""
        log.log(level, "%s: %s%s", self._node, message, more)
        if error is not None:
            log.debug("%s: traceback of this error", self._node, exc_info=error)
        self._budget_restored_at, self._num_suppressed = max(self._budget_restored_at, now) + self.INTERVAL_SECONDS, 0
        return True
