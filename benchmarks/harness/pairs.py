"""Two things run in turn, and what their ratio says: pure, no clocks."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

DISTURBED = 0.15
"""Cores used by other processes above which a run counts as disturbed."""


@dataclass(frozen=True)
class Run:
    """One run of one side."""

    seconds: float
    others: float
    """Cores that other processes used over the run, on average."""
    before: float = 0.0
    """The same, over a short look just before the run."""

    @property
    def disturbed(self) -> bool:
        """Whether others used so much that the figure is in doubt."""
        return self.others > DISTURBED


@dataclass(frozen=True)
class Pair:
    """A run and the floor or peer that was run right after it."""

    ours: Run
    theirs: Run

    @property
    def ratio(self) -> float:
        """Our seconds over theirs."""
        return self.ours.seconds / self.theirs.seconds

    @property
    def disturbed(self) -> bool:
        """Whether either run was."""
        return self.ours.disturbed or self.theirs.disturbed


@dataclass(frozen=True)
class Summary:
    """Ratios of pairs in three numbers."""

    pairs: int
    median: float
    low: float
    high: float

    @classmethod
    def of(cls, ratios: Sequence[float]) -> "Summary | None":
        """The summary of some ratios; None when there are none.

        >>> Summary.of([1.2, 1.0, 1.1])
        Summary(pairs=3, median=1.1, low=1.0, high=1.2)
        """
        if not ratios:
            return None
        return cls(len(ratios), statistics.median(ratios), min(ratios), max(ratios))

    def __str__(self) -> str:
        return f"median {self.median:.3f}, min {self.low:.3f}, max {self.high:.3f} of {self.pairs}"


def summaries(pairs: Sequence[Pair]) -> tuple[Summary | None, Summary | None]:
    """The summary of all pairs, and that of the undisturbed ones."""
    return Summary.of([pair.ratio for pair in pairs]), Summary.of([p.ratio for p in pairs if not p.disturbed])


def added(pairs: Sequence[Pair]) -> float:
    """By how many seconds ours took longer than theirs, as the median of all pairs."""
    return statistics.median(pair.ours.seconds - pair.theirs.seconds for pair in pairs)


def verdict(pairs: Sequence[Pair], target: float | None = None) -> list[str]:
    """What the pairs say, in lines; the target is held against the undisturbed pairs, or all where none is."""
    everything, quiet = summaries(pairs)
    if everything is None:
        return ["no pairs"]
    lines = [f"ratio, all pairs:         {everything}", f"ratio, undisturbed pairs: {quiet or 'there are none'}"]
    if target is not None:
        judged = quiet or everything
        how = "within" if judged.median <= target else "above"
        lines.append(f"target: at most {target:g}; {'' if quiet else 'disturbed, but '}{how} it")
    return lines
