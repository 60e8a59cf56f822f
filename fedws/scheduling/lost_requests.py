"""Losses of a node that repeat while it has the same request; pure."""

from dataclasses import dataclass, replace

from fedws.protocol.messages import Failure

LOSSES = 3
"""Losses in a row of a node that had the whole request, after which the request has failed."""
CUTS = 10
"""Losses in a row while the request or its answer was in transfer, without progress, after which it has failed."""


@dataclass(frozen=True)
class Repeated:
    """How often in a row a node was lost with one request, since a transfer got further than ever before."""

    losses: int = 0
    cuts: int = 0

    def after(self, lost: Failure) -> "Repeated":
        """Return the row with one more loss."""
        if lost.code == "progress":
            return NEVER
        if lost.code == "transfer":
            return replace(self, cuts=self.cuts + 1)
        return replace(self, losses=self.losses + 1)

    def reason(self, task: str) -> str:
        """Return why the request has failed; empty while it may be tried again.

        >>> Repeated(losses=3).reason("fedavg.fit")
        'lost 3 times while it worked on fedavg.fit; was its memory short?'
        """
        if self.losses >= LOSSES:
            return f"lost {LOSSES} times while it worked on {task}; was its memory short?"
        if self.cuts >= CUTS:
            return f"lost {CUTS} times during the transfers of {task}, which got no further"
        return ""


NEVER = Repeated()
"""The row of a node that was not lost."""
