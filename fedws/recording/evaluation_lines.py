"""Log lines of a model's evaluation, with the exact wording of the demo that fedws replaces."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from fedws.data import label_ranges
from fedws.recording.stored_records import WorkerLabels

FEDERATED_MODEL = "federated"
"""Name of the federated model among the evaluated models."""

MAX_LABELS_CHARS = 64
"""Maximum number of characters of a set of labels in a line."""


def format_loss(loss: float | None) -> str:
    """Return a loss with four decimals, or with an exponent if it has more than 15 digits before the point.

    None stands for a loss that is not a finite number, as in a record.

    >>> format_loss(0.12345), format_loss(1e300), format_loss(None)
    ('0.1235', '1.0000e+300', 'nan')
    """
    loss = math.nan if loss is None else loss
    return f"{loss:.4e}" if abs(loss) >= 1e15 else f"{loss:.4f}"


def format_evaluation(record: Mapping[str, Any], label_sets: Sequence[Sequence[int]]) -> list[str]:
    """Return the one or two log lines of an ``evaluation`` record.

    The first line contains the share of the predictions in each of ``label_sets``, truncated to whole percents. It is
    omitted without label sets, and without predicted label counts, which an evaluator may withhold.

    >>> record = {"model": "alice", "loss": 2.3, "num_correct": 3, "num_examples": 8}
    >>> record["predicted_label_counts"] = [5, 2, 1]
    >>> print(*format_evaluation(record, [[0, 1], [2]]), sep="\\n")
    Model update alice: Percentage numbers 0-1: 87%, 2: 12%
    Model update alice: Average loss: 2.3000, Accuracy: 3/8 (37.50%)
    """
    name = "Federated model" if record["model"] == FEDERATED_MODEL else f"Model update {record['model']}"
    if record["num_correct"] is None:
        return [f"{name}: Average loss: {format_loss(record['loss'])}"]
    histogram, samples = record["predicted_label_counts"], record["num_examples"]
    accuracy = f"Accuracy: {record['num_correct']}/{samples} ({100 * record['num_correct'] / samples:.2f}%)"
    line = f"{name}: Average loss: {format_loss(record['loss'])}, {accuracy}"
    if not label_sets or histogram is None:
        return [line]
    percentages = [100 * _count_predictions(histogram, group) // samples for group in label_sets]
    shares = (
        f"{label_ranges.format_labels(group, MAX_LABELS_CHARS)}: {percentage}%"
        for group, percentage in zip(label_sets, percentages, strict=True)
    )
    return [f"{name}: Percentage numbers {', '.join(shares)}", line]


def _count_predictions(histogram: Sequence[int], labels: Sequence[int]) -> int:
    return sum(histogram[label] for label in labels if label < len(histogram))


def distinct_label_sets(worker_labels: WorkerLabels) -> list[tuple[int, ...]]:
    """Return the distinct sets of labels that workers hold, each ascending, in the order of the workers."""
    return list(dict.fromkeys(tuple(sorted(set(labels))) for labels in worker_labels.values() if labels))
