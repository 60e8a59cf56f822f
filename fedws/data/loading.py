"""Loading of registered data sets, and selection of samples by label."""

from typing import Any

import torch

from fedws.core import registry
from fedws.core.errors import UsageError
from fedws.core.spec import Spec
from fedws.data import download, map_style, targets
from fedws.data.base import Dataset
from fedws.data.samples import select_samples

_LABELS_HINT = "add an attribute targets with one class number from 0 for each sample, or use --partition iid"


def load_dataset(dataset: str, data_dir: str | None, train: bool) -> Dataset:
    """Return the training or test set of a registered data set.

    ``dataset`` is its spec. Raises UnknownName, and UsageError if the data set cannot be loaded, is empty, or is not a
    map-style data set.
    """
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
    """Return the title of a data set in printed text: the attribute ``title`` of its factory, or else its name."""
    return str(_get_factory_attribute(dataset, "title") or Spec.parse(dataset).name)


def get_default_model(dataset: str) -> str:
    """Return the default model of a data set, which is the attribute ``model`` of its factory.

    Raises UsageError if the factory has no such attribute.
    """
    found = _get_factory_attribute(dataset, "model")
    if not found:
        raise UsageError(f"dataset {dataset} has no default model; choose one with --model")
    return str(found)


def require_labels(data: Dataset, dataset: str) -> torch.Tensor:
    """Return the class labels, int64 [n]. Raises UsageError if the data set has no class labels."""
    try:
        return targets.read_labels(data)
    except ValueError as error:
        raise UsageError(f"dataset {dataset} has no class labels: {error}; {_LABELS_HINT}") from None


def count_classes(data: Dataset, dataset: str) -> int:
    """Return the number of classes, which is the largest label plus 1.

    Raises UsageError if the data set has no class labels.
    """
    return int(require_labels(data, dataset).max()) + 1


def select_labels(data: Dataset, dataset: str, labels: tuple[int, ...]) -> Dataset:
    """Return the samples whose label is in ``labels``. Raises UsageError if no sample has such a label."""
    is_selected = torch.isin(require_labels(data, dataset), torch.tensor(labels, dtype=torch.int64))
    if not is_selected.any():
        listed = ", ".join(map(str, labels)) or "(none)"
        raise UsageError(f"dataset {dataset} has no samples with the labels {listed}; choose other labels")
    return select_samples(data, is_selected.nonzero().flatten())


def _get_factory_attribute(dataset: str, name: str) -> Any:
    return getattr(registry.find_piece("dataset", Spec.parse(dataset).name), name, None)
