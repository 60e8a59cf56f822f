"""A pure count of the repeated losses of a node that has the same request."""

from dataclasses import dataclass, replace

from fedws.protocol.messages import TaskFailure

MAX_CONSECUTIVE_LOSSES = 3
"""Number of consecutive losses of a node with a complete request, after which the request fails."""
MAX_CONSECUTIVE_TRANSFER_LOSSES = 10
"""Number of consecutive losses during the transfer of a request or its answer, after which the request fails.

A loss after progress of the transfer restarts the count.
"""


@dataclass(frozen=True)
class LostRequestCount:
    """The number of consecutive losses of a node with one request.

    The count restarts when a transfer progresses further than ever before.
    """

    losses: int = 0
    transfer_losses: int = 0

    def add(self, failure: TaskFailure) -> "LostRequestCount":
        """Return the count with one more loss, or an empty count if a transfer progressed."""
        if failure.code == "transfer_progressed":
            return NO_LOSSES
        if failure.code == "transfer_interrupted":
            return replace(self, transfer_losses=self.transfer_losses + 1)
        return replace(self, losses=self.losses + 1)

    def failure_reason(self, task: str) -> str:
        """Return why the request has failed, or an empty string while it may be retried.

        >>> LostRequestCount(losses=3).failure_reason("fedavg.fit")
        'lost 3 times while it ran fedavg.fit (out of memory?)'
        """
        if self.losses >= MAX_CONSECUTIVE_LOSSES:
            return f"lost {MAX_CONSECUTIVE_LOSSES} times while it ran {task} (out of memory?)"
        if self.transfer_losses >= MAX_CONSECUTIVE_TRANSFER_LOSSES:
            return f"lost {MAX_CONSECUTIVE_TRANSFER_LOSSES} times during the transfer of {task} without progress"
        return ""


NO_LOSSES = LostRequestCount()
"""Count of a node that was not lost."""
