"""Settings of the command line that all benchmarks share."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Settings:
    """The flags of ``python -m benchmarks``."""

    data_dir: Path
    pairs: int | None = None
    quick: bool = False
    """True for one pair of short runs, which tests a benchmark but gives no figure."""
    full: bool = False
    """True for models as large as the published ones."""

    def pairs_or(self, usual: int) -> int:
        """Return the number of pairs to run, which is ``usual`` unless a flag changes it."""
        return self.pairs or (1 if self.quick else usual)
