"""Fashion-MNIST: 60,000 training and 10,000 test images of clothes, 28 x 28 pixels (Xiao, Rasul, Vollgraf, 2017)."""

from pathlib import Path
from typing import ClassVar

import torch

from fedws.core.registry import register
from fedws.data import idx
from fedws.data.download import download_once
from fedws.data.samples import ImageDataset


@register("dataset", "fashion_mnist")
class FashionMnist(ImageDataset):
    """The training or test set of Fashion-MNIST, with torchvision's layout under ``root/FashionMNIST/raw``.

    The files have the format of MNIST, and missing files are downloaded. Raises UsageError if the download fails, or if
    a file cannot be read or is corrupt.
    """

    title: ClassVar = "FashionMNIST"
    model: ClassVar = "mnist_cnn"

    def __init__(self, root: Path, train: bool) -> None:
        folder = root / "FashionMNIST" / "raw"
        download_once(root, "FashionMNIST", self.title, lambda: idx.files_exist(folder, train), _fetch)
        pixels, labels = idx.read_images(folder, train)
        targets = torch.from_numpy(labels.astype("int64"))
        # Mean and standard deviation of pixels / 255 in the training set.
        super().__init__(torch.from_numpy(pixels.copy()), targets, mean=(0.2860,), std=(0.3530,))


def _fetch(root: Path) -> None:
    # Imported here, because the import takes seconds. The class contains the mirrors and checksums.
    from torchvision.datasets import FashionMNIST

    FashionMNIST(str(root), download=True)
