"""A sampler that selects every worker in every round."""

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

from fedws.core.registry import register
from fedws.scheduling.base import WorkerInfo


@register("sampler", "all")
@dataclass(frozen=True)
class AllSampler:
    """A sampler that selects all workers, in the order of the plan."""

    def cohort_size(self, num_workers: int) -> int:
        """Return the number of all workers."""
        return num_workers

    def rank(self, candidates: Sequence[WorkerInfo], rng: Random) -> Sequence[str]:
        """Return the candidates in the order of the plan."""
        return [candidate.name for candidate in candidates]
