"""Reading of the targets and class labels of a data set from its attribute ``targets``.

A class label is a whole number from 0 to ``MAX_LABEL_CLASSES - 1``, or a boolean, for each sample. The attribute may be
a list, tuple, array or tensor. Other targets, such as real numbers, text or several numbers for each sample, are not
class labels. A data set with such targets can be used for training, but cannot be split by label.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch.utils.data import ConcatDataset, Subset

from fedws.data.base import Dataset

MAX_LABEL_CLASSES = 2**20
"""Maximum number of classes of a data set."""
_WIDE_UNSIGNED_DTYPES = (torch.uint16, torch.uint32, torch.uint64)
"""Dtypes for which torch supports few operations, so numpy converts them."""


def read_labels(data: Dataset) -> torch.Tensor:
    """Return the class labels, int64 [n]. Raises ValueError with the reason if the data set has no class labels."""
    found = read_targets(data)
    if found.dim() != 1:
        raise ValueError(f"its targets have the shape {list(found.shape)}")
    if found.is_floating_point() or found.is_complex():
        raise ValueError(f"its targets are {str(found.dtype).removeprefix('torch.')}")
    found = found.to(torch.int64)
    if len(found):
        for label in (int(found.min()), int(found.max())):
            if not 0 <= label < MAX_LABEL_CLASSES:
                raise ValueError(f"its targets contain {label}, which is not from 0 to {MAX_LABEL_CLASSES - 1}")
    return found


def read_targets(data: Dataset) -> torch.Tensor:
    """Return the targets as one tensor on the CPU, [n, ...].

    The targets inside torch's Subset and ConcatDataset are found too. Raises ValueError with the reason if the data set
    has no targets, or if they are not numbers.
    """
    raw = _get_targets_attribute(data)
    if raw is not None:
        found = _to_tensor(raw)
        if len(found) != len(data):
            raise ValueError(_describe_count_mismatch(len(found), len(data)))
        return found
    if isinstance(data, Subset):
        indices = torch.as_tensor(np.asarray(data.indices), dtype=torch.int64)
        return read_targets(data.dataset)[indices]  # type: ignore[arg-type]
    if isinstance(data, ConcatDataset):
        parts = [read_targets(part) for part in data.datasets]  # type: ignore[arg-type]
        if len({part.shape[1:] for part in parts}) > 1:
            raise ValueError("its parts have targets of different shapes")
        return torch.cat(parts)
    raise ValueError("it has no attribute targets")


def check_target_count(data: Dataset) -> None:
    """Raise ValueError if the number of targets differs from the number of samples; uncountable targets pass."""
    raw = _get_targets_attribute(data)
    counted = hasattr(raw, "__len__") and getattr(raw, "ndim", 1) > 0 and not isinstance(raw, str | bytes | Mapping)
    if counted and len(raw) != len(data):
        raise ValueError(_describe_count_mismatch(len(raw), len(data)))


def _get_targets_attribute(data: Dataset) -> Any:
    try:
        return getattr(data, "targets", None)
    except Exception as error:  # the attribute may be a property of the user's own class
        raise ValueError(f"reading its attribute targets raises {type(error).__name__}") from error


def _to_tensor(raw: Any) -> torch.Tensor:
    """Return the numbers in ``raw`` as one tensor with at least one dimension.

    Raises ValueError with the reason if they cannot be converted.
    """
    try:
        if isinstance(raw, list | tuple) and raw and isinstance(raw[0], torch.Tensor):
            raw = torch.stack([torch.as_tensor(value) for value in raw])
        found = raw.detach().cpu() if isinstance(raw, torch.Tensor) else np.asarray(raw)
        if isinstance(found, torch.Tensor) and found.dtype in _WIDE_UNSIGNED_DTYPES:
            found = found.numpy()
        if isinstance(found, np.ndarray) and found.ndim and found.dtype == object:
            found = np.asarray(found.tolist())
    except Exception as error:  # the parts of a sequence may differ in length, or the type may be the user's own
        raise ValueError(f"its targets cannot be converted to one array ({type(error).__name__})") from error
    if not found.ndim:
        raise ValueError(f"its targets are a single {type(raw).__name__}, expected a list, array or tensor")
    if isinstance(found, torch.Tensor):
        return found
    if found.dtype.kind in "SU":
        raise ValueError("its targets are text")
    if found.dtype.kind not in "biufc":
        raise ValueError(f"its targets are not all numbers (dtype {found.dtype})")
    if found.dtype == np.uint64:
        found = np.minimum(found, np.iinfo(np.int64).max)  # larger numbers are not valid labels in any case
    if found.dtype in (np.uint16, np.uint32, np.uint64):
        found = found.astype(np.int64)
    if found.dtype == np.float64 and not hasattr(raw, "dtype"):
        found = found.astype(np.float32)  # torch converts Python's numbers to float32 too
    return torch.from_numpy(found.astype(found.dtype.newbyteorder("=")))  # a copy, because some arrays are read-only


def _describe_count_mismatch(num_targets: int, num_examples: int) -> str:
    return f"it has {num_targets} targets for {num_examples} samples; give one target for each sample"


def find_labels(data: Dataset) -> torch.Tensor | None:
    """Return the class labels of a data set, int64 [n], or None if it has none."""
    try:
        return read_labels(data)
    except ValueError:
        return None
