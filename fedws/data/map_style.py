"""Checks that an object is a map-style data set of torch, which a node requires.

Such a data set has a length, and ``data[i]`` is a pair of an input and a target.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch.utils.data import DataLoader, IterableDataset

from fedws.core.error_text import summarize_error
from fedws.data import targets
from fedws.data.base import Dataset
from fedws.data.samples import SampleSubset, load_batch

REQUIREMENT = "a data set must have a length, and data[i] must be a pair of input and target"


def check_dataset(data: object) -> None:
    """Raise ValueError with a remedy if ``data`` is not a map-style data set. No sample is read."""
    if isinstance(data, SampleSubset):  # its data set was already checked
        return
    if data is None:
        raise ValueError("the factory returned None; return the data set")
    kind = type(data).__name__
    if isinstance(data, DataLoader):
        raise ValueError("the factory returned a DataLoader; return the data set itself")
    if isinstance(data, IterableDataset):
        raise ValueError(f"{kind} is an IterableDataset, which cannot be read by index; {REQUIREMENT}")
    for method, name in (("__len__", "length"), ("__getitem__", "__getitem__")):
        if not hasattr(data, method):
            raise ValueError(f"{kind} has no {name}; {REQUIREMENT}")
    try:
        length = len(data)  # type: ignore[arg-type]
    except Exception as error:  # the class is the user's own
        raise ValueError(f"cannot read its length: {summarize_error(error)}; {REQUIREMENT}") from error
    if length:
        targets.check_target_count(data)  # type: ignore[arg-type]


def check_first_sample(data: Dataset) -> None:
    """Raise ValueError with a remedy if the first sample cannot be read or cannot be collated into a batch."""
    try:
        sample = data[0]
    except Exception as error:  # the class is the user's own
        raise ValueError(f"cannot read its first sample: {summarize_error(error)}") from error
    if not isinstance(sample, tuple | list) or len(sample) != 2:
        size = f" of {len(sample)}" if isinstance(sample, tuple | list) else ""
        raise ValueError(
            f"its first sample is a {type(sample).__name__}{size}; data[i] must be a pair of input and target"
        )
    try:
        _, target = load_batch(data, torch.tensor([0]))
    except Exception as error:  # the class is the user's own, or torch cannot stack the type
        allowed = "inputs and targets must be tensors or numbers, or dicts, tuples or lists of these"
        raise ValueError(f"cannot collate its first sample: {summarize_error(error)}; {allowed}") from error
    for leaf in _iter_leaves(target):
        if not isinstance(leaf, torch.Tensor):
            raise ValueError(
                f"a target is a {type(leaf).__name__}, expected a number or a tensor; number the classes from 0"
            )


def _iter_leaves(tree: Any) -> Iterator[Any]:
    if isinstance(tree, Mapping):
        tree = list(tree.values())
    if isinstance(tree, tuple | list):
        for part in tree:
            yield from _iter_leaves(part)
    else:
        yield tree
