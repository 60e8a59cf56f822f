"""Selection of a node's samples by its flags, and the lines that describe them."""

import argparse
from dataclasses import dataclass

import torch

from fedws.core import registry
from fedws.core.demo_nodes import DEMO_LABELS
from fedws.core.errors import UsageError
from fedws.core.spec import Spec
from fedws.core.untrusted_text import get_error_text
from fedws.data import label_ranges, loading, partitioning, targets
from fedws.data.base import Dataset

MAX_LABEL_LINES = 1000
"""Maximum number of labels whose counts are printed."""


@dataclass(frozen=True)
class NodeData:
    """Samples that a node holds, with their labels."""

    data: Dataset
    declared_labels: tuple[int, ...] | None
    """Labels that the node declares, or None to declare the labels of its samples."""
    label_counts: tuple[int, ...] | None = None
    """Number of samples of each label, from 0 to the largest label of the whole data set.

    It is None without class labels.
    """
    no_labels_reason: str = ""
    """Reason why the samples have no class labels."""
    all_by_default: bool = False
    """True if it holds all samples of the user's own data set because no flag selects a part."""


def load_node_data(arguments: argparse.Namespace, dataset: str) -> NodeData:
    """Load the data set and return the node's samples.

    Raise UsageError for flags that cannot be combined or do not select samples.
    """
    node = arguments.id
    if (arguments.partition is None) != (arguments.share is None):
        raise UsageError("--partition and --share require each other; use, for example, --partition iid --share 0/3")
    if arguments.labels is not None and arguments.partition is not None:
        raise UsageError("--labels cannot be combined with --partition; remove one of them")
    given = arguments.labels is not None or arguments.partition is not None
    whole = not given and (arguments.is_evaluator or not registry.is_shipped("dataset", dataset))
    if not (given or whole or node in DEMO_LABELS):
        raise UsageError(
            f"{node} has no default labels, unlike {', '.join(DEMO_LABELS)}; "
            "add, for example, --labels 0-3 or --partition iid --share 0/3"
        )
    _check_flags(arguments)  # before loading, which may take minutes
    data = loading.load_dataset(dataset, arguments.data_dir, train=not arguments.is_evaluator)
    part, labels = data, None
    if arguments.partition is not None:
        share, of = partitioning.parse_share(arguments.share)
        part = partitioning.select_share(
            data, dataset, partitioning.with_seed(arguments.partition, arguments.partition_seed), share, of
        )
    elif not whole:
        labels = DEMO_LABELS.get(node, ())
        if arguments.labels is not None:
            labels = label_ranges.parse_labels(arguments.labels, loading.count_classes(data, dataset))
        part = loading.select_labels(data, dataset, labels)
    all_by_default = whole and not arguments.is_evaluator
    try:
        classes = int(targets.read_labels(data).max()) + 1
        counts = torch.bincount(targets.read_labels(part), minlength=classes)
    except ValueError as error:
        return NodeData(part, labels, no_labels_reason=get_error_text(error), all_by_default=all_by_default)
    return NodeData(part, labels, tuple(counts.tolist()), all_by_default=all_by_default)


def _check_flags(arguments: argparse.Namespace) -> None:
    """Check the flags as far as possible without the data.

    Raise UsageError for a wrong value and UnknownName for an unknown partition.
    """
    if arguments.labels is not None:
        label_ranges.parse_labels(arguments.labels, num_classes=10**9)
    if arguments.partition is not None:
        partitioning.parse_share(arguments.share)
        registry.find_piece("partition", Spec.parse(arguments.partition).name)


def print_node_data(arguments: argparse.Namespace, dataset: str, node_data: NodeData) -> None:
    """Print the number of samples of each label in the format of the original demo."""
    which = f"{loading.get_dataset_title(dataset)} dataset ({'test' if arguments.is_evaluator else 'train'} set)"
    if node_data.label_counts is None:
        reason = node_data.no_labels_reason.replace("it has", "the data set has", 1)
        print(f"{which}, no class labels on {arguments.id} ({reason})")
    else:
        print(f"{which}, available numbers on {arguments.id}:")
        for label, count in enumerate(node_data.label_counts[:MAX_LABEL_LINES]):
            print(f"      {label}: {count}")
    if node_data.all_by_default:
        print(f"{arguments.id} holds all {len(node_data.data)} samples; use --labels or --partition to select a part")
    key = f"{Spec.parse(dataset).name}{'_testing' if arguments.is_evaluator else ''}"
    print(f"datasets: {{'{key}': {_describe_dataset(node_data.data)}}}")
    print(f"len(datasets[{key}]): {len(node_data.data)}", flush=True)


def _describe_dataset(data: Dataset) -> str:
    """Return the data set's ``repr``, or its type and length if the ``repr`` contains an address in memory."""
    text = repr(data)
    return f"{type(data).__name__}({len(data)})" if f" at {id(data):#x}" in text else text
