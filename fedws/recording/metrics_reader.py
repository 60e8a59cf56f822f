"""Reads the records of a run, and makes series of them that can be drawn."""

from collections.abc import Sequence
from pathlib import Path

from fedws.core.errors import UsageError
from fedws.core.untrusted_text import get_error_text
from fedws.recording import stored_records
from fedws.recording.evaluation_lines import distinct_label_sets
from fedws.recording.run_layout import METRICS_FILE
from fedws.recording.stored_records import Record, WorkerLabels

Series = dict[str, list[tuple[int, float]]]


MAX_PLOTTED_VALUE = 1e30
"""Largest value that is drawn, of either sign; axes of much larger ones overflow."""


def read_records(directory: Path) -> list[Record]:
    """The records of a run's ``metrics.jsonl``; a last line that was cut short is left out."""
    path = directory / METRICS_FILE
    try:
        *whole, last = path.read_bytes().split(b"\n")  # what stands before a line feed was written whole
    except (FileNotFoundError, NotADirectoryError):
        raise UsageError(f"{directory} holds no {METRICS_FILE}; name the directory of a run") from None
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror or error}") from None
    records: list[Record] = []
    for number, line in enumerate([*whole, last], 1):
        try:
            records += [stored_records.parse_record(line)] if line.strip() else []
        except ValueError as error:
            if number <= len(whole):
                raise UsageError(
                    f"{path}: line {number} is no record: {get_error_text(error)}; remove the line"
                ) from None
    if any(record["kind"] == "score" for record in records):
        raise UsageError(f"{path}: its records have the format of an older fedws; draw them with that version")
    return records


def metric_series(records: Sequence[Record], metric: str = "accuracy") -> Series:
    """The values of ``metric`` of each model's evaluations, as points (round, value). The last one of a round counts.

    A value that is not finite, or above :data:`MAX_PLOTTED_VALUE`, is left out.

    >>> metric_series([{"kind": "evaluation", "round": 1, "model": "bob", "accuracy": 0.5}])
    {'bob': [(1, 0.5)]}
    """
    found: dict[str, dict[int, float]] = {}
    for record in records:
        value = record.get(metric)
        if record.get("kind") == "evaluation" and value is not None and abs(value) <= MAX_PLOTTED_VALUE:
            found.setdefault(record["model"], {})[record["round"]] = float(value)
    return {model: sorted(points.items()) for model, points in found.items()}


def prediction_shares(records: Sequence[Record], worker_labels: WorkerLabels) -> dict[str, dict[int, list[float]]]:
    """For each model and evaluated round, which part of its predictions (0 to 1) fell into each share group.

    >>> record = {"kind": "evaluation", "round": 1, "model": "bob", "predicted_label_counts": [1, 1, 6]}
    >>> prediction_shares([record], {"alice": [0, 1], "bob": [2]})
    {'bob': {1: [0.25, 0.75]}}
    """
    found: dict[str, dict[int, list[float]]] = {}
    for record in records:
        counts = record.get("predicted_label_counts") if record.get("kind") == "evaluation" else None
        if counts and sum(counts) > 0:
            parts = [
                sum(counts[n] for n in group if n < len(counts)) / sum(counts)
                for group in distinct_label_sets(worker_labels)
            ]
            found.setdefault(record["model"], {})[record["round"]] = parts
    return {model: dict(sorted(rounds.items())) for model, rounds in found.items()}
