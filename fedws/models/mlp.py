"""The network "2NN" of McMahan et al. 2017 (arXiv:1602.05629), section 3.

It has two hidden layers of 200 units and 199,210 parameters.
"""

import torch
from torch import nn
from torch.nn import functional

from fedws.core.errors import UsageError
from fedws.core.registry import register

MAX_LAYER_WIDTH = 10_000
"""Maximum width of a layer, which is checked before memory is allocated, since a peer may choose the width."""


@register("model", "mlp")
class Mlp(nn.Module):
    """Network that maps samples of any shape with ``inputs`` values, [n, ...], to log-probabilities [n, outputs].

    Raises UsageError for a width outside 1 to ``MAX_LAYER_WIDTH``.
    """

    def __init__(self, *, hidden: int = 200, inputs: int = 784, outputs: int = 10) -> None:
        super().__init__()
        if not all(1 <= width <= MAX_LAYER_WIDTH for width in (hidden, inputs, outputs)):
            raise UsageError(f"mlp: hidden, inputs and outputs must be 1 to {MAX_LAYER_WIDTH:,}")
        self.fc1 = nn.Linear(inputs, hidden)
        self.relu1 = nn.ReLU()
        self.fc2 = nn.Linear(hidden, hidden)
        self.relu2 = nn.ReLU()
        self.fc3 = nn.Linear(hidden, outputs)

    def forward(self, samples: torch.Tensor) -> torch.Tensor:
        """Return the log-probabilities [n, outputs]."""
        x = self.relu1(self.fc1(samples.flatten(1)))
        x = self.relu2(self.fc2(x))
        return functional.log_softmax(self.fc3(x), dim=1)
