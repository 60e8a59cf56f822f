"""Some of the workers, all with the same chance."""

from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass
from random import Random

from fedws.core.registry import register
from fedws.core.validation import Count
from fedws.scheduling.base import WorkerInfo


@register("sampler", "random")
@dataclass(frozen=True)
class UniformSampler:
    """``per_round`` workers, drawn uniformly without replacement.

    McMahan et al., "Communication-Efficient Learning of Deep Networks from Decentralized Data", 2017
    (arXiv:1602.05629), Algorithm 1: ``S_t`` is a random set of clients. Sedna calls it SimpleClientChoose.
    Nobody's wait has a bound, but a wait of ``k`` rounds has the chance ``(1 - per_round / workers) ** k``.
    """

    _: KW_ONLY
    per_round: Count = 10

    def cohort_size(self, num_workers: int) -> int:
        """``per_round``, or all if they are fewer."""
        return min(self.per_round, num_workers)

    def rank(self, candidates: Sequence[WorkerInfo], rng: Random) -> Sequence[str]:
        """Shuffled: every order has the same chance."""
        return rng.sample([candidate.name for candidate in candidates], len(candidates))
