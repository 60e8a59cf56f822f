"""The confusion matrix of the evaluator application, against counts by hand."""

import pytest
import torch

from evaluator.confusion import ConfusionMatrix
from fedws.updates.metrics import select_tables


def observed(*batches: tuple[list[int], list[int]], classes: int = 3) -> ConfusionMatrix:
    """Return the matrix of batches of predicted and true classes."""
    matrix = ConfusionMatrix()
    for predicted, true in batches:
        matrix.observe(torch.eye(classes)[torch.tensor(predicted)], torch.tensor(true))
    return matrix


def test_batches_add_up() -> None:
    matrix = observed(([0, 1, 1], [0, 0, 2]), ([2, 2], [2, 2]))
    assert matrix.table() == [[1, 1, 0], [0, 0, 0], [0, 1, 2]]


def test_small_counts_stay_on_the_node() -> None:
    matrix = observed(([0, 0, 1], [0, 0, 1]))
    assert matrix.table(1) == [[2, 0, 0], [0, 1, 0], [0, 0, 0]]
    assert matrix.table(2) is None, "one cell counts a single sample"
    assert observed(([0, 0], [0, 0])).table(2) == [[2, 0, 0], [0, 0, 0], [0, 0, 0]]


def test_a_model_that_is_not_a_classifier_has_none() -> None:
    matrix = ConfusionMatrix()
    assert matrix.table() is None
    labels = torch.zeros(4, dtype=torch.int64)
    for outputs, targets in [
        (torch.zeros(4, 1, 8, 8), torch.zeros(4, 1, 8, 8)),
        (torch.zeros(4, 2), torch.zeros(4)),
        (torch.zeros(4, 2), torch.zeros(4, dtype=torch.complex64)),
        (torch.zeros(4, 1), labels),
        (torch.zeros(4, 0), labels),
        (torch.zeros(3, 2), labels),
        ((torch.zeros(4, 2),), labels),
    ]:
        matrix = ConfusionMatrix()
        matrix.observe(outputs, targets)
        assert matrix.table() is None and matrix.num_classes == 0


def test_batches_of_different_numbers_of_classes_have_none() -> None:
    matrix = observed(([0], [0]), classes=2)
    for classes in (3, 2, 2):
        matrix.observe(torch.zeros(1, classes), torch.tensor([0]))
        assert matrix.table() is None and matrix.num_classes == 0


def test_a_target_that_is_not_a_class_is_not_counted() -> None:
    """-100 marks a sample to ignore in torch's losses; 3 is beyond the last class."""
    matrix = observed(([0, 1, 2, 1, 2], [0, -100, 2, 3, -1]), ([1], [2**40]))
    assert matrix.table() == [[1, 0, 0], [0, 0, 0], [0, 0, 1]]
    assert observed(([0, 1], [-100, -100]), classes=2).table() == [[0, 0], [0, 0]]


def test_targets_of_each_integer_type_are_counted() -> None:
    for dtype in (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64, torch.bool):
        matrix = ConfusionMatrix()
        matrix.observe(torch.eye(100)[[0, 99]], torch.tensor([0, 1], dtype=dtype))
        table = matrix.table()
        assert table is not None and table[0][0] == table[1][99] == 1


def test_the_largest_matrix_is_one_that_the_coordinator_records() -> None:
    table = observed(([0, 99], [99, 99]), classes=100).table()
    assert table is not None and (table[99][0], table[99][99]) == (1, 1)
    assert select_tables({"confusion": table}) == {"confusion": table}


@pytest.mark.parametrize("classes", [101, 1000, 20_000])
def test_a_model_of_more_classes_has_none_and_allocates_none(classes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A table of 20,000 classes would take 3.2 GB, and the coordinator chooses the model."""
    monkeypatch.setattr(torch, "bincount", lambda *_, **__: pytest.fail("counted"))
    matrix = ConfusionMatrix()
    for _ in range(2):
        matrix.observe(torch.zeros(2, classes), torch.tensor([0, classes - 1]))
    assert matrix.table() is None and matrix.num_classes == classes
