"""The confusion matrix of the evaluator application, against counts by hand."""

import torch

from evaluator.confusion import ConfusionMatrix


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
    matrix.observe(torch.zeros(4, 1, 8, 8), torch.zeros(4, 1, 8, 8))
    matrix.observe(torch.zeros(4, 2), torch.zeros(4))
    matrix.observe((torch.zeros(4, 2),), torch.zeros(4, dtype=torch.int64))
    assert matrix.table() is None
