import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedws.core.demo_nodes import DEMO_LABELS
from fedws.core.errors import UsageError
from fedws.data import label_ranges


@pytest.mark.parametrize(
    ("text", "labels"),
    [
        ("0-3", (0, 1, 2, 3)),
        ("0,5", (0, 5)),
        ("0-2,7", (0, 1, 2, 7)),
        ("4", (4,)),
        ("9,1", (1, 9)),
        ("1-3,2-4", (1, 2, 3, 4)),
        (" 0 , 5 ", (0, 5)),
        ("0-9", tuple(range(10))),
    ],
)
def test_parse(text: str, labels: tuple[int, ...]) -> None:
    assert label_ranges.parse_labels(text) == labels


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "'' is not a label or a range; use the form 0-3 or 0,5 or 0-2,7"),
        ("1,", "'' is not a label or a range"),
        ("a", "'a' is not a label"),
        ("-1", "'-1' is not a label"),
        ("1-2-3", "'1-2-3' is not a label"),
        ("1.5", "'1.5' is not a label"),
        ("٣", "'٣' is not a label"),
        ("9" * 5000, "'999"),
        ("3-0", "the range 3-0 is reversed; use 0-3"),
        ("0-10", "label 10 is out of range; the data set has the labels 0-9"),
        ("0-999999999", "label 999999999 is out of range"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(text: str, problem: str) -> None:
    with pytest.raises(UsageError) as caught:
        label_ranges.parse_labels(text)
    assert str(caught.value).startswith(f"--labels {text[:80]}: {problem}") and "\n" not in str(caught.value)


def test_the_range_is_that_of_the_data_set() -> None:
    assert label_ranges.parse_labels("90-99", 100)[-1] == 99
    with pytest.raises(UsageError, match="label 2 is out of range; the data set has the labels 0-1"):
        label_ranges.parse_labels("2", 2)


@pytest.mark.parametrize(
    ("labels", "text"),
    [([0, 1, 2, 3], "0-3"), ([0, 5], "0,5"), ([0, 1, 2, 7], "0-2,7"), ([4], "4"), ([4, 5], "4-5"), ([3, 3, 1], "1,3")],
)
def test_short(labels: list[int], text: str) -> None:
    assert label_ranges.format_labels(labels) == text


@given(st.sets(st.integers(0, 99), min_size=1))
def test_parse_reads_what_short_writes(labels: set[int]) -> None:
    assert label_ranges.parse_labels(label_ranges.format_labels(labels), 100) == tuple(sorted(labels))


def test_the_workers_of_the_demo_hold_every_digit_once() -> None:
    assert sorted(label for held in DEMO_LABELS.values() for label in held) == list(range(10))
