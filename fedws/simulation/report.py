"""The report of a simulation, as a table for people and as a JSON file for programs."""

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
"""Widths of the columns of the table, 80 characters in total. A negative width aligns the column to the left."""


def format_clock_time(seconds: float | None) -> str:
    """Return a virtual time as hours, minutes and seconds, or a dash for None.

    >>> format_clock_time(93784.5), format_clock_time(None)
    ('26:03:04', '-')
    """
    if seconds is None:
        return "-"
    minutes, second = divmod(int(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{second:02}"


def format_percent(accuracy: float | None) -> str:
    """Return an accuracy between 0 and 1 in percent, or a dash for None."""
    return "-" if accuracy is None else f"{100 * accuracy:.2f} %"


def format_table(results: Sequence[SimulationResult], target_accuracy: float | None) -> list[str]:
    """Return a heading and one line for each run. Times are virtual.

    The column ``tasks`` counts requests and ``drops`` counts disconnections. The column ``lost`` counts requests that
    were open when a device disconnected.
    """
    target = "" if target_accuracy is None else f"to {100 * target_accuracy:g} %"
    lines = [_format_row("algorithm", target, "ended", "accuracy", "versions", "tasks", "lost", "drops")]
    for outcome in results:
        counts = [str(outcome.event_counts.get(event, 0)) for event in ("request", "lost", "disconnected")]
        reached = "" if target_accuracy is None else format_clock_time(outcome.seconds_to_accuracy(target_accuracy))
        name = outcome.algorithm if len(outcome.algorithm) <= 20 else outcome.algorithm[:19] + "…"
        ended, accuracy = format_clock_time(outcome.seconds), format_percent(outcome.accuracy)
        lines.append(_format_row(name, reached, ended, accuracy, str(outcome.num_versions), *counts))
    return lines


def write_report(path: Path, fleet: SimulatedFleet, results: Sequence[SimulationResult]) -> None:
    """Write the conditions, the devices and the results as JSON. Raise UsageError if the file cannot be written."""
    devices = {
        node: {"slowdown": fleet.slowdowns[node], "num_examples": len(part)}
        for node, part in fleet.sample_indices.items()
    }
    target = fleet.conditions.target_accuracy
    content: dict[str, Any] = {
        "conditions": fleet.conditions.model_dump(),
        "devices": devices,
        "results": [
            {**asdict(outcome), "seconds_to_target": None if target is None else outcome.seconds_to_accuracy(target)}
            for outcome in results
        ],
    }
    try:
        atomic_write(path, f"{json.dumps(content, indent=1)}\n".encode())
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error.strerror or error}") from None


def _format_row(*texts: str) -> str:
    return "".join(
        text.ljust(-w) if w < 0 else text.rjust(w) for text, w in zip(texts, COLUMN_WIDTHS, strict=True)
    ).rstrip()
