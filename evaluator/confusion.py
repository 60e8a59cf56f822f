"""The confusion matrix of a classifier on the evaluator's data."""

from typing import Any

import torch


class ConfusionMatrix:
    """Counts the samples of each class by the class that the model predicts for them."""

    def __init__(self) -> None:
        self._counts: torch.Tensor | None = None

    def observe(self, outputs: Any, targets: Any) -> None:
        """Count one batch: outputs of shape [n, classes] and integer targets of shape [n]. Ignore any other batch."""
        if not isinstance(outputs, torch.Tensor) or outputs.dim() != 2 or not isinstance(targets, torch.Tensor):
            return
        if targets.dim() != 1 or targets.is_floating_point():
            return
        classes = outputs.shape[1]
        cells = targets.long() * classes + outputs.argmax(dim=1)
        counts = torch.bincount(cells, minlength=classes**2).reshape(classes, classes).cpu()
        self._counts = counts if self._counts is None else self._counts + counts

    def table(self, min_samples: int = 1) -> list[list[int]] | None:
        """Return the matrix: a row for each true class, a column for each predicted one.

        Return None for a model that is not a classifier, and where a cell counts fewer than ``min_samples`` samples but
        not zero: such a count says too much about single samples.
        """
        if self._counts is None or bool(((self._counts > 0) & (self._counts < min_samples)).any()):
            return None
        return [[int(cell) for cell in row] for row in self._counts]
