"""What a node holds: a registered data set, or those of its samples that are this node's."""

from typing import Any

import torch

from fedws.core import registry
from fedws.core.errors import UsageError
from fedws.core.spec import Spec
from fedws.data import download, map_style, targets
from fedws.data.base import Dataset
from fedws.data.samples import select_samples

_LABELS_HINT = (
    "give each sample a whole number from 0 up in an attribute targets, or use --partition iid, which needs none"
)


def load_dataset(dataset: str, data_dir: str | None, train: bool) -> Dataset:
    """The training or the test set of that name. Raises UnknownName, or UsageError when it cannot be had."""
    data: Dataset = registry.build_piece("dataset", dataset, download.resolve_data_dir(data_dir), train)
    try:
        map_style.check_dataset(data)
        if not len(data):
            raise UsageError(f"dataset {dataset} is empty: it has no {'training' if train else 'test'} samples")
        map_style.check_first_sample(data)
    except ValueError as error:
        raise UsageError(f"dataset {dataset}: {error}") from error
    return data


def get_dataset_title(dataset: str) -> str:
    """How a data set is called in what is printed: its factory's ``title``, or else its own name."""
    return str(_get_factory_attribute(dataset, "title") or Spec.parse(dataset).name)


def get_default_model(dataset: str) -> str:
    """The model that a data set is meant for, its factory's ``model``. Raises UsageError when it names
    none."""
    found = _get_factory_attribute(dataset, "model")
    if not found:
        raise UsageError(f"dataset {dataset} names no model of its own: give one with --model")
    return str(found)


def require_labels(data: Dataset, dataset: str) -> torch.Tensor:
    """Return the class labels, int64 [n]. Raises UsageError for a data set without them."""
    try:
        return targets.read_labels(data)
    except ValueError as error:
        raise UsageError(f"dataset {dataset} has no labels to split it by: {error}; {_LABELS_HINT}") from None


def count_classes(data: Dataset, dataset: str) -> int:
    """How many labels there are, 0 and up. Raises UsageError for a data set without whole-number labels."""
    return int(require_labels(data, dataset).max()) + 1


def select_labels(data: Dataset, dataset: str, wanted_labels: tuple[int, ...]) -> Dataset:
    """The samples with one of the wanted labels. Raises UsageError when there are none."""
    chosen = torch.isin(require_labels(data, dataset), torch.tensor(wanted_labels, dtype=torch.int64))
    if not chosen.any():
        raise UsageError(
            f"dataset {dataset} has no samples with the labels {', '.join(map(str, wanted_labels)) or '(none)'}"
        )
    return select_samples(data, chosen.nonzero().flatten())


def _get_factory_attribute(dataset: str, name: str) -> Any:
    return getattr(registry.find_piece("dataset", Spec.parse(dataset).name), name, None)
