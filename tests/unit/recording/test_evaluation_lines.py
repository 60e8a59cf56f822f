import re
from typing import Any

import pytest

from fedws.recording.evaluation_lines import FEDERATED_MODEL, format_evaluation
from tests.helpers.support import REPOSITORY, require

GROUPS = [[0, 1, 2, 3], [4, 5, 6], [7, 8, 9]]


def record(model: str, loss: float, correct: int | None, histogram: list[int] | None, samples: int = 10_000) -> Any:
    return {
        "model": model,
        "loss": loss,
        "num_correct": correct,
        "num_examples": samples,
        "predicted_label_counts": histogram,
    }


def test_the_lines_are_those_of_the_reference() -> None:
    """Word for word, from the reference's own page where this machine has it."""
    alice = format_evaluation(record("alice", 0.019, 2875, [2500] * 4 + [0] * 6), GROUPS)
    federated = format_evaluation(record(FEDERATED_MODEL, 0.0179, 1719, [9, 0, 0, 0, 0, 8699, 0, 0, 0, 1292]), GROUPS)
    lines = [
        "Model update alice: Percentage numbers 0-3: 100%, 4-6: 0%, 7-9: 0%",
        "Model update alice: Average loss: 0.0190, Accuracy: 2875/10000 (28.75%)",
        "Federated model: Percentage numbers 0-3: 0%, 4-6: 86%, 7-9: 12%",
        "Federated model: Average loss: 0.0179, Accuracy: 1719/10000 (17.19%)",
    ]
    assert [*alice, *federated] == lines
    page = REPOSITORY.parent / "shared" / "reference" / "mnist-split.md"
    require(page.is_file(), "the reference is not here (../shared/reference)")
    told = [line for line in page.read_text(encoding="utf-8").splitlines() if re.match("Model update|Federated", line)]
    assert told == lines


@pytest.mark.parametrize(("count", "percent"), [(0, 0), (1, 0), (99, 0), (100, 1), (9999, 99), (10_000, 100)])
def test_percentages_are_cut_and_never_rounded_up(count: int, percent: int) -> None:
    (line, _) = format_evaluation(record("a", 1, 1, [count, 10_000 - count]), [[0]])
    assert line == f"Model update a: Percentage numbers 0: {percent}%"


def test_a_share_is_exact_where_floats_are_not() -> None:
    """100 * (29 / 100) is 28.999999999999996."""
    assert format_evaluation(record("a", 1, 1, [29, 71], samples=100), [[0], [1]])[0].endswith("0: 29%, 1: 71%")


def test_groups_are_named_shortly_and_may_overlap() -> None:
    line, _ = format_evaluation(record("a", 1, 1, [1, 2, 3, 4], samples=10), [[0, 2], [1, 2, 3], [0, 1, 3]])
    assert line == "Model update a: Percentage numbers 0,2: 40%, 1-3: 90%, 0-1,3: 70%"


def test_labels_that_the_model_has_no_output_for_are_never_predicted() -> None:
    line, _ = format_evaluation(record("a", 1, 1, [10], samples=10), [[0], [1, 99]])
    assert line.endswith("0: 100%, 1,99: 0%")


def test_without_groups_there_is_one_line() -> None:
    assert format_evaluation(record("bob", 2, 5, [5, 5], samples=10), []) == [
        "Model update bob: Average loss: 2.0000, Accuracy: 5/10 (50.00%)"
    ]


def test_a_model_that_does_not_classify_has_a_loss_only() -> None:
    assert format_evaluation(record("bob", 0.12345, None, None), GROUPS) == ["Model update bob: Average loss: 0.1235"]


@pytest.mark.parametrize(("loss", "text"), [(0.00004, "0.0000"), (1234.5, "1234.5000"), (float("nan"), "nan")])
def test_any_loss_has_a_line(loss: float, text: str) -> None:
    assert format_evaluation(record("a", loss, None, None), []) == [f"Model update a: Average loss: {text}"]


def test_none_and_all_may_be_right() -> None:
    assert format_evaluation(record("a", 1, 0, [3], samples=3), [])[0].endswith("Accuracy: 0/3 (0.00%)")
    assert format_evaluation(record("a", 1, 3, [3], samples=3), [])[0].endswith("Accuracy: 3/3 (100.00%)")


def test_a_classifier_whose_histogram_was_kept_back_has_no_shares() -> None:
    assert format_evaluation(record("bob", 2, 5, None, samples=10), GROUPS) == [
        "Model update bob: Average loss: 2.0000, Accuracy: 5/10 (50.00%)"
    ]
