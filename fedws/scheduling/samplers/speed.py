"""A sampler that prefers fast workers, and selects every worker within a bounded number of rounds."""

import math
from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass
from random import Random
from typing import Annotated

from pydantic import Field

from fedws.core.registry import register
from fedws.core.validation import Count
from fedws.scheduling.base import WorkerInfo


@register("sampler", "speed")
@dataclass(frozen=True)
class SpeedSampler:
    """A sampler of ``per_round`` workers that ranks them by measured speed, without starving slow ones.

    Let ``n`` be the number of workers, and ``r`` the ratio of a worker's response time to the fastest one's, limited to
    ``max_slowdown``. After each selection, the worker is delayed by ``(r - 1) * n / per_round`` rounds. Therefore an
    available worker is selected again after at most

        ``floor((r - 1) * n / per_round) + ceil(n / per_round)``

    rounds, regardless of the other workers. For example, of 10 workers with ``per_round=2``, one that is 10 times
    slower is selected at least every 50 rounds.

    The bound follows from the ranking by ``(last selected round) + (rounds of delay)``, smallest first. Once a worker's
    own value has passed, workers that are selected later rank behind it. From then on, each of the ``n - 1`` others is
    selected before it at most once, and ``per_round`` of them in a round.

    A worker that has not been measured counts as fast. Workers that were never selected rank first, because they have
    waited longest. A worker that never answers does not delay the others.
    """

    _: KW_ONLY
    per_round: Count = 10
    max_slowdown: Annotated[float, Field(ge=1, allow_inf_nan=False)] = 10.0

    def cohort_size(self, num_workers: int) -> int:
        """Return ``per_round``, or the number of all workers if it is smaller."""
        return min(self.per_round, num_workers)

    def rank(self, candidates: Sequence[WorkerInfo], rng: Random) -> Sequence[str]:
        """Return the candidates by the rounds that they have waited beyond their delay, longest first.

        The random generator breaks ties.
        """
        fastest = min(
            (candidate.response_seconds for candidate in candidates if candidate.response_seconds > 0), default=math.inf
        )
        lap = len(candidates) / self.per_round

        def rounds_beyond_delay(candidate: WorkerInfo) -> float:
            ratio = candidate.response_seconds / fastest if candidate.response_seconds > fastest else 1.0
            return candidate.rounds_since_selected - (min(self.max_slowdown, ratio) - 1) * lap

        shuffled = rng.sample(candidates, len(candidates))
        return [candidate.name for candidate in sorted(shuffled, key=rounds_beyond_delay, reverse=True)]
