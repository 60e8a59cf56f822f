"""Multinomial logistic regression, which is one dense layer."""

import torch
from torch import nn
from torch.nn import functional

from fedws.core.errors import UsageError
from fedws.core.registry import register

MAX_WEIGHTS = 100_000_000
"""Maximum number of weights, which is checked before memory is allocated, since a peer may choose the sizes."""


@register("model", "linear")
class Linear(nn.Module):
    """Layer that maps samples of any shape with ``inputs`` values, [n, ...], to log-probabilities [n, outputs].

    Raises UsageError for a size below 1 and for more than ``MAX_WEIGHTS`` weights.
    """

    def __init__(self, *, inputs: int = 784, outputs: int = 10) -> None:
        super().__init__()
        if inputs < 1 or outputs < 1 or inputs * outputs > MAX_WEIGHTS:
            raise UsageError(f"linear: {inputs} x {outputs} weights, expected 1 to {MAX_WEIGHTS:,}")
        self.dense = nn.Linear(inputs, outputs)

    def forward(self, samples: torch.Tensor) -> torch.Tensor:
        """Return the log-probabilities [n, outputs]."""
        return functional.log_softmax(self.dense(samples.flatten(1)), dim=1)
