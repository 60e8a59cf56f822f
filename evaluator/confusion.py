"""Confusion matrix of a classifier on the evaluator's data."""

import math
from typing import Any

import torch

import fedws

MAX_MATRIX_CLASSES = math.isqrt(fedws.MAX_TABLE_CELLS)
"""Maximum number of classes of a matrix; a coordinator does not record a table with more cells."""


class ConfusionMatrix:
    """Counter of samples by their true class and the class that the model predicts."""

    def __init__(self) -> None:
        self.num_classes: int | None = None
        """Number of classes of the model, 0 if it is not a classifier, or None before the first batch."""
        self._counts: torch.Tensor | None = None

    def observe(self, outputs: Any, targets: Any) -> None:
        """Count one batch of outputs, shape [n, classes], and integer targets, shape [n].

        A target outside 0..classes-1, such as -100 for a sample to ignore, is not counted. A model whose batches have
        another form, or different numbers of classes, is not treated as a classifier. Since the coordinator chooses
        the model, no memory is allocated for more than ``MAX_MATRIX_CLASSES`` classes.
        """
        classes = _count_classes(outputs, targets)
        self.num_classes = classes if self.num_classes in (None, classes) else 0
        if not 2 <= self.num_classes <= MAX_MATRIX_CLASSES:
            self._counts = None
            return
        true, predicted = targets.long(), outputs.argmax(dim=1)
        valid = (true >= 0) & (true < classes)
        cells = true[valid] * classes + predicted[valid]
        counts = torch.bincount(cells, minlength=classes**2).reshape(classes, classes).cpu()
        self._counts = counts if self._counts is None else self._counts + counts

    def table(self, min_samples: int = 1) -> list[list[int]] | None:
        """Return the matrix, with a row for each true class and a column for each predicted class.

        Return None for a model that is not a classifier or has more than ``MAX_MATRIX_CLASSES`` classes. Also
        return None if a count is above zero but below ``min_samples``, since it could reveal individual samples.
        """
        if self._counts is None or bool(((self._counts > 0) & (self._counts < min_samples)).any()):
            return None
        return [[int(cell) for cell in row] for row in self._counts]


def _count_classes(outputs: Any, targets: Any) -> int:
    """Return the number of classes of a classifier's batch, which is at least 2, or 0 for any other batch."""
    if not isinstance(outputs, torch.Tensor) or not isinstance(targets, torch.Tensor):
        return 0
    if outputs.dim() != 2 or targets.dim() != 1 or len(outputs) != len(targets):
        return 0
    if targets.is_floating_point() or targets.is_complex() or outputs.shape[1] < 2:
        return 0
    return outputs.shape[1]
