"""Digits: 1,797 small handwritten digits that come with scikit-learn, so nothing is downloaded (Alpaydin, Kaynak).

They are the test half of the UCI set "Optical Recognition of Handwritten Digits", 8 x 8 with values 0 to 16; here they
are scaled to MNIST's 28 x 28, so that MNIST's model takes them.
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
    """1,442 images to train and 355 to test: the fifth, tenth, ... image of each digit is for testing, always."""

    title: ClassVar = "Digits"
    model: ClassVar = "mnist_cnn"

    def __init__(self, root: Path, train: bool) -> None:
        from sklearn.datasets import load_digits  # takes a second to import

        bunch = load_digits()
        wanted = np.flatnonzero((_count_earlier(bunch.target) % 5 != 4) == train)
        small = torch.from_numpy(bunch.images[wanted]).to(torch.float32).unsqueeze(1)
        large = functional.interpolate(small / 16 * 255, size=(28, 28), mode="bilinear")
        targets = torch.from_numpy(bunch.target[wanted].astype("int64"))
        # mean and standard deviation of the 1,442 training images' pixels / 255
        super().__init__(large.round().to(torch.uint8), targets, mean=(0.3051,), std=(0.3248,))


def _count_earlier(labels: np.ndarray) -> np.ndarray:
    """How many times a sample's label came before it."""
    before = np.zeros(len(labels), dtype=np.int64)
    for label in np.unique(labels):
        places = np.flatnonzero(labels == label)
        before[places] = np.arange(len(places))
    return before
