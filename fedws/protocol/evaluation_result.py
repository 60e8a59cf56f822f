"""The result of an evaluation, as an evaluator returns it."""

from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

from fedws.core.limits import MAX_CLASSES, MAX_EXAMPLES

_NumExamples = Annotated[int, Field(ge=0, le=MAX_EXAMPLES, strict=True)]


@dataclass(frozen=True)
class EvalResult:
    """How good a model is on a node's data. ``accuracy``, ``num_correct`` and ``predicted_label_counts`` are for
    classifiers only."""

    num_examples: Annotated[int, Field(ge=1, le=MAX_EXAMPLES, strict=True)]
    loss: Annotated[float, Field(strict=True)]
    """The true mean over samples."""
    num_correct: _NumExamples | None = None
    predicted_label_counts: Annotated[list[_NumExamples], Field(max_length=MAX_CLASSES, fail_fast=True)] | None = None
    """How often each label was predicted; None also where a label was predicted for so few samples that the node's
    policy does not let a number of them leave."""

    @property
    def accuracy(self) -> float | None:
        """Share of correct predictions, 0 to 1; None for a model that does not classify."""
        return None if self.num_correct is None else self.num_correct / self.num_examples
