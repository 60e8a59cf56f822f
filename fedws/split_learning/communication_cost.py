"""How much a model, the raw data, and the features of a cut take, by shapes alone: nothing is computed or kept.

Nets and layouts: Simonyan and Zisserman, "Very Deep Convolutional Networks for Large-Scale Image Recognition" (ICLR
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
from fedws.core.untrusted_text import printable
from fedws.split_learning.model_split import split

RECORDS, ROUNDS = 50_000, 100
"""Those of the published claim: CIFAR-10, and FedAvg's rounds."""
CLAIMED = 52, 5
"""GB: of a client of FedAvg, and of MistNet in total, as published for VGG-16 and CIFAR-10."""


@dataclass(frozen=True)
class Sizes:
    """Of one net, cut at one place, for some records."""

    net: str
    shape: tuple[int, ...]
    """Of an input, without the batch."""
    cut: str
    parameters: int
    model: int
    """Bytes of its parameters and buffers: what FedAvg sends one way in a round."""
    records: int
    rounds: int
    features: tuple[int, ...]
    """Shape of a record's features."""

    @property
    def raw(self) -> int:
        """Bytes of all inputs, a byte a value."""
        return self.records * math.prod(self.shape)

    @property
    def fedavg(self) -> int:
        """Bytes that a client of FedAvg sends in all rounds, and as many that it gets."""
        return self.rounds * self.model

    def encoded(self, encoding: str) -> int:
        """Bytes of all records' features in a registered encoding. Raises UnknownName."""
        each: int = registry.build("encoding", encoding).size(math.prod(self.features))
        return self.records * each


def measure(
    net: str,
    make: Callable[[], nn.Module],
    shape: Sequence[int],
    cut: str,
    records: int = RECORDS,
    rounds: int = ROUNDS,
) -> Sizes:
    """The sizes of what ``make`` gives, made without memory. Raises UsageError for a wrong cut or shape."""
    with torch.device("meta"):
        module = make().eval()
        extractor, _ = split(module, cut)
        try:
            features = extractor(torch.empty(1, *shape))
        except RuntimeError as error:
            problem = printable(str(error).splitlines()[0])
            raise UsageError(
                f"--shape {times(shape)} does not fit {net}: {problem}; name that of its samples, as --shape 1x28x28"
            ) from error
    tensors = module.state_dict().values()
    model = sum(tensor.numel() * tensor.element_size() for tensor in tensors)
    parameters = sum(parameter.numel() for parameter in module.parameters())
    return Sizes(net, tuple(shape), cut, parameters, model, records, rounds, tuple(features.shape[1:]))


def published() -> list[Sizes]:
    """VGG-16, first of all as the claim means it, and ResNet-18, for ImageNet and for CIFAR-10."""
    from torchvision.models import resnet18, vgg16

    large, small = (3, 224, 224), (3, 32, 32)
    return [
        measure("VGG-16", lambda: vgg16(weights=None), large, "features.4"),
        measure("VGG-16", cifar_vgg16, small, "features.4"),
        measure("VGG-16", cifar_vgg16, small, "features.3"),
        measure("ResNet-18", lambda: resnet18(weights=None), large, "layer1"),
        measure("ResNet-18", cifar_resnet18, small, "layer1"),
    ]


def cifar_vgg16(*, batch_norm: bool = False) -> nn.Module:
    """VGG-16 for ten classes of images [n, 3, 32, 32]: its convolutions, and one linear layer; gives logits."""
    from torchvision.models.vgg import cfgs, make_layers

    features = make_layers(cfgs["D"], batch_norm=batch_norm)
    return nn.Sequential(OrderedDict(features=features, flatten=nn.Flatten(), classifier=nn.Linear(512, 10)))


def cifar_resnet18() -> nn.Module:
    """ResNet-18 for ten classes of images [n, 3, 32, 32]: its first convolution keeps their size; gives logits."""
    from torchvision.models import resnet18

    module: nn.Module = resnet18(weights=None, num_classes=10)
    module.conv1, module.maxpool = nn.Conv2d(3, 64, 3, padding=1, bias=False), nn.Identity()
    return module


def claim(large: Sizes, pooled: Sizes, whole: Sizes) -> list[str]:
    """What was published, what it must mean, and what holds for the images it speaks of: three lines.

    ``large`` is the net that it must mean; ``pooled`` and ``whole`` are that of the images, cut after and before its
    first pooling.
    """
    bits = large.encoded("bits") / 1e9
    ratio = whole.encoded("bits") / whole.raw
    return [
        f"as published: FedAvg {CLAIMED[0]} GB a client, MistNet {CLAIMED[1]} GB in total ({large.net}, CIFAR-10)",
        f"decoded: {large.parameters / 1e6:.1f} M parameters x 4 B x {large.rounds} rounds one way = "
        f"{large.fedavg / 1e9:.1f} GB; {times(large.features, ' x ')} bits x {large.records:,} = {bits:.2f} GB: "
        f"inputs of {times(large.shape[1:], ' x ')}",
        f"honest: inputs of {times(pooled.shape[1:], ' x ')}, FedAvg {pooled.fedavg / 1e9:.1f} GB a client, MistNet "
        f"{pooled.encoded('bits') / 1e9:.2f} GB in total, pixels {pooled.raw / 1e9:.3f} GB; "
        f"before the pooling {whole.encoded('bits') / 1e9:.2f} GB, {ratio:.1f} times the pixels",
    ]


def times(shape: Sequence[int], sign: str = "x") -> str:
    """As text.

    >>> times((3, 32, 32))
    '3x32x32'
    """
    return sign.join(map(str, shape))
