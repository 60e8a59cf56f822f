"""Where a run starts: at its first round, or at the checkpoint from which it continues."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from fedws.core.errors import UsageError
from fedws.core.plan import Plan
from fedws.recording.checkpoint import Checkpoint, Checkpoints
from fedws.recording.run_directory import RunDirectory
from fedws.recording.run_layout import MODEL_FILE
from fedws.recording.run_log import RunLog
from fedws.scheduling.base import Scheduler
from fedws.split_learning.scheduler import CollectThenTrainScheduler

WORKERS_CHANGED = (
    "The workers changed since the run began: its result is no longer bit-identical to an uninterrupted run"
)


@dataclass(frozen=True)
class StartingPoint:
    """Where a run starts, and what its log says of that."""

    checkpoint: Checkpoint | None = None
    """None for a run that starts at its first round."""
    log_lines: Sequence[str] = ()
    workers_changed: bool = False
    """Whether other workers than now took part before."""


def find_starting_point(
    run_directory: RunDirectory, plan: Plan, scheduler: Scheduler[Any], checkpoints: Checkpoints
) -> StartingPoint:
    """Return where the run in ``run_directory`` continues, now with ``plan``.

    Raises UsageError when it cannot continue so, RunFailed when its checkpoint cannot be read.
    """
    what, has_checkpoint = f"--resume {run_directory.path}", checkpoints.exist()
    if not has_checkpoint and not run_directory.finished:
        return StartingPoint()  # it ended before its first request
    if has_checkpoint:
        stored, remark = checkpoints.load()
    complete = stored.version if has_checkpoint else run_directory.plan.rounds
    if plan.rounds < complete:
        few = f"rounds {plan.rounds} is less than the {complete} rounds that are complete"
        raise UsageError(f"{what}: {few}; give at least {complete}")
    if not has_checkpoint:
        model = run_directory.path / MODEL_FILE
        raise UsageError(f"{what}: it has no checkpoint to continue from; start a new run with --initial-model {model}")
    former_workers = stored.extra["workers"]
    if isinstance(scheduler, CollectThenTrainScheduler) and (
        missing_workers := [worker for worker in former_workers if worker not in plan.workers]
    ):
        why = f"{plan.algorithm} stores records by the worker's place: workers can be added, not removed"
        raise UsageError(f"{what}: {why}; name {', '.join(missing_workers)} again")
    changed = stored.extra["changed"] or set(former_workers) != set(plan.workers)
    lines = [remark, f"Going on after round {stored.version} of {plan.rounds}", WORKERS_CHANGED if changed else ""]
    if run_directory.finished:  # its log is complete, so nothing of it is said again
        stored = replace(stored, extra={**stored.extra, **RunLog(run_directory.path).position(), "logged": True})
    return StartingPoint(stored, [line for line in lines if line], changed)
