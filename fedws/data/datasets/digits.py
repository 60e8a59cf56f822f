"""Digits: 1,797 small handwritten digits that ship with scikit-learn and need no download (Alpaydin, Kaynak).

They are the test set of the UCI data set "Optical Recognition of Handwritten Digits". They have 8 x 8 pixels with
values from 0 to 16, and are scaled to the 28 x 28 pixels of MNIST, so that the models for MNIST can be used.
"""

from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from torch.nn import functional

from fedws.core.registry import register
from fedws.data.samples import ImageDataset


@register("dataset", "digits")
class Digits(ImageDataset):
    """The 1,442 training images or the 355 test images; the test set contains every fifth image of each digit."""

    title: ClassVar = "Digits"
    model: ClassVar = "mnist_cnn"

    def __init__(self, root: Path, train: bool) -> None:
        from sklearn.datasets import load_digits  # imported here, because the import takes a second

        bunch = load_digits()
        selected = np.flatnonzero((_count_earlier(bunch.target) % 5 != 4) == train)
        small = torch.from_numpy(bunch.images[selected]).to(torch.float32).unsqueeze(1)
        large = functional.interpolate(small / 16 * 255, size=(28, 28), mode="bilinear")
        targets = torch.from_numpy(bunch.target[selected].astype("int64"))
        # Mean and standard deviation of pixels / 255 in the 1,442 training images.
        super().__init__(large.round().to(torch.uint8), targets, mean=(0.3051,), std=(0.3248,))


def _count_earlier(labels: np.ndarray) -> np.ndarray:
    """Return for each sample the number of earlier samples with the same label."""
    counts = np.zeros(len(labels), dtype=np.int64)
    for label in np.unique(labels):
        indices = np.flatnonzero(labels == label)
        counts[indices] = np.arange(len(indices))
    return counts
