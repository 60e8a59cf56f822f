"""What of a report's metrics counts as a number, and the mean over workers, against fractions."""

import dataclasses
import json
import math
import random
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedws.protocol.messages import TaskResult
from fedws.updates.metrics import (
    MAX_METRIC_NAME_CHARS,
    MAX_METRICS,
    WeightedMetrics,
    average_metrics,
    select_numbers,
    select_tables,
    weigh_metrics,
)
from fedws.updates.weighted_mean import MAX_WEIGHT

FINITE = st.floats(allow_nan=False, allow_infinity=False)
WEIGHTED = st.lists(st.tuples(st.integers(1, MAX_WEIGHT), FINITE), min_size=1, max_size=8)


def report(samples: int = 10, /, **metrics: Any) -> TaskResult:
    return TaskResult(request_id="1/alice", worker="alice", round=1, num_examples=samples, metrics=metrics)


NO_NUMBERS: list[Any] = ["cpu", True, False, None, [1.0], {"a": 1.0}, b"1", "1.0"]


@pytest.mark.parametrize("value", NO_NUMBERS, ids=repr)
def test_what_is_not_a_number_is_left_out(value: Any) -> None:
    assert select_numbers({"mine": value, "loss": 0.5}) == {"loss": 0.5}


@pytest.mark.parametrize("name", ["", "x" * (MAX_METRIC_NAME_CHARS + 1), "two\nlines", "\x1b[2J", "\ud800"])
def test_a_name_that_a_log_cannot_show_is_left_out(name: str) -> None:
    assert select_numbers({name: 1.0, "y" * MAX_METRIC_NAME_CHARS: 2}) == {"y" * MAX_METRIC_NAME_CHARS: 2.0}


def test_a_report_has_so_many_numbers_at_most() -> None:
    flood = {f"n{number}": number for number in range(10 * MAX_METRICS)}
    assert list(select_numbers(flood)) == list(flood)[:MAX_METRICS]
    assert all(type(value) is float for value in select_numbers(flood).values())


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 10**400, -(10**400)], ids=lambda it: f"{it}"[:9])
def test_a_value_that_is_not_finite_is_not_hidden(value: float) -> None:
    """A loss that diverged at one worker makes the mean NaN, which a record holds as null."""
    assert math.isnan(select_numbers({"loss": value})["loss"])
    found = average_metrics([weigh_metrics(report(loss=0.5, norm=1)), weigh_metrics(report(loss=value, norm=3))])
    assert math.isnan(found.pop("loss")) and found == {"norm": 2.0}


@pytest.mark.parametrize(
    ("samples", "holds", "weight"),
    [
        (3, 10, 3),
        (MAX_WEIGHT, 10, MAX_WEIGHT),
        (MAX_WEIGHT + 1, 10, 10),
        (0, 10, 10),
        (-3, 10, 10),
        (2.0, 10, 10),
        (True, 10, 10),
        ("3", 10, 10),
        (None, 0, 1),
        (None, -5, 1),
        (None, 2**70, 1),
    ],
)
def test_a_report_weighs_its_samples(samples: Any, holds: int, weight: int) -> None:
    assert weigh_metrics(report(holds, loss=0.5, num_examples=samples)) == WeightedMetrics(weight, {"loss": 0.5})


def test_each_metric_is_averaged_over_the_reports_that_have_it() -> None:
    reports = [report(1, a=1.0, b=10), report(3, a=5.0), report(50, b=20, c=7, num_examples=1)]
    assert average_metrics([weigh_metrics(it) for it in reports]) == {"a": 4.0, "b": 15.0, "c": 7.0}
    assert average_metrics([]) == average_metrics([weigh_metrics(report())]) == {}


@settings(deadline=None, max_examples=200)
@given(weighted=WEIGHTED, seed=st.integers())
def test_the_mean_is_exact_and_the_order_of_reports_does_not_show(weighted: list[tuple[int, float]], seed: int) -> None:
    """Against rational numbers, rounded once; so it neither overflows nor loses a small value beside a large one."""
    reports = [WeightedMetrics(weight, {"x": value}) for weight, value in weighted]
    shuffled = random.Random(seed).sample(reports, len(reports))
    total = sum(weight * Fraction(value) for weight, value in weighted)
    oracle = float(total / sum(weight for weight, _ in weighted))
    assert average_metrics(reports) == average_metrics(shuffled) == {"x": oracle}


def test_a_record_holds_so_many_means_and_those_of_most_workers() -> None:
    """One worker's flood of names does not displace what the others report."""
    flood = {f"!{number:03}": 1.0 for number in range(MAX_METRICS)}
    reports = [WeightedMetrics(1, flood), *(WeightedMetrics(1, {"loss": 1.0, "norm": value}) for value in (2.0, 4.0))]
    found = average_metrics(reports)
    assert len(found) == MAX_METRICS and list(found) == sorted(found)
    assert (found["loss"], found["norm"]) == (1.0, 3.0)


def test_numbers_are_plain_data() -> None:
    found = weigh_metrics(report(4, loss=0.1, steps=3))
    assert json.loads(json.dumps(dataclasses.asdict(found))) == {"weight": 4, "values": {"loss": 0.1, "steps": 3.0}}


@pytest.mark.parametrize(
    ("value", "recorded"),
    [
        ([[0]], True),
        ([[1, 2, 3]], True),
        ([[2**40]], True),
        ([[0] * 100] * 100, True),
        ([[0] * 100] * 101, False),
        ([[0]] * 10_001, False),
        ([[1], [1, 2]], False),
        ([[1.0]], False),
        ([[True]], False),
        ([[-1]], False),
        ([[2**40 + 1]], False),
        ([["1"]], False),
        ([[[1]]], False),
        ([1, 2], False),
        ([[]], False),
        ([], False),
        ("text", False),
    ],
)
def test_which_values_are_tables(value: Any, recorded: bool) -> None:
    assert select_tables({"cells": value}) == ({"cells": value} if recorded else {})


def test_tables_of_one_report_are_bounded_together() -> None:
    table = [[0] * 50] * 100
    assert list(select_tables(dict.fromkeys("abc", table))) == ["a", "b"]
    assert select_tables({"": [[1]], "a\nb": [[1]], "x" * 65: [[1]]}) == {}
