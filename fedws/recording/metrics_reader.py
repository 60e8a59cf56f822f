"""Functions that read the records of a run and convert them to series for plots."""

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
"""Largest absolute value that is drawn; the axes of much larger values overflow."""


def read_records(directory: Path) -> list[Record]:
    """Return the records of a run's ``metrics.jsonl``, without an incomplete last line.

    Raises UsageError if the file is missing, cannot be read, has an invalid line, or was written by an older fedws.
    """
    path = directory / METRICS_FILE
    try:
        *whole, last = path.read_bytes().split(b"\n")  # a line that ends with a line feed is complete
    except (FileNotFoundError, NotADirectoryError):
        raise UsageError(f"{directory}: {METRICS_FILE} not found; give the directory of a run") from None
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror or error}") from None
    records: list[Record] = []
    for number, line in enumerate([*whole, last], 1):
        try:
            records += [stored_records.parse_record(line)] if line.strip() else []
        except ValueError as error:
            if number <= len(whole):
                raise UsageError(
                    f"{path}: line {number} is not a valid record: {get_error_text(error)}; remove the line"
                ) from None
    if any(record["kind"] == "score" for record in records):
        raise UsageError(f"{path} was written by an older fedws; plot it with that version")
    return records


def metric_series(records: Sequence[Record], metric: str = "accuracy") -> Series:
    """Return the values of ``metric`` for each evaluated model, as points (round, value).

    The last evaluation of a model in a round counts. A value that is not finite, or whose magnitude exceeds
    ``MAX_PLOTTED_VALUE``, is omitted.

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
    """Return the share (0 to 1) of the predictions in each set of labels, by model and round.

    The sets are the result of ``fedws.recording.evaluation_lines.distinct_label_sets``, in its order.

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
