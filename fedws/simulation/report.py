"""What came of a simulation: a table for people, and one file for programs."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from fedws.core.atomic_files import atomic_write
from fedws.core.errors import UsageError
from fedws.simulation.fleet import SimulatedFleet
from fedws.simulation.run import SimulationResult

COLUMN_WIDTHS = (-20, 11, 11, 9, 9, 8, 6, 6)
"""Of the table's columns, 80 in all; the first is set left."""


def format_clock_time(seconds: float | None) -> str:
    """Virtual time as hours, minutes and seconds; a dash when there is none.

    >>> format_clock_time(93784.5), format_clock_time(None)
    ('26:03:04', '-')
    """
    if seconds is None:
        return "-"
    minutes, second = divmod(int(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{second:02}"


def format_percent(accuracy: float | None) -> str:
    """An accuracy, 0 to 1, in percent; a dash when there is none."""
    return "-" if accuracy is None else f"{100 * accuracy:.2f} %"


def format_table(results: Sequence[SimulationResult], target_accuracy: float | None) -> list[str]:
    """Return a heading and one line for each run; times are virtual.

    ``tasks`` are requests, ``lost`` those that were open when a device disconnected, ``drops`` the disconnections.
    """
    to = "" if target_accuracy is None else f"to {100 * target_accuracy:g} %"
    lines = [_format_row("algorithm", to, "ended", "accuracy", "versions", "tasks", "lost", "drops")]
    for outcome in results:
        counts = [str(outcome.event_counts.get(event, 0)) for event in ("request", "lost", "disconnected")]
        reached = "" if target_accuracy is None else format_clock_time(outcome.seconds_to_accuracy(target_accuracy))
        name = outcome.algorithm if len(outcome.algorithm) <= 20 else outcome.algorithm[:19] + "…"
        ended, accuracy = format_clock_time(outcome.seconds), format_percent(outcome.accuracy)
        lines.append(_format_row(name, reached, ended, accuracy, str(outcome.num_versions), *counts))
    return lines


def write_report(path: Path, fleet: SimulatedFleet, results: Sequence[SimulationResult]) -> None:
    """Write the conditions, each device and each result as JSON. Raises UsageError when it cannot be written."""
    devices = {
        node: {"slowdown": fleet.slowdowns[node], "num_examples": len(part)}
        for node, part in fleet.sample_indices.items()
    }
    target = fleet.conditions.target_accuracy
    found: dict[str, Any] = {
        "conditions": fleet.conditions.model_dump(),
        "devices": devices,
        "results": [
            {**asdict(outcome), "seconds_to_target": None if target is None else outcome.seconds_to_accuracy(target)}
            for outcome in results
        ],
    }
    try:
        atomic_write(path, f"{json.dumps(found, indent=1)}\n".encode())
    except OSError as error:
        raise UsageError(f"{path} cannot be written: {error.strerror or error}") from None


def _format_row(*texts: str) -> str:
    return "".join(
        text.ljust(-w) if w < 0 else text.rjust(w) for text, w in zip(texts, COLUMN_WIDTHS, strict=True)
    ).rstrip()
