"""Small network for CIFAR-10 with five convolutions, batch norm and 141,034 parameters."""

import torch
from torch import nn
from torch.nn import functional

from fedws.core.registry import register


@register("model", "cifar_cnn")
class CifarCnn(nn.Module):
    """Network that maps images [n, 3, 32, 32] to log-probabilities of ten classes [n, 10]."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            *_block(3, 32), *_block(32, 32), nn.MaxPool2d(2),
            *_block(32, 64), *_block(64, 64), nn.MaxPool2d(2),
            *_block(64, 128), nn.AdaptiveAvgPool2d(1),
        )  # fmt: skip
        self.classes = nn.Linear(128, 10)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return the log-probabilities [n, 10]."""
        return functional.log_softmax(self.classes(self.features(images).flatten(1)), dim=1)


def _block(inputs: int, outputs: int) -> tuple[nn.Module, ...]:
    return nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()
