"""The numbers that nodes report beside tensors, and their mean over workers: what a record holds as ``metrics``."""

import math
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from fedws.protocol.messages import Report

MOST = 64
"""Metrics of one report, and of one record."""
LONGEST = 64
"""Characters of a metric's name."""
MOST_SAMPLES = 2**40
"""Largest weight of a report."""
DIGITS = 5
"""Number of significant digits of a score; those behind them would tell more of single samples than of a model."""
MOST_CELLS = 10_000
"""Cells of all tables of one report."""
_UNIT = 1074
"""Every finite float is an integer times ``2**-_UNIT``."""


@dataclass(frozen=True)
class Numbers:
    """The metrics of one report: plain data, for the state of a strategy."""

    weight: int
    """Number of samples behind the values."""
    values: dict[str, float]


def numbers(metrics: Mapping[str, Any], without: Collection[str] = ()) -> dict[str, float]:
    """Return the first :data:`MOST` numbers of a report's metrics, but for those named in ``without``.

    Names are a peer's text: one that is empty, long or not printable is left out. A value that is not finite is NaN.

    >>> numbers({"loss": 0.5, "samples": 3, "device": "cpu", "done": True, "norm": math.inf}, ["samples"])
    {'loss': 0.5, 'norm': nan}
    """
    found = (
        (name, _float(value))
        for name, value in metrics.items()
        if isinstance(value, int | float) and not isinstance(value, bool) and _named(name) and name not in without
    )
    return dict(islice(found, MOST))


def tables(metrics: Mapping[str, Any]) -> dict[str, list[list[int]]]:
    """Return the tables of a report's metrics: lists of rows of equal length, of integers from 0 on.

    At most :data:`MOST_CELLS` cells of all tables together are returned, and no other table.

    >>> tables({"confusion": [[3, 1], [0, 2]], "loss": 0.5, "ragged": [[1], [2, 3]], "empty": []})
    {'confusion': [[3, 1], [0, 2]]}
    """
    found, cells = {}, 0
    for name, value in metrics.items():
        if _named(name) and _tabular(value):
            cells += sum(len(row) for row in value)
            if cells > MOST_CELLS:
                break
            found[name] = value
    return found


def rounded(value: Any) -> Any:
    """Return metrics with each float rounded to :data:`DIGITS` significant digits, at any depth.

    >>> rounded({"loss": 2.302585093, "each": [0.000123456789], "samples": 1234567})
    {'loss': 2.3026, 'each': [0.00012346], 'samples': 1234567}
    """
    if isinstance(value, float):
        return float(f"{value:.{DIGITS}g}")
    if isinstance(value, Mapping):
        return {name: rounded(inner) for name, inner in value.items()}
    return [rounded(inner) for inner in value] if isinstance(value, list | tuple) else value


def reported(report: Report) -> Numbers:
    """Return a worker's numbers, weighted by its ``samples`` metric, or else by all samples that it holds."""
    weights = (report.metrics.get("samples"), report.samples)
    weight = next((it for it in weights if type(it) is int and 1 <= it <= MOST_SAMPLES), 1)
    return Numbers(weight, numbers(report.metrics, ["samples"]))


def mean(reports: Sequence[Numbers]) -> dict[str, float]:
    """Return each metric's mean over the reports that have it: exact, rounded once, whatever the order of reports.

    It is NaN where one of the values is. Of more than :data:`MOST` names, those stay that most reports have.
    """
    count = Counter(name for report in reports for name in report.values)
    names = sorted(count, key=lambda name: (-count[name], name))[:MOST]
    return {
        name: _mean([(report.weight, report.values[name]) for report in reports if name in report.values])
        for name in sorted(names)
    }


def _mean(weighted: Sequence[tuple[int, float]]) -> float:
    if any(math.isnan(value) for _, value in weighted):
        return math.nan
    total = 0
    for weight, value in weighted:
        numerator, denominator = value.as_integer_ratio()
        total += weight * numerator * ((1 << _UNIT) // denominator)
    return total / (sum(weight for weight, _ in weighted) << _UNIT)


def _float(value: float) -> float:
    try:
        number = float(value)
    except OverflowError:  # an integer beyond all floats
        return math.nan
    return number if math.isfinite(number) else math.nan


def _named(name: str) -> bool:
    return 0 < len(name) <= LONGEST and name.isprintable()


def _tabular(value: Any) -> bool:
    """Return whether a value is a table: rows of equal length, of integers from 0 to :data:`MOST_SAMPLES`."""
    if (
        not isinstance(value, list)
        or not 0 < len(value) <= MOST_CELLS
        or not all(isinstance(row, list) for row in value)
    ):
        return False
    if len({len(row) for row in value}) > 1 or not 0 < len(value) * len(value[0]) <= MOST_CELLS:
        return False
    return all(type(cell) is int and 0 <= cell <= MOST_SAMPLES for row in value for cell in row)
