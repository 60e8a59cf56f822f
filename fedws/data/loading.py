"""What a node holds: a registered data set, or those of its samples that are this node's."""

import inspect
from typing import Any

import numpy as np
import torch

from fedws.core import registry
from fedws.core.errors import UsageError
from fedws.data import download, map_style, targets
from fedws.data.base import Dataset
from fedws.data.samples import select

_HELP = "give each sample a whole number from 0 up in an attribute targets, or use --partition iid, which needs none"


def load(dataset: str, data_dir: str | None, train: bool) -> Dataset:
    """The training or the test set of that name. Raises UnknownName, or UsageError when it cannot be had."""
    data: Dataset = registry.build("dataset", dataset, download.resolve(data_dir), train)
    try:
        map_style.check(data)
        if not len(data):
            raise UsageError(f"dataset {dataset} is empty: it has no {'training' if train else 'test'} samples")
        map_style.check_first(data)
    except ValueError as error:
        raise UsageError(f"dataset {dataset}: {error}") from error
    return data


def title(dataset: str) -> str:
    """How a data set is called in what is printed: its factory's ``title``, or else its own name."""
    return str(_attribute(dataset, "title") or registry.Spec.parse(dataset).name)


def model(dataset: str) -> str:
    """The model that a data set is meant for, its factory's ``model``. Raises UsageError when it names none."""
    found = _attribute(dataset, "model")
    if not found:
        raise UsageError(f"dataset {dataset} names no model of its own: give one with --model")
    return str(found)


def labels(data: Dataset, dataset: str) -> torch.Tensor:
    """Return the class labels, int64 [n]. Raises UsageError for a data set without them."""
    try:
        return targets.labels(data)
    except ValueError as error:
        raise UsageError(f"dataset {dataset} has no labels to split it by: {error}; {_HELP}") from None


def classes(data: Dataset, dataset: str) -> int:
    """How many labels there are, 0 and up. Raises UsageError for a data set without whole-number labels."""
    return int(labels(data, dataset).max()) + 1


def of_labels(data: Dataset, dataset: str, wanted: tuple[int, ...]) -> Dataset:
    """The samples with one of the wanted labels. Raises UsageError when there are none."""
    chosen = torch.isin(labels(data, dataset), torch.tensor(wanted, dtype=torch.int64))
    if not chosen.any():
        raise UsageError(f"dataset {dataset} has no samples with the labels {', '.join(map(str, wanted)) or '(none)'}")
    return select(data, chosen.nonzero().flatten())


def of_share(data: Dataset, dataset: str, partition: str, share: int, shares: int) -> Dataset:
    """The samples of share ``share`` (from 0) of ``shares``, dealt by a registered partition."""
    return select(data, torch.from_numpy(dealt(data, dataset, partition, shares)[share]))


def dealt(data: Dataset, dataset: str, partition: str, shares: int) -> list[np.ndarray]:
    """Return the indices of each share, as a registered partition deals the samples.

    Raises UsageError for a partition by label of a data set without class labels.
    """
    by_label = getattr(registry.find("partition", registry.Spec.parse(partition).name), "by_label", True)
    known = labels(data, dataset).numpy() if by_label else np.zeros(len(data), dtype=np.int64)
    parts = registry.build("partition", partition, known, shares)
    return [np.asarray(part, dtype=np.int64) for part in parts]


def seeded(partition: str, seed: int) -> str:
    """Return the partition with ``seed``, where it takes a seed and none is given in its own settings."""
    wanted = registry.Spec.parse(partition)
    takes = inspect.signature(registry.find("partition", wanted.name)).parameters
    return f"{partition},seed={seed}" if "seed" in takes and "seed" not in wanted.options else partition


def _attribute(dataset: str, name: str) -> Any:
    return getattr(registry.find("dataset", registry.Spec.parse(dataset).name), name, None)
