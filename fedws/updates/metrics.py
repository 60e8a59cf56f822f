"""The numbers that nodes return beside tensors, and their means over workers for the ``metrics`` of a record."""

import math
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from fedws.protocol.messages import TaskResult
from fedws.updates.weighted_mean import MAX_WEIGHT, average_numbers

MAX_METRICS = 64
"""Maximum number of metrics of one result and of one record."""
MAX_METRIC_NAME_CHARS = 64
"""Maximum number of characters of a metric's name."""
SIGNIFICANT_DIGITS = 5
"""Number of significant digits of a metric; further digits could disclose single samples."""
MAX_TABLE_CELLS = 10_000
"""Maximum number of cells of all tables of one result together."""


@dataclass(frozen=True)
class WeightedMetrics:
    """The metrics of one result, as plain data for the state of a scheduler."""

    weight: int
    """Number of samples behind the values."""
    values: dict[str, float]


def select_numbers(metrics: Mapping[str, Any], exclude: Collection[str] = ()) -> dict[str, float]:
    """Return the first ``MAX_METRICS`` numbers of a result's metrics, without those named in ``exclude``.

    A peer chooses the names, so empty, long and unprintable ones are omitted. A value that is not finite becomes NaN.

    >>> metrics = {"loss": 0.5, "num_examples": 3, "device": "cpu", "done": True, "norm": math.inf}
    >>> select_numbers(metrics, ["num_examples"])
    {'loss': 0.5, 'norm': nan}
    """
    found = (
        (name, _finite_or_nan(value))
        for name, value in metrics.items()
        if isinstance(value, int | float)
        and not isinstance(value, bool)
        and _is_valid_name(name)
        and name not in exclude
    )
    return dict(islice(found, MAX_METRICS))


def select_tables(metrics: Mapping[str, Any]) -> dict[str, list[list[int]]]:
    """Return the tables of a result's metrics, which are lists of rows of equal length of non-negative integers.

    The first table that exceeds ``MAX_TABLE_CELLS`` cells in total is omitted, with all tables after it.

    >>> select_tables({"confusion": [[3, 1], [0, 2]], "loss": 0.5, "ragged": [[1], [2, 3]], "empty": []})
    {'confusion': [[3, 1], [0, 2]]}
    """
    found, cells = {}, 0
    for name, value in metrics.items():
        if _is_valid_name(name) and _is_table(value):
            cells += sum(len(row) for row in value)
            if cells > MAX_TABLE_CELLS:
                break
            found[name] = value
    return found


def round_metrics(value: Any) -> Any:
    """Return metrics with each float rounded to ``SIGNIFICANT_DIGITS`` significant digits, at any depth.

    >>> round_metrics({"loss": 2.302585093, "each": [0.000123456789], "num_examples": 1234567})
    {'loss': 2.3026, 'each': [0.00012346], 'num_examples': 1234567}
    """
    if isinstance(value, float):
        return float(f"{value:.{SIGNIFICANT_DIGITS}g}")
    if isinstance(value, Mapping):
        return {name: round_metrics(inner) for name, inner in value.items()}
    return [round_metrics(inner) for inner in value] if isinstance(value, list | tuple) else value


def weigh_metrics(result: TaskResult) -> WeightedMetrics:
    """Return a worker's numbers with their weight.

    The weight is the ``num_examples`` metric, or the number of all samples of the worker if that metric is not valid.
    """
    weights = (result.metrics.get("num_examples"), result.num_examples)
    weight = next((it for it in weights if type(it) is int and 1 <= it <= MAX_WEIGHT), 1)
    return WeightedMetrics(weight, select_numbers(result.metrics, ["num_examples"]))


def average_metrics(results: Sequence[WeightedMetrics]) -> dict[str, float]:
    """Return each metric's mean over the results that have it.

    A mean is exact and rounded once, so the order of the results does not change it. It is NaN if a value is NaN. If
    there are more than ``MAX_METRICS`` names, the most frequent ones are returned.
    """
    count = Counter(name for result in results for name in result.values)
    names = sorted(count, key=lambda name: (-count[name], name))[:MAX_METRICS]
    return {
        name: average_numbers([(result.weight, result.values[name]) for result in results if name in result.values])
        for name in sorted(names)
    }


def _finite_or_nan(value: float) -> float:
    try:
        number = float(value)
    except OverflowError:  # an integer outside the range of floats
        return math.nan
    return number if math.isfinite(number) else math.nan


def _is_valid_name(name: str) -> bool:
    return 0 < len(name) <= MAX_METRIC_NAME_CHARS and name.isprintable()


def _is_table(value: Any) -> bool:
    """Return True if a value is a table: rows of equal length, of integers from 0 to ``MAX_WEIGHT``."""
    if (
        not isinstance(value, list)
        or not 0 < len(value) <= MAX_TABLE_CELLS
        or not all(isinstance(row, list) for row in value)
    ):
        return False
    if len({len(row) for row in value}) > 1 or not 0 < len(value) * len(value[0]) <= MAX_TABLE_CELLS:
        return False
    return all(type(cell) is int and 0 <= cell <= MAX_WEIGHT for row in value for cell in row)
