"""A sampler that selects all workers with the same probability."""

from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass
from random import Random

from fedws.core.registry import register
from fedws.core.validation import Count
from fedws.scheduling.base import WorkerInfo


@register("sampler", "random")
@dataclass(frozen=True)
class UniformSampler:
    """A sampler of ``per_round`` workers, drawn uniformly without replacement.

    McMahan et al., "Communication-Efficient Learning of Deep Networks from Decentralized Data", 2017
    (arXiv:1602.05629), Algorithm 1: ``S_t`` is a random set of clients. Sedna calls it SimpleClientChoose.
    The time until a worker is selected has no upper bound. The probability that a worker is not selected in ``k``
    consecutive rounds is ``(1 - per_round / workers) ** k``.
    """

    _: KW_ONLY
    per_round: Count = 10

    def cohort_size(self, num_workers: int) -> int:
        """Return ``per_round``, or the number of all workers if it is smaller."""
        return min(self.per_round, num_workers)

    def rank(self, candidates: Sequence[WorkerInfo], rng: Random) -> Sequence[str]:
        """Return the candidates shuffled, so that every order has the same probability."""
        return rng.sample([candidate.name for candidate in candidates], len(candidates))
