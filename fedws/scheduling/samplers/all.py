"""Every worker in every round."""

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

from fedws.core.registry import register
from fedws.scheduling.base import Candidate


@register("chooser", "all")
@dataclass(frozen=True)
class All:
    """As many as there are, in the plan's order."""

    def size(self, workers: int) -> int:
        """All of them."""
        return workers

    def rank(self, candidates: Sequence[Candidate], random: Random) -> Sequence[str]:
        """In the plan's order."""
        return [candidate.worker for candidate in candidates]
