"""Some of the workers, those who hold more samples more often."""

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
    """``per_round`` workers, drawn without replacement with a probability in proportion to the samples they hold.

    A worker that has not said how many counts as the mean of those who have. Nobody's wait has a bound: a worker that
    holds a thousandth of the samples is asked about every thousandth time. To be used with an unweighted mean, or
    samples count twice: Li et al., "On the Convergence of FedAvg on Non-IID Data", 2020 (arXiv:1907.02189), scheme I,
    which differs in that it draws with replacement.
    """

    _: KW_ONLY
    per_round: Count = 10

    def cohort_size(self, num_workers: int) -> int:
        """``per_round``, or all if they are fewer."""
        return min(self.per_round, num_workers)

    def rank(self, candidates: Sequence[WorkerInfo], rng: Random) -> Sequence[str]:
        """In the order of draws, each in proportion to the samples among those not drawn yet.

        Efraimidis and Spirakis, "Weighted random sampling with a reservoir", 2006, Algorithm A: the greatest
        ``u ** (1 / weight)`` first, with ``u`` uniform; which is the smallest of ``-log(u) / weight``.
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
