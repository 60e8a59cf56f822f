"""What a node holds: a registered data set, or those of its samples that are this node's."""

from typing import Any

import numpy as np
import torch

from fedws import datadir, registry
from fedws.errors import FedwsError, UsageError
from fedws.interfaces import Dataset
from fedws.samples import labels, select


def load(dataset: str, data_dir: str | None, train: bool) -> Dataset:
    """The training or the test set of that name. Raises UnknownName, or UsageError when it cannot be had."""
    try:
        data: Dataset = registry.build("dataset", dataset, datadir.resolve(data_dir), train)
    except FedwsError:
        raise
    except Exception as error:  # of a user's own factory
        raise UsageError(f"dataset {dataset}: {type(error).__name__}: {error}") from error
    if not len(data):
        raise UsageError(f"dataset {dataset} is empty: it has no {'training' if train else 'test'} samples")
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


def classes(data: Dataset, dataset: str) -> int:
    """How many labels there are, 0 and up. Raises UsageError for a data set without whole-number labels."""
    return int(_targets(data, dataset).max()) + 1


def of_labels(data: Dataset, dataset: str, wanted: tuple[int, ...]) -> Dataset:
    """The samples with one of the wanted labels. Raises UsageError when there are none."""
    chosen = torch.isin(_targets(data, dataset), torch.tensor(wanted, dtype=torch.int64))
    if not chosen.any():
        raise UsageError(f"dataset {dataset} has no samples with the labels {', '.join(map(str, wanted)) or '(none)'}")
    return select(data, chosen.nonzero().flatten())


def of_share(data: Dataset, dataset: str, partition: str, share: int, shares: int) -> Dataset:
    """The samples of share ``share`` (from 0) of ``shares``, dealt by a registered partition."""
    parts = registry.build("partition", partition, _targets(data, dataset).numpy(), shares)
    return select(data, torch.from_numpy(np.asarray(parts[share], dtype=np.int64)))


def _attribute(dataset: str, name: str) -> Any:
    return getattr(registry.find("dataset", registry.Spec.parse(dataset).name), name, None)


def _targets(data: Dataset, dataset: str) -> torch.Tensor:
    targets = labels(data)
    if targets is None or targets.dim() != 1 or targets.is_floating_point() or targets.is_complex():
        raise UsageError(f"dataset {dataset} has no labels (targets), so it cannot be split by them")
    return targets.to(torch.int64)
