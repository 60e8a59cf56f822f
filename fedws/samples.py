"""The samples that a node holds: images in memory, and a part of any data set."""

import hashlib
from collections.abc import Iterator
from typing import Any

import torch
from torch.utils.data import Subset, default_collate

from fedws import targets
from fedws.interfaces import Dataset


class Images:
    """Labelled images, kept as the bytes they came as and normalised a batch at a time.

    ``pixels`` is uint8 of shape [n, channels, height, width]; ``targets`` is int64 of shape [n]; ``mean`` and ``std``
    have one value per channel. An input is ``(pixels / 255 - mean) / std``, float32: what torchvision's ToTensor and
    Normalize give, to the bit.
    """

    def __init__(
        self, pixels: torch.Tensor, targets: torch.Tensor, mean: tuple[float, ...], std: tuple[float, ...]
    ) -> None:
        self.pixels = pixels
        self.targets = targets
        self.mean = torch.tensor(mean).reshape(-1, 1, 1)
        self.std = torch.tensor(std).reshape(-1, 1, 1)

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        inputs, targets = self.batch(torch.tensor([index]))
        return inputs[0], int(targets[0])

    def batch(self, indices: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Inputs, float32 [len(indices), channels, height, width], and targets, int64 [len(indices)]."""
        inputs = self.pixels[indices].to(torch.float32).div_(255)
        return inputs.sub_(self.mean).div_(self.std), self.targets[indices]

    def __repr__(self) -> str:
        return f"Images({len(self)} of {' x '.join(map(str, self.pixels.shape[1:]))})"


class Part:
    """Some samples of a data set, by index; keeps ``targets`` and ``batch`` where the whole has them.

    ``known`` are the targets of the part, for a caller that has converted those of the whole already.
    """

    def __init__(self, whole: Dataset, indices: torch.Tensor, known: torch.Tensor | None = None) -> None:
        self._whole = whole
        self._indices = indices
        self._known = known

    @property
    def targets(self) -> torch.Tensor:
        """Return the targets of the part, [n, ...], converted once. Raises AttributeError when the whole has none."""
        if self._known is None:
            try:
                self._known = targets.tensor(self._whole)[self._indices]
            except ValueError as error:
                raise AttributeError(str(error)) from None
        return self._known

    def __len__(self) -> int:
        return len(self._indices)

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        return self._whole[int(self._indices[index])]

    def batch(self, indices: torch.Tensor) -> tuple[Any, Any]:
        """The samples at ``indices`` of this part, collated."""
        return batch(self._whole, self._indices[indices])

    def __repr__(self) -> str:
        return f"{len(self)} of {self._whole!r}"


def select(data: Dataset, indices: torch.Tensor) -> Dataset:
    """The samples at ``indices``; images are copied out, so that the rest can be forgotten."""
    data, indices = _within(data, indices)
    if isinstance(data, Images):
        mean, std = (tuple(values.flatten().tolist()) for values in (data.mean, data.std))
        return Images(data.pixels[indices], data.targets[indices], mean, std)
    return Part(data, indices)


def _within(data: Dataset, indices: torch.Tensor) -> tuple[Dataset, torch.Tensor]:
    """Return the data set inside torch's ``Subset`` and the same samples' indices in it: it may have a fast batch."""
    while type(data) is Subset and not hasattr(data, "targets"):
        indices = torch.tensor([int(data.indices[index]) for index in indices.tolist()], dtype=torch.int64)
        data = data.dataset  # type: ignore[assignment]
    return data, indices


def batch(data: Dataset, indices: torch.Tensor) -> tuple[Any, Any]:
    """The samples at ``indices`` as one batch, the fast way where the data set has one."""
    data, indices = _within(data, indices)
    fast = getattr(data, "batch", None)
    if fast is not None:
        inputs, targets = fast(indices)
    else:
        inputs, targets = default_collate([data[int(index)] for index in indices])
    return inputs, targets


def batches(data: Dataset, order: torch.Tensor, size: int) -> Iterator[tuple[Any, Any]]:
    """The samples in the given order, ``size`` at a time; the last batch may be shorter."""
    for start in range(0, len(order), size):
        yield batch(data, order[start : start + size])


def fingerprint(data: Dataset) -> str:
    """What tells a node's samples from others: a digest of how many there are, of their targets, and of the first."""
    digest = hashlib.sha256(str(len(data)).encode())
    first = batch(data, torch.tensor([0]))[0] if len(data) else None
    try:
        known = targets.tensor(data)
    except ValueError:
        known = None
    for part in (known, first):
        if isinstance(part, torch.Tensor):
            digest.update(part.contiguous().numpy().tobytes())
    return digest.hexdigest()


def labels(data: Dataset) -> torch.Tensor | None:
    """Return the class labels of a data set, int64 [n]; None when it has none."""
    try:
        return targets.labels(data)
    except ValueError:
        return None
