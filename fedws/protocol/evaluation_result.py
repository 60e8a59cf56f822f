"""The result of an evaluation, as an evaluator reports it."""

from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

from fedws.core.limits import CLASSES, SAMPLES

_Count = Annotated[int, Field(ge=0, le=SAMPLES, strict=True)]


@dataclass(frozen=True)
class Score:
    """How good a model is on a node's data. ``accuracy``, ``correct`` and ``histogram`` are for classifiers only."""

    samples: Annotated[int, Field(ge=1, le=SAMPLES, strict=True)]
    loss: Annotated[float, Field(strict=True)]
    """The true mean over samples."""
    correct: _Count | None = None
    histogram: Annotated[list[_Count], Field(max_length=CLASSES, fail_fast=True)] | None = None
    """How often each label was predicted; None also where a label was predicted for so few samples that the node's
    policy does not let a number of them leave."""

    @property
    def accuracy(self) -> float | None:
        """Share of correct predictions, 0 to 1; None for a model that does not classify."""
        return None if self.correct is None else self.correct / self.samples
