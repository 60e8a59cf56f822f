"""A plugin for the benchmark of MistNet: CIFAR-10 in a public and a private part, and models to cut.

Flags: --plugin benchmarks/mistnet/plugin.py --dataset cifar10_private --model small_vgg
"""

from pathlib import Path
from typing import Annotated

import torch
from pydantic import Field
from torch import nn
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from fedws.core.registry import register
from fedws.data.base import Dataset
from fedws.data.datasets.cifar10 import Cifar10
from fedws.data.samples import ImageDataset
from fedws.split_learning import communication_cost

PRIVATE = 40_000
"""Number of samples in the training batches 1 to 4; the samples of batch 5 are public."""
Samples = Annotated[int, Field(ge=1)]


@register("dataset", "cifar10_private")
def private(root: Path, train: bool, *, samples: Samples = PRIVATE) -> Dataset:
    """Return the first ``samples`` images of CIFAR-10's training batches 1 to 4, or of the test batch."""
    return _part(root, train, slice(0, min(samples, PRIVATE)))


@register("dataset", "cifar10_public")
def public(root: Path, train: bool, *, samples: Samples = PRIVATE) -> Dataset:
    """Return the first ``samples`` images of CIFAR-10's training batch 5, or of the test batch."""
    first = PRIVATE if train else 0
    return _part(root, train, slice(first, first + samples))


def _part(root: Path, train: bool, which: slice) -> ImageDataset:
    whole = Cifar10(root, train)
    mean, std = tuple(whole.mean.flatten().tolist()), tuple(whole.std.flatten().tolist())
    # Copies, so that the rest of the data set does not stay in memory.
    return ImageDataset(whole.pixels[which].clone(), whole.targets[which].clone(), mean, std)


@register("dataset", "noise")
def noise(root: Path, train: bool, *, samples: Samples = PRIVATE) -> Dataset:
    """Return random images [3, 32, 32] with random labels."""
    draw = torch.Generator().manual_seed(1)
    pixels = torch.randint(256, (samples, 3, 32, 32), dtype=torch.uint8, generator=draw)
    return ImageDataset(pixels, torch.randint(10, (samples,), generator=draw), (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))


class Classifier(nn.Module):
    """A classifier of images [n, 3, 32, 32] into ten classes.

    It consists of ``features`` and one linear layer. Its outputs are log-probabilities [n, 10].
    """

    def __init__(self, features: nn.Module, outputs: int) -> None:
        super().__init__()
        self.features = features
        self.classifier = nn.Linear(outputs, 10)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return the log-probabilities of ``images``."""
        features = self.features(images.to(memory_format=torch.channels_last))  # a third faster on CPUs
        return functional.log_softmax(self.classifier(features.flatten(1)), dim=1)


@register("model", "small_vgg")
def small_vgg() -> nn.Module:
    """Build a VGG of seven convolutions with batch norm."""
    from torchvision.models.vgg import make_layers

    layout: list[str | int] = [24, 24, "M", 48, 48, "M", 96, 96, "M", 128, "M"]
    return Classifier(make_layers(layout, batch_norm=True), 128 * 2 * 2)


@register("model", "cifar_vgg16")
def cifar_vgg16() -> nn.Module:
    """Build the paper's VGG-16."""
    return Classifier(communication_cost.build_cifar_vgg16(batch_norm=True).get_submodule("features"), 512)


@register("model", "cifar_resnet18")
def cifar_resnet18() -> nn.Module:
    """Build the paper's ResNet-18."""
    module = communication_cost.build_cifar_resnet18()
    module.fc = nn.Sequential(module.get_submodule("fc"), nn.LogSoftmax(dim=1))
    return module


def multiply_adds(module: nn.Module) -> int:
    """Return the number of multiply-adds of a forward pass over one image [3, 32, 32].

    Only those of convolutions and linear layers count.
    """
    with FlopCounterMode(display=False) as counter:
        module.eval()(torch.zeros(1, 3, 32, 32))
    return int(counter.get_total_flops()) // 2
