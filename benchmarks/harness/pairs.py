"""Paired runs and statistics of their ratios; the functions are pure and read no clock."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

DISTURBED = 0.15
"""Number of cores used by other processes above which a run counts as disturbed."""


@dataclass(frozen=True)
class Run:
    """One timed run of fedws, or of what it is compared with."""

    seconds: float
    others: float
    """Average number of cores that other processes used during the run."""
    before: float = 0.0
    """Average number of cores that other processes used shortly before the run."""

    @property
    def disturbed(self) -> bool:
        """Return whether other processes used so much CPU time that the figure is doubtful."""
        return self.others > DISTURBED


@dataclass(frozen=True)
class Pair:
    """A run of fedws, and the run of a floor or a peer right after it."""

    ours: Run
    theirs: Run

    @property
    def ratio(self) -> float:
        """Return our seconds divided by theirs."""
        return self.ours.seconds / self.theirs.seconds

    @property
    def disturbed(self) -> bool:
        """Return whether either run was disturbed."""
        return self.ours.disturbed or self.theirs.disturbed


@dataclass(frozen=True)
class Summary:
    """The number of some ratios, with their median, minimum and maximum."""

    pairs: int
    median: float
    low: float
    high: float

    @classmethod
    def of(cls, ratios: Sequence[float]) -> "Summary | None":
        """Return the summary of ``ratios``, or None if it is empty.

        >>> Summary.of([1.2, 1.0, 1.1])
        Summary(pairs=3, median=1.1, low=1.0, high=1.2)
        """
        if not ratios:
            return None
        return cls(len(ratios), statistics.median(ratios), min(ratios), max(ratios))

    def __str__(self) -> str:
        return f"median {self.median:.3f}, min {self.low:.3f}, max {self.high:.3f} of {self.pairs}"


def summaries(pairs: Sequence[Pair]) -> tuple[Summary | None, Summary | None]:
    """Return the summary of all pairs, and that of the undisturbed pairs."""
    return Summary.of([pair.ratio for pair in pairs]), Summary.of([p.ratio for p in pairs if not p.disturbed])


def added(pairs: Sequence[Pair]) -> float:
    """Return by how many seconds our runs took longer than theirs, as the median of all pairs."""
    return statistics.median(pair.ours.seconds - pair.theirs.seconds for pair in pairs)


def verdict(pairs: Sequence[Pair], target: float | None = None) -> list[str]:
    """Return the lines that summarise the pairs.

    The median of the undisturbed pairs is compared with ``target``. If all pairs are disturbed, the median of all is
    compared with it.
    """
    everything, quiet = summaries(pairs)
    if everything is None:
        return ["no pairs"]
    lines = [f"ratio, all pairs:         {everything}", f"ratio, undisturbed pairs: {quiet or 'none'}"]
    if target is not None:
        judged = quiet or everything
        how = "within" if judged.median <= target else "above"
        lines.append(f"target: at most {target:g}; {'' if quiet else 'disturbed, but '}{how} it")
    return lines
