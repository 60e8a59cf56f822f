"""Fashion-MNIST: 60,000 + 10,000 pictures of clothes, 28 x 28, in MNIST's format (Xiao, Rasul, Vollgraf, 2017)."""

from pathlib import Path
from typing import ClassVar

import torch

from fedws.core.registry import register
from fedws.data import idx
from fedws.data.download import download_once
from fedws.data.samples import ImageDataset


@register("dataset", "fashion_mnist")
class FashionMnist(ImageDataset):
    """The images under ``root/FashionMNIST/raw``, as torchvision lays them out; downloaded when they are not there."""

    title: ClassVar = "FashionMNIST"
    model: ClassVar = "mnist_cnn"

    def __init__(self, root: Path, train: bool) -> None:
        folder = root / "FashionMNIST" / "raw"
        download_once(root, "FashionMNIST", self.title, lambda: idx.files_exist(folder, train), _fetch)
        pixels, labels = idx.read_images(folder, train)
        targets = torch.from_numpy(labels.astype("int64"))
        # mean and standard deviation of the training set's pixels / 255
        super().__init__(torch.from_numpy(pixels.copy()), targets, mean=(0.2860,), std=(0.3530,))


def _fetch(root: Path) -> None:
    from torchvision.datasets import FashionMNIST  # takes seconds to import, and knows the mirrors and checksums

    FashionMNIST(str(root), download=True)
