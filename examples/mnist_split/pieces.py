"""The plugin with own pieces: a model, a data set, a loss and an optimizer.

Every node of the run loads it:

fedws worker --id alice --labels 0-3 --plugin examples/mnist_split/pieces.py --dataset small_digits
"""

from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import nn

import fedws


@fedws.register("model", "small_net")
class SmallNet(nn.Module):
    """A small network. Any torch module can be a model.

    A keyword-only argument is an option: ``--model small_net:64`` or ``small_net:hidden=64``.
    """

    def __init__(self, *, hidden: int = 32) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(64, hidden), nn.ReLU(), nn.Linear(hidden, 10))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return the scores of the ten digits [n, 10] for images [n, 1, 8, 8]."""
        scores: torch.Tensor = self.layers(images)
        return scores


@fedws.register("dataset", "small_digits")
class SmallDigits(torch.utils.data.Dataset[tuple[torch.Tensor, int]]):
    """The 1,797 digits of 8 x 8 pixels that come with scikit-learn. Any torch map-style data set can be a data set.

    Every fifth digit is for testing. The attribute ``targets`` allows workers to hold only some of the labels. ``root``
    is the directory of data sets (``--data-dir``), which this data set does not use.
    """

    def __init__(self, root: Path, train: bool) -> None:
        digits = load_digits()
        selected = (np.arange(len(digits.target)) % 5 != 0) == train
        self.images = torch.tensor(digits.images[selected], dtype=torch.float32).unsqueeze(1) / 16
        self.targets = torch.tensor(digits.target[selected])

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return self.images[index], int(self.targets[index])


@fedws.register("loss", "smoothed")
def smoothed(*, by: float = 0.1) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
    """Return a function of outputs and targets that returns the mean loss of a batch."""
    return nn.CrossEntropyLoss(label_smoothing=by)


@fedws.register("optimizer", "quick")
def quick(parameters: Iterable[nn.Parameter], lr: float, *, momentum: float = 0.5) -> torch.optim.Optimizer:
    """Return an optimizer. Any torch optimizer can be used. Each task request gets a new one."""
    return torch.optim.SGD(parameters, lr, momentum=momentum, nesterov=True)
