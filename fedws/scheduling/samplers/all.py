"""Every worker in every round."""

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

from fedws.core.registry import register
from fedws.scheduling.base import WorkerInfo


@register("sampler", "all")
@dataclass(frozen=True)
class AllSampler:
    """As many as there are, in the plan's order."""

    def cohort_size(self, num_workers: int) -> int:
        """All of them."""
        return num_workers

    def rank(self, candidates: Sequence[WorkerInfo], rng: Random) -> Sequence[str]:
        """In the plan's order."""
        return [candidate.name for candidate in candidates]
