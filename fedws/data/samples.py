"""The samples of a node: images in memory, subsets of any data set, and the reading of batches."""

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
    """A batch of collated samples."""

    inputs: Any
    """Tensor, or dict or tuple of tensors with the same structure as an input of the data set."""
    targets: Any
    num_examples: int


class ImageDataset:
    """A data set of labelled images, which are stored as bytes and normalised for each batch.

    ``pixels`` is uint8 of shape [n, channels, height, width]. ``targets`` is int64 of shape [n]. ``mean`` and ``std``
    have one value per channel. An input is ``(pixels / 255 - mean) / std`` as float32. It is bit-identical to the
    result of torchvision's ToTensor and Normalize.
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
        """Return inputs, float32 [len(indices), channels, height, width], and targets, int64 [len(indices)]."""
        inputs = self.pixels[indices].to(torch.float32).div_(255)
        return inputs.sub_(self.mean).div_(self.std), self.targets[indices]

    def __repr__(self) -> str:
        return f"Images({len(self)} of {' x '.join(map(str, self.pixels.shape[1:]))})"


class SampleSubset:
    """A subset of the samples of a data set, selected by index.

    Its ``batch`` uses the fast ``batch`` of the data set if there is one. The parameter ``targets`` may contain the
    targets of the subset, if the caller has already converted them. By default they are read from the data set.
    """

    def __init__(self, dataset: Dataset, indices: torch.Tensor, targets: torch.Tensor | None = None) -> None:
        self._dataset = dataset
        self._indices = indices
        self._targets = targets

    @property
    def targets(self) -> torch.Tensor:
        """Return the targets of the subset, [n, ...]. Raises AttributeError if the data set has no valid targets."""
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
        """Return the samples at ``indices`` of this subset as a batch of inputs and targets."""
        return load_batch(self._dataset, self._indices[indices])

    def __repr__(self) -> str:
        return f"{len(self)} of {self._dataset!r}"


def is_deterministic(data: Any) -> bool:
    """Return whether reading certainly uses no random numbers, as for images in memory and their subsets."""
    while type(data) in (SampleSubset, Subset):
        data = data._dataset if isinstance(data, SampleSubset) else data.dataset
    return type(data) is ImageDataset


def select_samples(data: Dataset, indices: torch.Tensor) -> Dataset:
    """Return the samples at ``indices`` as a data set; images are copied, so the memory of the others can be freed."""
    data, indices = _unwrap_subset(data, indices)
    if isinstance(data, ImageDataset):
        mean, std = (tuple(values.flatten().tolist()) for values in (data.mean, data.std))
        return ImageDataset(data.pixels[indices], data.targets[indices], mean, std)
    return SampleSubset(data, indices)


def _unwrap_subset(data: Dataset, indices: torch.Tensor) -> tuple[Dataset, torch.Tensor]:
    """Return the data set inside torch's ``Subset``, and the indices of the same samples in it.

    Unlike the ``Subset``, this data set may have a fast ``batch`` method.
    """
    while type(data) is Subset and not (hasattr(data, "targets") or hasattr(data, "collate_fn")):
        indices = torch.tensor([int(data.indices[index]) for index in indices.tolist()], dtype=torch.int64)
        data = data.dataset  # type: ignore[assignment]
    return data, indices


def load_batch(data: Dataset, indices: torch.Tensor) -> tuple[Any, Any]:
    """Return the samples at ``indices`` as a batch of inputs and targets.

    The ``batch`` method of the data set is used if it has one. Otherwise the samples are collated by the ``collate_fn``
    of the data set, or by torch's ``default_collate``. Raises TaskError if the result is not a pair.
    """
    data, indices = _unwrap_subset(data, indices)
    read_batch = getattr(data, "batch", None)
    found = (
        read_batch(indices)
        if read_batch is not None
        else _find_collate_fn(data)([data[int(index)] for index in indices])
    )
    if not isinstance(found, tuple | list) or len(found) != 2:
        raise TaskError(f"a batch of the data set is {describe_type(found)}, expected a pair of inputs and targets")
    inputs, targets = found
    return inputs, targets


def iter_batches(data: Dataset, index_batches: Iterable[torch.Tensor]) -> Iterator[Batch]:
    """Yield a batch for each tensor of indices, see ``fedws.training.batching.split_into_batches``."""
    for indices in index_batches:
        yield Batch(*load_batch(data, indices), len(indices))


def _find_collate_fn(data: Any) -> Callable[[list[Any]], Any]:
    """Return the ``collate_fn`` of a data set, or of the data set inside a ``Subset``, or torch's default."""
    own: Callable[[list[Any]], Any] | None = getattr(data, "collate_fn", None)
    if own is None and isinstance(data, Subset):
        return _find_collate_fn(data.dataset)
    return own or default_collate


def compute_fingerprint(data: Dataset) -> str:
    """Return a digest of the number of samples, their targets and the first input, which identifies a node's data.

    It consists of 64 hexadecimal digits.
    """
    first = load_batch(data, torch.tensor([0]))[0] if len(data) else None
    try:
        known = targets.read_targets(data)
    except ValueError:
        known = None
    parts = [torch.tensor(len(data)), *iter_tensors((known, first))]
    return hash_tensors({str(number): part for number, part in enumerate(parts)})
