"""MNIST: 60,000 training and 10,000 test images of handwritten digits, 28 x 28 pixels (LeCun, Cortes, Burges)."""

from pathlib import Path
from typing import ClassVar

import torch

from fedws.core.registry import register
from fedws.data import idx
from fedws.data.download import download_once
from fedws.data.samples import ImageDataset


@register("dataset", "mnist")
class Mnist(ImageDataset):
    """The training or test set of MNIST, with torchvision's layout under ``root/MNIST/raw``.

    Missing files are downloaded. Raises UsageError if the download fails, or if a file cannot be read or is corrupt.
    """

    title: ClassVar = "MNIST"
    model: ClassVar = "mnist_cnn"

    def __init__(self, root: Path, train: bool) -> None:
        folder = root / "MNIST" / "raw"
        download_once(root, "MNIST", self.title, lambda: idx.files_exist(folder, train), _fetch)
        pixels, labels = idx.read_images(folder, train)
        targets = torch.from_numpy(labels.astype("int64"))
        # Mean and standard deviation of pixels / 255 in the training set.
        super().__init__(torch.from_numpy(pixels.copy()), targets, mean=(0.1307,), std=(0.3081,))


def _fetch(root: Path) -> None:
    # Imported here, because the import takes seconds. The class contains the mirrors and checksums.
    from torchvision.datasets import MNIST

    MNIST(str(root), download=True)
