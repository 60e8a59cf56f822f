"""CIFAR-10: 50,000 + 10,000 colour photographs of ten kinds of thing, 32 x 32 (Krizhevsky, 2009)."""

import warnings
from pathlib import Path
from typing import ClassVar

import torch

from fedws.core.errors import UsageError
from fedws.core.registry import register
from fedws.data.download import download_once
from fedws.data.samples import ImageDataset

FOLDER = "cifar-10-batches-py"
FILES = ("batches.meta", *(f"data_batch_{number}" for number in range(1, 6)), "test_batch")


@register("dataset", "cifar10")
class Cifar10(ImageDataset):
    """The batches under ``root/cifar-10-batches-py``, as torchvision lays them out; downloaded when not there."""

    title: ClassVar = "CIFAR10"
    model: ClassVar = "cifar_cnn"

    def __init__(self, root: Path, train: bool) -> None:
        download_once(root, FOLDER, self.title, lambda: all((root / FOLDER / name).is_file() for name in FILES), _fetch)
        from torchvision.datasets import CIFAR10  # takes seconds to import

        try:
            with warnings.catch_warnings():  # the files are pickles of 2009, of which numpy warns
                warnings.simplefilter("ignore")
                data = CIFAR10(str(root), train=train, download=False)  # compares checksums before it unpickles
        except (OSError, RuntimeError) as error:
            what = (
                "is corrupt or incomplete" if isinstance(error, RuntimeError) else f"cannot be read: {error.strerror}"
            )
            raise UsageError(f"{root / FOLDER} {what}; remove it to have it downloaded again") from None
        pixels = torch.from_numpy(data.data).permute(0, 3, 1, 2).contiguous()
        # mean and standard deviation of the training set's pixels / 255, per channel
        mean, std = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
        super().__init__(pixels, torch.tensor(data.targets, dtype=torch.int64), mean, std)


def _fetch(root: Path) -> None:
    from torchvision.datasets import CIFAR10

    CIFAR10(str(root), download=True)
