"""Multinomial logistic regression: one dense layer."""

import torch
from torch import nn
from torch.nn import functional

from fedws.core.errors import UsageError
from fedws.core.registry import register

MAX_WEIGHTS = 100_000_000
"""Weights; a peer may name the sizes, so they are checked before anything is allocated."""


@register("model", "linear")
class Linear(nn.Module):
    """Samples of any shape with ``inputs`` values, [n, ...], to log-probabilities [n, outputs]."""

    def __init__(self, *, inputs: int = 784, outputs: int = 10) -> None:
        super().__init__()
        if inputs < 1 or outputs < 1 or inputs * outputs > MAX_WEIGHTS:
            raise UsageError(f"linear: {inputs} x {outputs} weights; it takes at least 1 and at most {MAX_WEIGHTS:,}")
        self.dense = nn.Linear(inputs, outputs)

    def forward(self, samples: torch.Tensor) -> torch.Tensor:
        """Log-probabilities."""
        return functional.log_softmax(self.dense(samples.flatten(1)), dim=1)
