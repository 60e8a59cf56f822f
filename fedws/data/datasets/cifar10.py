"""CIFAR-10: 50,000 training and 10,000 test colour images of ten classes, 32 x 32 pixels (Krizhevsky, 2009)."""

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
    """The training or test set of CIFAR-10, with torchvision's layout under ``root/cifar-10-batches-py``.

    Missing files are downloaded. Raises UsageError if the download fails, or if a file cannot be read or is corrupt.
    """

    title: ClassVar = "CIFAR10"
    model: ClassVar = "cifar_cnn"

    def __init__(self, root: Path, train: bool) -> None:
        download_once(root, FOLDER, self.title, lambda: all((root / FOLDER / name).is_file() for name in FILES), _fetch)
        from torchvision.datasets import CIFAR10  # imported here, because the import takes seconds

        try:
            with warnings.catch_warnings():  # numpy warns about the files, which are pickles from 2009
                warnings.simplefilter("ignore")
                data = CIFAR10(str(root), train=train, download=False)  # verifies checksums before it unpickles
        except (OSError, RuntimeError) as error:
            folder = root / FOLDER
            problem = (
                f"{folder} is corrupt or incomplete"
                if isinstance(error, RuntimeError)
                else f"cannot read {folder}: {error.strerror}"
            )
            raise UsageError(f"{problem}; delete it to download it again") from None
        pixels = torch.from_numpy(data.data).permute(0, 3, 1, 2).contiguous()
        # Mean and standard deviation of pixels / 255 in the training set, per channel.
        mean, std = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
        super().__init__(pixels, torch.tensor(data.targets, dtype=torch.int64), mean, std)


def _fetch(root: Path) -> None:
    from torchvision.datasets import CIFAR10

    CIFAR10(str(root), download=True)
