"""The starting point of a run: its first round, or the checkpoint from which it continues."""

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
    """The starting point of a run, with the log lines about it."""

    checkpoint: Checkpoint | None = None
    """Checkpoint to continue from; None for a run that starts at its first round."""
    log_lines: Sequence[str] = ()
    workers_changed: bool = False
    """True if the set of workers has changed since the run began."""


def find_starting_point(
    run_directory: RunDirectory, plan: Plan, scheduler: Scheduler[Any], checkpoints: Checkpoints
) -> StartingPoint:
    """Return the point from which the run in ``run_directory`` continues with ``plan``.

    Raises UsageError if it cannot continue with this plan, and RunFailed if its checkpoint cannot be read.
    """
    prefix, has_checkpoint = f"--resume {run_directory.path}", checkpoints.exist()
    if not has_checkpoint and not run_directory.finished:
        return StartingPoint()  # the run ended before its first request
    if has_checkpoint:
        stored, remark = checkpoints.load()
    complete = stored.version if has_checkpoint else run_directory.plan.rounds
    if plan.rounds < complete:
        problem = f"rounds {plan.rounds} is less than the {complete} completed rounds"
        raise UsageError(f"{prefix}: {problem}; set it to at least {complete}")
    if not has_checkpoint:
        model = run_directory.path / MODEL_FILE
        raise UsageError(f"{prefix}: checkpoint not found; start a new run with --initial-model {model}")
    former_workers = stored.extra["workers"]
    if isinstance(scheduler, CollectThenTrainScheduler) and (
        missing_workers := [worker for worker in former_workers if worker not in plan.workers]
    ):
        problem = f"workers of {plan.algorithm} can be added but not removed"
        raise UsageError(f"{prefix}: {problem}; add {', '.join(missing_workers)} to the workers")
    changed = stored.extra["changed"] or set(former_workers) != set(plan.workers)
    lines = [remark, f"Resumed after round {stored.version} of {plan.rounds}", WORKERS_CHANGED if changed else ""]
    if run_directory.finished:  # its log is complete, so no line of it is logged again
        stored = replace(stored, extra={**stored.extra, **RunLog(run_directory.path).position(), "logged": True})
    return StartingPoint(stored, [line for line in lines if line], changed)
