"""Where a run starts: at its first round, or at the checkpoint from which it continues."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from fedws.core.errors import UsageError
from fedws.core.plan import Plan
from fedws.recording.checkpoint import Checkpoint, Checkpoints
from fedws.recording.run_directory import RunDirectory
from fedws.recording.run_log import RunLog
from fedws.scheduling.base import Strategy
from fedws.split_learning.scheduler import Gathering

OTHERS = "The workers changed since the run began: its result is no longer bit-identical to an uninterrupted run"


@dataclass(frozen=True)
class Start:
    """Where a run starts, and what its log says of that."""

    checkpoint: Checkpoint | None = None
    """None for a run that starts at its first round."""
    lines: Sequence[str] = ()
    changed: bool = False
    """Whether other workers than now took part before."""


def continued(held: RunDirectory, plan: Plan, strategy: Strategy[Any], checkpoints: Checkpoints) -> Start:
    """Return where the run in ``held`` continues, now with ``plan``.

    Raises UsageError when it cannot continue so, RunFailed when its checkpoint cannot be read.
    """
    what, there = f"--resume {held.path}", checkpoints.any()
    if not there and not held.finished:
        return Start()  # it ended before its first order
    if there:
        stored, remark = checkpoints.load()
    complete = stored.number if there else held.plan.training_rounds
    if plan.training_rounds < complete:
        few = f"training_rounds {plan.training_rounds} is less than the {complete} rounds that are complete"
        raise UsageError(f"{what}: {few}; give at least {complete}")
    if not there:
        model = held.path / "model.safetensors"
        raise UsageError(f"{what}: it has no checkpoint to continue from; start a new run with --initial-model {model}")
    before = stored.extra["workers"]
    if isinstance(strategy, Gathering) and (gone := [worker for worker in before if worker not in plan.workers]):
        why = f"{plan.strategy} stores records by the worker's place: workers can be added, not removed"
        raise UsageError(f"{what}: {why}; name {', '.join(gone)} again")
    changed = stored.extra["changed"] or set(before) != set(plan.workers)
    lines = [remark, f"Going on after round {stored.number} of {plan.training_rounds}", OTHERS if changed else ""]
    if held.finished:  # its log is complete, so nothing of it is said again
        stored = replace(stored, extra={**stored.extra, **RunLog(held.path).place(), "said": True})
    return Start(stored, [line for line in lines if line], changed)
