"""Data volume of a model, of the raw data, and of the features at a split point.

The volumes are computed from shapes alone, without a forward pass on values and without memory for tensors.

Networks and layouts: Simonyan and Zisserman, "Very Deep Convolutional Networks for Large-Scale Image Recognition" (ICLR
2015), and He et al., "Deep Residual Learning for Image Recognition" (CVPR 2016).
"""

import math
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from fedws.core import registry
from fedws.core.errors import UsageError
from fedws.core.untrusted_text import to_printable
from fedws.split_learning.model_split import split_model

DEFAULT_RECORDS, DEFAULT_ROUNDS = 50_000, 100
"""Number of records of CIFAR-10 and number of FedAvg's rounds in the published claim."""
CLAIMED_GB = 52, 5
"""Volume in GB per client of FedAvg, and of MistNet in total, as published for VGG-16 and CIFAR-10."""


@dataclass(frozen=True)
class CommunicationCost:
    """The communication cost of one model, split at one point, for a number of records."""

    model_name: str
    input_shape: tuple[int, ...]
    """Shape of an input, without the batch dimension."""
    split_at: str
    num_parameters: int
    model_bytes: int
    """Size of the parameters and buffers in bytes, which FedAvg sends in each direction in each round."""
    num_records: int
    rounds: int
    feature_shape: tuple[int, ...]
    """Shape of a record's features."""

    @property
    def raw_bytes(self) -> int:
        """Return the size of all inputs in bytes, at one byte per value."""
        return self.num_records * math.prod(self.input_shape)

    @property
    def fedavg_bytes(self) -> int:
        """Return the number of bytes that a FedAvg client sends, and also receives, in all rounds."""
        return self.rounds * self.model_bytes

    def encoded_bytes(self, encoding: str) -> int:
        """Return the size in bytes of all records' features in a registered encoding.

        Raises UnknownName for an unknown encoding.
        """
        record_bytes: int = registry.build_piece("encoding", encoding).encoded_bytes(math.prod(self.feature_shape))
        return self.num_records * record_bytes


def measure_cost(
    model_name: str,
    build_model: Callable[[], nn.Module],
    input_shape: Sequence[int],
    split_at: str,
    num_records: int = DEFAULT_RECORDS,
    rounds: int = DEFAULT_ROUNDS,
) -> CommunicationCost:
    """Return the communication cost of the model that ``build_model`` returns, without memory for its tensors.

    Raises UsageError for a wrong split point or input shape.
    """
    with torch.device("meta"):
        module = build_model().eval()
        extractor, _ = split_model(module, split_at)
        try:
            features = extractor(torch.empty(1, *input_shape))
        except RuntimeError as error:
            problem = to_printable(str(error).splitlines()[0])
            what = f"--input-shape {format_shape(input_shape)} does not fit {model_name}: {problem}"
            raise UsageError(f"{what}; set the shape of one sample, such as --input-shape 1x28x28") from error
    tensors = module.state_dict().values()
    model = sum(tensor.numel() * tensor.element_size() for tensor in tensors)
    parameters = sum(parameter.numel() for parameter in module.parameters())
    return CommunicationCost(
        model_name, tuple(input_shape), split_at, parameters, model, num_records, rounds, tuple(features.shape[1:])
    )


def measure_published_models() -> list[CommunicationCost]:
    """Return the costs of VGG-16 and ResNet-18, for ImageNet and for CIFAR-10.

    The first one is VGG-16 for ImageNet, to which the published claim refers.
    """
    from torchvision.models import resnet18, vgg16

    large, small = (3, 224, 224), (3, 32, 32)
    return [
        measure_cost("VGG-16", lambda: vgg16(weights=None), large, "features.4"),
        measure_cost("VGG-16", build_cifar_vgg16, small, "features.4"),
        measure_cost("VGG-16", build_cifar_vgg16, small, "features.3"),
        measure_cost("ResNet-18", lambda: resnet18(weights=None), large, "layer1"),
        measure_cost("ResNet-18", build_cifar_resnet18, small, "layer1"),
    ]


def build_cifar_vgg16(*, batch_norm: bool = False) -> nn.Module:
    """Return VGG-16 for ten classes of images [n, 3, 32, 32].

    The model has the convolutions and a single linear layer, and returns logits.
    """
    from torchvision.models.vgg import cfgs, make_layers

    features = make_layers(cfgs["D"], batch_norm=batch_norm)
    return nn.Sequential(OrderedDict(features=features, flatten=nn.Flatten(), classifier=nn.Linear(512, 10)))


def build_cifar_resnet18() -> nn.Module:
    """Return ResNet-18 for ten classes of images [n, 3, 32, 32].

    The first convolution keeps the image size. The model returns logits.
    """
    from torchvision.models import resnet18

    module: nn.Module = resnet18(weights=None, num_classes=10)
    module.conv1, module.maxpool = nn.Conv2d(3, 64, 3, padding=1, bias=False), nn.Identity()
    return module


def explain_claim(
    imagenet: CommunicationCost, cifar_after_pooling: CommunicationCost, cifar_before_pooling: CommunicationCost
) -> list[str]:
    """Return three lines: the published claim, the calculation that reproduces it, and the figures for CIFAR-10.

    ``imagenet`` is the model that reproduces the claim. ``cifar_after_pooling`` and ``cifar_before_pooling`` are the
    model for images of CIFAR-10, split after and before its first pooling.
    """
    bits_gb, cifar = imagenet.encoded_bytes("bits") / 1e9, cifar_after_pooling
    ratio = cifar_before_pooling.encoded_bytes("bits") / cifar_before_pooling.raw_bytes
    features = format_shape(imagenet.feature_shape, " x ")
    imagenet_inputs, cifar_inputs = (format_shape(cost.input_shape[1:], " x ") for cost in (imagenet, cifar))
    return [
        f"as published: FedAvg {CLAIMED_GB[0]} GB per client, MistNet {CLAIMED_GB[1]} GB in total "
        f"({imagenet.model_name}, CIFAR-10)",
        f"reproduced: {imagenet.num_parameters / 1e6:.1f} M parameters x 4 B x {imagenet.rounds} rounds one way = "
        f"{imagenet.fedavg_bytes / 1e9:.1f} GB; {features} bits x {imagenet.num_records:,} = {bits_gb:.2f} GB: "
        f"inputs of {imagenet_inputs}",
        f"corrected: inputs of {cifar_inputs}, FedAvg {cifar.fedavg_bytes / 1e9:.1f} GB per client, MistNet "
        f"{cifar.encoded_bytes('bits') / 1e9:.2f} GB in total, pixels {cifar.raw_bytes / 1e9:.3f} GB; "
        f"before pooling {cifar_before_pooling.encoded_bytes('bits') / 1e9:.2f} GB, {ratio:.1f} times the pixels",
    ]


def format_shape(shape: Sequence[int], separator: str = "x") -> str:
    """Return a shape as text.

    >>> format_shape((3, 32, 32))
    '3x32x32'
    """
    return separator.join(map(str, shape))
