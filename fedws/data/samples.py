"""The samples that a node holds: images in memory, and a part of any data set."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import torch
from torch.utils.data import Subset, default_collate

from fedws.core.errors import TaskError
from fedws.core.tensors import hash_tensors
from fedws.core.untrusted_text import get_error_text
from fedws.data import targets
from fedws.data.base import Dataset
from fedws.data.nested_tensors import describe_type, iter_tensors


class Batch(NamedTuple):
    """Some samples, collated."""

    inputs: Any
    """A tensor, or a dict or tuple of tensors, nested as the data set's inputs are."""
    targets: Any
    num_examples: int


class ImageDataset:
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


class SampleSubset:
    """Some samples of a data set, by index; keeps ``targets`` and ``batch`` where the whole has them.

    ``targets`` are the targets of the part, for a caller that has converted those of the whole already.
    """

    def __init__(self, dataset: Dataset, indices: torch.Tensor, targets: torch.Tensor | None = None) -> None:
        self._dataset = dataset
        self._indices = indices
        self._targets = targets

    @property
    def targets(self) -> torch.Tensor:
        """Return the targets of the part, [n, ...], converted once. Raises AttributeError when the whole has none."""
        if self._targets is None:
            try:
                self._targets = targets.read_targets(self._dataset)[self._indices]
            except ValueError as error:
                raise AttributeError(get_error_text(error)) from None
        return self._targets

    def __len__(self) -> int:
        return len(self._indices)

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        return self._dataset[int(self._indices[index])]

    def batch(self, indices: torch.Tensor) -> tuple[Any, Any]:
        """The samples at ``indices`` of this part, collated."""
        return load_batch(self._dataset, self._indices[indices])

    def __repr__(self) -> str:
        return f"{len(self)} of {self._dataset!r}"


def is_deterministic(data: Any) -> bool:
    """Return whether reading draws nothing at random for certain: images in memory, and parts of them."""
    while type(data) in (SampleSubset, Subset):
        data = data._dataset if isinstance(data, SampleSubset) else data.dataset
    return type(data) is ImageDataset


def select_samples(data: Dataset, indices: torch.Tensor) -> Dataset:
    """The samples at ``indices``; images are copied out, so that the rest can be forgotten."""
    data, indices = _unwrap_subset(data, indices)
    if isinstance(data, ImageDataset):
        mean, std = (tuple(values.flatten().tolist()) for values in (data.mean, data.std))
        return ImageDataset(data.pixels[indices], data.targets[indices], mean, std)
    return SampleSubset(data, indices)


def _unwrap_subset(data: Dataset, indices: torch.Tensor) -> tuple[Dataset, torch.Tensor]:
    """Return the data set inside torch's ``Subset`` and the same samples' indices in it: it may have a fast batch."""
    while type(data) is Subset and not (hasattr(data, "targets") or hasattr(data, "collate_fn")):
        indices = torch.tensor([int(data.indices[index]) for index in indices.tolist()], dtype=torch.int64)
        data = data.dataset  # type: ignore[assignment]
    return data, indices


def load_batch(data: Dataset, indices: torch.Tensor) -> tuple[Any, Any]:
    """The samples at ``indices`` as one batch, the fast way where the data set has one.

    Else the data set's own ``collate_fn`` collates them, or torch's ``default_collate``. Raises TaskError where that
    does not give inputs and targets.
    """
    data, indices = _unwrap_subset(data, indices)
    fast = getattr(data, "batch", None)
    found = fast(indices) if fast is not None else _find_collate_fn(data)([data[int(index)] for index in indices])
    if not isinstance(found, tuple | list) or len(found) != 2:
        raise TaskError(f"a batch of the data set is {describe_type(found)}; it must be a pair of inputs and targets")
    inputs, targets = found
    return inputs, targets


def iter_batches(data: Dataset, index_batches: Iterable[torch.Tensor]) -> Iterator[Batch]:
    """Yield a batch for each group of indices, see :func:`fedws.training.batching.split_into_batches`."""
    for indices in index_batches:
        yield Batch(*load_batch(data, indices), len(indices))


def _find_collate_fn(data: Any) -> Callable[[list[Any]], Any]:
    """Return the ``collate_fn`` of a data set, or of the one that it is a subset of; else torch's."""
    own: Callable[[list[Any]], Any] | None = getattr(data, "collate_fn", None)
    if own is None and isinstance(data, Subset):
        return _find_collate_fn(data.dataset)
    return own or default_collate


def compute_fingerprint(data: Dataset) -> str:
    """What tells a node's samples from others: a digest of how many there are, of their targets, and of the first."""
    first = load_batch(data, torch.tensor([0]))[0] if len(data) else None
    try:
        known = targets.read_targets(data)
    except ValueError:
        known = None
    parts = [torch.tensor(len(data)), *iter_tensors((known, first))]
    return hash_tensors({str(number): part for number, part in enumerate(parts)})
