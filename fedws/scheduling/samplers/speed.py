"""Some of the workers, the fast ones more often, and everyone within a bounded number of rounds."""

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
    """``per_round`` workers by measured speed, without starving the slow ones.

    Of ``n`` workers, one whose answers take ``r`` times as long as the fastest one's steps back for ``(r - 1) * n /
    per_round`` rounds after each time that it is asked, then it stands in line. ``r`` counts as ``max_slowdown`` at
    most. So whoever can be asked is asked again after at most

        ``floor((r - 1) * n / per_round) + ceil(n / per_round)``

    rounds, whatever the others do: of 10 workers with ``per_round=2``, one that is 10 times slower at least every 50
    rounds. Why: ranked is by ``(round last asked) + (rounds to step back)``, smallest first. Once a worker's own
    number has passed, those asked after that come behind it; each of the ``n - 1`` others passes once at most, and
    ``per_round`` of them a round.

    One that has not been measured counts as fast. Those never asked come first, as they have waited longest; one that
    is asked but never answers holds up nobody.
    """

    _: KW_ONLY
    per_round: Count = 10
    max_slowdown: Annotated[float, Field(ge=1, allow_inf_nan=False)] = 10.0

    def cohort_size(self, num_workers: int) -> int:
        """``per_round``, or all if they are fewer."""
        return min(self.per_round, num_workers)

    def rank(self, candidates: Sequence[WorkerInfo], rng: Random) -> Sequence[str]:
        """Who has waited longest beyond its stepping back comes first; the random generator breaks ties."""
        fastest = min(
            (candidate.response_seconds for candidate in candidates if candidate.response_seconds > 0), default=math.inf
        )
        lap = len(candidates) / self.per_round

        def lead(candidate: WorkerInfo) -> float:
            ratio = candidate.response_seconds / fastest if candidate.response_seconds > fastest else 1.0
            return candidate.rounds_since_selected - (min(self.max_slowdown, ratio) - 1) * lap

        shuffled = rng.sample(candidates, len(candidates))
        return [candidate.name for candidate in sorted(shuffled, key=lead, reverse=True)]
