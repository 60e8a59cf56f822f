"""Which samples a node takes, by its flags, and the lines that say so."""

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
"""Labels whose counts are printed; the rest are left out."""


@dataclass(frozen=True)
class NodeData:
    """What a node holds."""

    data: Dataset
    declared_labels: tuple[int, ...] | None
    """The labels it declares; None: those of its samples."""
    label_counts: tuple[int, ...] | None = None
    """Number of samples held of each label, from 0 to the largest of the whole data set; None without class labels."""
    no_labels_reason: str = ""
    """Why it has no class labels."""
    all_by_default: bool = False
    """Whether it holds all samples of a data set of its own since no flag says otherwise."""


def load_node_data(arguments: argparse.Namespace, dataset: str) -> NodeData:
    """The node's samples. Raises UsageError."""
    node = arguments.id
    if (arguments.partition is None) != (arguments.share is None):
        raise UsageError("--partition and --share go together, as --partition iid --share 0/3")
    if arguments.labels is not None and arguments.partition is not None:
        raise UsageError("--labels and --partition exclude each other")
    given = arguments.labels is not None or arguments.partition is not None
    whole = not given and (arguments.is_evaluator or not registry.is_shipped("dataset", dataset))
    if not (given or whole or node in DEMO_LABELS):
        raise UsageError(
            f"which samples does {node} hold? Only {', '.join(DEMO_LABELS)} have digits of their own: "
            "say --labels 0-3, or --partition iid --share 0/3"
        )
    _check_flags(arguments)  # before minutes of loading
    data = loading.load_dataset(dataset, arguments.data_dir, train=not arguments.is_evaluator)
    part, wanted = data, None
    if arguments.partition is not None:
        share, of = partitioning.parse_share(arguments.share)
        part = partitioning.select_share(
            data, dataset, partitioning.with_seed(arguments.partition, arguments.partition_seed), share, of
        )
    elif not whole:
        wanted = DEMO_LABELS.get(node, ())
        if arguments.labels is not None:
            wanted = label_ranges.parse_labels(arguments.labels, loading.count_classes(data, dataset))
        part = loading.select_labels(data, dataset, wanted)
    unasked = whole and not arguments.is_evaluator
    try:
        classes = int(targets.read_labels(data).max()) + 1
        counts = torch.bincount(targets.read_labels(part), minlength=classes)
    except ValueError as error:
        return NodeData(part, wanted, no_labels_reason=get_error_text(error), all_by_default=unasked)
    return NodeData(part, wanted, tuple(counts.tolist()), all_by_default=unasked)


def _check_flags(arguments: argparse.Namespace) -> None:
    """What can be said of the flags without the data. Raises UsageError or UnknownName."""
    if arguments.labels is not None:
        label_ranges.parse_labels(arguments.labels, num_classes=10**9)
    if arguments.partition is not None:
        partitioning.parse_share(arguments.share)
        registry.find_piece("partition", Spec.parse(arguments.partition).name)


def print_node_data(arguments: argparse.Namespace, dataset: str, node_data: NodeData) -> None:
    """Print how many samples of each label are held, as the demo did."""
    which = f"{loading.get_dataset_title(dataset)} dataset ({'test' if arguments.is_evaluator else 'train'} set)"
    if node_data.label_counts is None:
        reason = node_data.no_labels_reason.replace("it has", "the data set has", 1)
        print(f"{which}, no class labels on {arguments.id} ({reason})")
    else:
        print(f"{which}, available numbers on {arguments.id}:")
        for label, count in enumerate(node_data.label_counts[:MAX_LABEL_LINES]):
            print(f"      {label}: {count}")
    if node_data.all_by_default:
        print(f"{arguments.id} holds all {len(node_data.data)} samples; --labels or --partition would choose a part")
    key = f"{Spec.parse(dataset).name}{'_testing' if arguments.is_evaluator else ''}"
    print(f"datasets: {{'{key}': {_describe_dataset(node_data.data)}}}")
    print(f"len(datasets[{key}]): {len(node_data.data)}", flush=True)


def _describe_dataset(data: Dataset) -> str:
    """What a data set says of itself; its type and length where it says nothing but an address in memory."""
    text = repr(data)
    return f"{type(data).__name__}({len(data)})" if f" at {id(data):#x}" in text else text
