"""Settings of a run for all schedulers."""

from dataclasses import dataclass

from fedws.core.limits import DEFAULT_MAX_FEATURE_BYTES


@dataclass(frozen=True)
class ScheduleConfig:
    """The settings of a plan that apply to any scheduler."""

    workers: tuple[str, ...]
    """All workers of the plan, connected or not."""
    rounds: int
    seed: int
    min_results: int
    over_selection: float = 0.0
    max_feature_bytes: int = DEFAULT_MAX_FEATURE_BYTES
    """Maximum size in bytes of the stored features and labels of all workers together."""
