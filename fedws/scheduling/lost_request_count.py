"""Losses of a node that repeat while it has the same request; pure."""

from dataclasses import dataclass, replace

from fedws.protocol.messages import TaskFailure

MAX_CONSECUTIVE_LOSSES = 3
"""Losses in a row of a node that had the whole request, after which the request has failed."""
MAX_CONSECUTIVE_TRANSFER_LOSSES = 10
"""Losses in a row while the request or its answer was in transfer, without progress, after which it has failed."""


@dataclass(frozen=True)
class LostRequestCount:
    """How often in a row a node was lost with one request, since a transfer got further than ever before."""

    losses: int = 0
    transfer_losses: int = 0

    def add(self, failure: TaskFailure) -> "LostRequestCount":
        """Return the row with one more loss."""
        if failure.code == "transfer_progressed":
            return NO_LOSSES
        if failure.code == "transfer_interrupted":
            return replace(self, transfer_losses=self.transfer_losses + 1)
        return replace(self, losses=self.losses + 1)

    def failure_reason(self, task: str) -> str:
        """Return why the request has failed; empty while it may be tried again.

        >>> LostRequestCount(losses=3).failure_reason("fedavg.fit")
        'lost 3 times while it worked on fedavg.fit; was its memory short?'
        """
        if self.losses >= MAX_CONSECUTIVE_LOSSES:
            return f"lost {MAX_CONSECUTIVE_LOSSES} times while it worked on {task}; was its memory short?"
        if self.transfer_losses >= MAX_CONSECUTIVE_TRANSFER_LOSSES:
            return f"lost {MAX_CONSECUTIVE_TRANSFER_LOSSES} times during the transfers of {task}, which got no further"
        return ""


NO_LOSSES = LostRequestCount()
"""The row of a node that was not lost."""
