"""The settings of a run that every scheduler takes."""

from dataclasses import dataclass

from fedws.core.limits import DEFAULT_MAX_FEATURE_BYTES


@dataclass(frozen=True)
class ScheduleConfig:
    """What the plan says to any scheduler."""

    workers: tuple[str, ...]
    """All of the plan, there or not."""
    rounds: int
    seed: int
    min_results: int
    over_selection: float = 0.0
    max_feature_bytes: int = DEFAULT_MAX_FEATURE_BYTES
    """Bytes of features and labels that are stored at most, of all workers together."""
