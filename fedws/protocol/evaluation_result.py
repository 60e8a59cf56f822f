"""The result of an evaluation, as an evaluator returns it."""

from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

from fedws.core.limits import MAX_CLASSES, MAX_EXAMPLES

_NumExamples = Annotated[int, Field(ge=0, le=MAX_EXAMPLES, strict=True)]


@dataclass(frozen=True)
class EvalResult:
    """The quality of a model on a node's data.

    ``accuracy``, ``num_correct`` and ``predicted_label_counts`` apply to classifiers only.
    """

    num_examples: Annotated[int, Field(ge=1, le=MAX_EXAMPLES, strict=True)]
    loss: Annotated[float, Field(strict=True)]
    """Exact mean of the loss over all samples."""
    num_correct: _NumExamples | None = None
    predicted_label_counts: Annotated[list[_NumExamples], Field(max_length=MAX_CLASSES, fail_fast=True)] | None = None
    """Number of predictions of each label.

    It is None too if a label was predicted for fewer samples than the node's policy allows to release.
    """

    @property
    def accuracy(self) -> float | None:
        """Return the share of correct predictions, 0 to 1, or None for a model that does not classify."""
        return None if self.num_correct is None else self.num_correct / self.num_examples
