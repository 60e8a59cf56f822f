"""Log lines that peers cause, at a bounded rate."""

import logging
import math
import time

log = logging.getLogger("fedws")
BURST_LINES = 20
"""Log lines of one kind that members may cause at once, as of runs that begin and end."""


class RateLimitedLog:
    """Log lines that a peer causes: some at once, then one in ten seconds with the number of those left out."""

    INTERVAL_SECONDS = 10.0
    """Seconds between two lines, on average."""

    def __init__(self, node: str, burst: int = 1) -> None:
        """Make the lines of ``node``, of which ``burst`` may come at once."""
        self._node = node
        self._burst = burst
        self._budget_restored_at = -math.inf  # when all lines so far are paid for, at one in so many seconds
        self._num_suppressed = 0

    def log(self, message: str, level: int = logging.WARNING, error: BaseException | None = None) -> bool:
        """Log a line or count it; return whether it was logged. The traceback of ``error`` is for debugging."""
        now = time.monotonic()
        if self._budget_restored_at - now > (self._burst - 1) * self.INTERVAL_SECONDS:
            self._num_suppressed += 1
            return False
        more = f" ({self._num_suppressed} more since the last such line)" if self._num_suppressed else ""
        log.log(level, "%s: %s%s", self._node, message, more)
        if error is not None:
            log.debug("%s: the traceback of this error", self._node, exc_info=error)
        self._budget_restored_at, self._num_suppressed = max(self._budget_restored_at, now) + self.INTERVAL_SECONDS, 0
        return True
