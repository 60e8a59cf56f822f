"""What the command line says, for all benchmarks."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Settings:
    """The flags of ``python -m benchmarks``."""

    data_dir: Path
    pairs: int | None = None
    quick: bool = False
    """One pair of short runs: to see that a benchmark works, not for a figure."""
    full: bool = False
    """Nets as large as those that were published."""

    def pairs_or(self, usual: int) -> int:
        """How many pairs to run, where a benchmark usually runs ``usual``."""
        return self.pairs or (1 if self.quick else usual)
