"""What came of a simulation: a table for people, and one file for programs."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from fedws.core.errors import UsageError
from fedws.recording.run_log import write_text
from fedws.simulation.fleet import Fleet
from fedws.simulation.run import Outcome

WIDTHS = (-20, 11, 11, 9, 9, 8, 6, 5)
"""Of the table's columns, 79 in all; the first is set left."""


def clock(seconds: float | None) -> str:
    """Virtual time as hours, minutes and seconds; a dash when there is none.

    >>> clock(93784.5), clock(None)
    ('26:03:04', '-')
    """
    if seconds is None:
        return "-"
    minutes, second = divmod(int(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{second:02}"


def percent(accuracy: float | None) -> str:
    """An accuracy, 0 to 1, in percent; a dash when there is none."""
    return "-" if accuracy is None else f"{100 * accuracy:.2f} %"


def table(outcomes: Sequence[Outcome], target: float | None) -> list[str]:
    """One line for each run, and a title: times are virtual. ``lost`` are orders that a device left with."""
    to = "" if target is None else f"to {100 * target:g} %"
    lines = [_line("strategy", to, "ended", "accuracy", "versions", "orders", "lost", "left")]
    for outcome in outcomes:
        counts = [str(outcome.counts.get(event, 0)) for event in ("order", "lost", "left")]
        reached = "" if target is None else clock(outcome.reached(target))
        name = outcome.strategy if len(outcome.strategy) <= 20 else outcome.strategy[:19] + "…"
        ended, accuracy = clock(outcome.seconds), percent(outcome.accuracy)
        lines.append(_line(name, reached, ended, accuracy, str(outcome.versions), *counts))
    return lines


def write(path: Path, fleet: Fleet, outcomes: Sequence[Outcome]) -> None:
    """Write the conditions, each device and each outcome as JSON. Raises UsageError when it cannot be written."""
    devices = {node: {"slowness": fleet.slowness[node], "samples": len(part)} for node, part in fleet.parts.items()}
    target = fleet.conditions.target
    found: dict[str, Any] = {
        "conditions": fleet.conditions.model_dump(),
        "devices": devices,
        "outcomes": [
            {**asdict(outcome), "reached": None if target is None else outcome.reached(target)} for outcome in outcomes
        ],
    }
    try:
        write_text(path, json.dumps(found, indent=1) + "\n")
    except OSError as error:
        raise UsageError(f"{path} cannot be written: {error.strerror or error}") from None


def _line(*texts: str) -> str:
    return "".join(text.ljust(-w) if w < 0 else text.rjust(w) for text, w in zip(texts, WIDTHS, strict=True)).rstrip()
