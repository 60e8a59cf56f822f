"""A sampler that selects workers with more samples more often."""

from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass
from random import Random

from fedws.core.limits import MAX_EXAMPLES
from fedws.core.registry import register
from fedws.core.validation import Count
from fedws.scheduling.base import WorkerInfo


@register("sampler", "data_size")
@dataclass(frozen=True)
class DataSizeSampler:
    """A sampler of ``per_round`` workers, drawn without replacement in proportion to the samples that they hold.

    A worker with an unknown number of samples counts as the mean of the others. The time until a worker is selected has
    no upper bound. For example, a worker that holds a thousandth of the samples is drawn about every thousandth time.
    Use this sampler with an unweighted mean, because otherwise samples count twice.

    Li et al., "On the Convergence of FedAvg on Non-IID Data", 2020 (arXiv:1907.02189), scheme I. The scheme differs in
    that it draws with replacement.
    """

    _: KW_ONLY
    per_round: Count = 10

    def cohort_size(self, num_workers: int) -> int:
        """Return ``per_round``, or the number of all workers if it is smaller."""
        return min(self.per_round, num_workers)

    def rank(self, candidates: Sequence[WorkerInfo], rng: Random) -> Sequence[str]:
        """Return the candidates in the order of draws, each in proportion to the samples of those not drawn yet.

        Efraimidis and Spirakis, "Weighted random sampling with a reservoir", 2006, Algorithm A. The candidate with the
        greatest ``u ** (1 / weight)`` comes first, where ``u`` is uniform. It has the smallest ``-log(u) / weight``.
        """
        num_examples = [
            min(candidate.num_examples, MAX_EXAMPLES) for candidate in candidates if candidate.num_examples > 0
        ]
        mean = sum(num_examples) / len(num_examples) if num_examples else 1.0

        def draw(candidate: WorkerInfo) -> float:
            weight = min(candidate.num_examples, MAX_EXAMPLES) if candidate.num_examples > 0 else mean
            return rng.expovariate(1.0) / weight

        ranked = {candidate.name: draw(candidate) for candidate in candidates}
        return sorted(ranked, key=ranked.__getitem__)
