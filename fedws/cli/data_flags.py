"""Which samples a node takes, by its flags, and the lines that say so."""

import argparse
from dataclasses import dataclass

import torch

from fedws.core import registry
from fedws.core.errors import UsageError
from fedws.core.untrusted_text import words
from fedws.data import label_ranges, loading, partitioning, targets
from fedws.data.base import Dataset

MOST_LINES = 1000
"""Labels whose counts are printed; the rest are left out."""


@dataclass(frozen=True)
class Held:
    """What a node holds."""

    data: Dataset
    labels: tuple[int, ...] | None
    """The labels it declares; None: those of its samples."""
    counts: tuple[int, ...] | None = None
    """Number of samples held of each label, from 0 to the largest of the whole data set; None without class labels."""
    why: str = ""
    """Why it has no class labels."""
    unasked: bool = False
    """Whether it holds all samples of a data set of its own since no flag says otherwise."""


def take(arguments: argparse.Namespace, dataset: str) -> Held:
    """The node's samples. Raises UsageError."""
    node = arguments.id
    if (arguments.partition is None) != (arguments.share is None):
        raise UsageError("--partition and --share go together, as --partition iid --share 0/3")
    if arguments.digits is not None and arguments.partition is not None:
        raise UsageError("--digits and --partition exclude each other")
    given = arguments.digits is not None or arguments.partition is not None
    whole = not given and (arguments.testing or not registry.ships("dataset", dataset))
    if not (given or whole or node in label_ranges.DEFAULTS):
        raise UsageError(
            f"which samples does {node} hold? Only {', '.join(label_ranges.DEFAULTS)} have digits of their own: "
            "say --digits 0-3, or --partition iid --share 0/3"
        )
    _check_words(arguments)  # before minutes of loading
    data = loading.load(dataset, arguments.data_dir, train=not arguments.testing)
    part, wanted = data, None
    if arguments.partition is not None:
        share, of = partitioning.parse(arguments.share)
        part = loading.of_share(data, dataset, loading.seeded(arguments.partition, arguments.seed), share, of)
    elif not whole:
        wanted = label_ranges.DEFAULTS.get(node, ())
        if arguments.digits is not None:
            wanted = label_ranges.parse(arguments.digits, loading.classes(data, dataset))
        part = loading.of_labels(data, dataset, wanted)
    unasked = whole and not arguments.testing
    try:
        classes = int(targets.labels(data).max()) + 1
        counts = torch.bincount(targets.labels(part), minlength=classes)
    except ValueError as error:
        return Held(part, wanted, why=words(error), unasked=unasked)
    return Held(part, wanted, tuple(counts.tolist()), unasked=unasked)


def _check_words(arguments: argparse.Namespace) -> None:
    """What can be said of the flags without the data. Raises UsageError or UnknownName."""
    if arguments.digits is not None:
        label_ranges.parse(arguments.digits, classes=10**9)
    if arguments.partition is not None:
        partitioning.parse(arguments.share)
        registry.find("partition", registry.Spec.parse(arguments.partition).name)


def tell(arguments: argparse.Namespace, dataset: str, held: Held) -> None:
    """Print how many samples of each label are held, as the demo did."""
    which = f"{loading.title(dataset)} dataset ({'test' if arguments.testing else 'train'} set)"
    if held.counts is None:
        print(f"{which}, no class labels on {arguments.id} ({held.why.replace('it has', 'the data set has', 1)})")
    else:
        print(f"{which}, available numbers on {arguments.id}:")
        for label, count in enumerate(held.counts[:MOST_LINES]):
            print(f"      {label}: {count}")
    if held.unasked:
        print(f"{arguments.id} holds all {len(held.data)} samples; --digits or --partition would choose a part")
    key = f"{registry.Spec.parse(dataset).name}{'_testing' if arguments.testing else ''}"
    print(f"datasets: {{'{key}': {_shown(held.data)}}}")
    print(f"len(datasets[{key}]): {len(held.data)}", flush=True)


def _shown(data: Dataset) -> str:
    """What a data set says of itself; its type and length where it says nothing but an address in memory."""
    text = repr(data)
    return f"{type(data).__name__}({len(data)})" if f" at {id(data):#x}" in text else text
