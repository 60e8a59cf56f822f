"""Directories of runs that a test makes."""

from pathlib import Path

from fedws.core.plan import Plan, build_plan
from fedws.recording.run_directory import RunDirectory

PLAN = build_plan(
    {"seed": 5, "plugins": ("mine.py",), "workers": {"alice": "ws://h:1"}, "evaluator": {}, "min_results": 1}
)


def names(directory: Path) -> set[str]:
    """Return the names of the files."""
    return {path.name for path in directory.iterdir()}


def begun(path: Path, plan: Plan = PLAN) -> Path:
    """Return a directory in which a run has begun, and whose lock is free."""
    held = RunDirectory.create(path)
    held.begin(plan)
    held.retain()
    held.close()
    return path
