"""The lines that tell of a model's score, word for word those of the demo that fedws succeeds."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from fedws.data import label_ranges

FEDERATED = "federated"
"""The name of the federated model among the scored ones."""

LONGEST = 64
"""Characters of a set of labels in a line."""


def number(loss: float | None) -> str:
    """Return a loss with four decimals; one that has more than 15 digits before them, with an exponent.

    A record has None for a loss that is no number.

    >>> number(0.12345), number(1e300), number(None)
    ('0.1235', '1.0000e+300', 'nan')
    """
    loss = math.nan if loss is None else loss
    return f"{loss:.4e}" if abs(loss) >= 1e15 else f"{loss:.4f}"


def score_lines(record: Mapping[str, Any], groups: Sequence[Sequence[int]]) -> list[str]:
    """What a ``score`` record says, in one line or two.

    ``groups`` are sets of labels; the share of the predictions that fall into each is cut to whole percents. Without a
    histogram, which an evaluator may keep back, there are no shares.

    >>> record = {"model": "alice", "loss": 2.3, "correct": 3, "samples": 8, "histogram": [5, 2, 1]}
    >>> print(*score_lines(record, [[0, 1], [2]]), sep="\\n")
    Model update alice: Percentage numbers 0-1: 87%, 2: 12%
    Model update alice: Average loss: 2.3000, Accuracy: 3/8 (37.50%)
    """
    name = "Federated model" if record["model"] == FEDERATED else f"Model update {record['model']}"
    if record["correct"] is None:
        return [f"{name}: Average loss: {number(record['loss'])}"]
    histogram, samples = record["histogram"], record["samples"]
    result = f"Accuracy: {record['correct']}/{samples} ({100 * record['correct'] / samples:.2f}%)"
    told = f"{name}: Average loss: {number(record['loss'])}, {result}"
    if not groups or histogram is None:
        return [told]
    shares = (f"{label_ranges.short(group, LONGEST)}: {100 * _count(histogram, group) // samples}%" for group in groups)
    return [f"{name}: Percentage numbers {', '.join(shares)}", told]


def _count(histogram: Sequence[int], group: Sequence[int]) -> int:
    return sum(histogram[label] for label in group if label < len(histogram))
