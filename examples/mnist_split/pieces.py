"""Pieces of one's own: a model, a data set, a loss and an optimizer. Every node of the run is started with this file:

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
    """Any torch module. A keyword-only argument is an option: ``--model small_net:64`` or ``small_net:hidden=64``."""

    def __init__(self, *, hidden: int = 32) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(64, hidden), nn.ReLU(), nn.Linear(hidden, 10))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Images [n, 1, 8, 8] to scores of the ten digits [n, 10]."""
        scores: torch.Tensor = self.layers(images)
        return scores


@fedws.register("dataset", "small_digits")
class SmallDigits(torch.utils.data.Dataset[tuple[torch.Tensor, int]]):
    """Any torch map-style data set; ``targets`` lets workers hold some of the labels only.

    These are the 1,797 digits of 8 x 8 pixels that come with scikit-learn; every fifth is for testing. ``root`` is the
    folder for data (``--data-dir``), which nothing is read from here.
    """

    def __init__(self, root: Path, train: bool) -> None:
        digits = load_digits()
        mine = (np.arange(len(digits.target)) % 5 != 0) == train
        self.images = torch.tensor(digits.images[mine], dtype=torch.float32).unsqueeze(1) / 16
        self.targets = torch.tensor(digits.target[mine])

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return self.images[index], int(self.targets[index])


@fedws.register("loss", "smoothed")
def smoothed(*, by: float = 0.1) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
    """A function of outputs and targets that gives the batch's mean loss."""
    return nn.CrossEntropyLoss(label_smoothing=by)


@fedws.register("optimizer", "quick")
def quick(parameters: Iterable[nn.Parameter], lr: float, *, momentum: float = 0.5) -> torch.optim.Optimizer:
    """Any torch optimizer; each order gets a new one."""
    return torch.optim.SGD(parameters, lr, momentum=momentum, nesterov=True)
