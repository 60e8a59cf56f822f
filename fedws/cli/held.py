"""Which samples a node takes, by its flags, and the lines that say so."""

import argparse
from dataclasses import dataclass

from fedws import digits, holding, registry, samples, shares
from fedws.errors import UsageError
from fedws.interfaces import Dataset


@dataclass(frozen=True)
class Held:
    """What a node holds."""

    data: Dataset
    labels: tuple[int, ...] | None
    """The labels it declares; None: those of its samples."""
    classes: int
    """How many labels the whole data set has, counted from 0; 0 when it has none."""


def take(arguments: argparse.Namespace, dataset: str) -> Held:
    """The node's samples. Raises UsageError."""
    node = arguments.id
    if (arguments.partition is None) != (arguments.share is None):
        raise UsageError("--partition and --share go together, as --partition iid --share 0/3")
    if arguments.digits is not None and arguments.partition is not None:
        raise UsageError("--digits and --partition exclude each other")
    given = arguments.digits is not None or arguments.partition is not None
    if not (arguments.testing or given or node in digits.DEFAULTS):
        raise UsageError(
            f"which samples does {node} hold? Only {', '.join(digits.DEFAULTS)} have digits of their own: "
            "say --digits 0-3, or --partition iid --share 0/3"
        )
    _check_words(arguments)  # before minutes of loading
    data = holding.load(dataset, arguments.data_dir, train=not arguments.testing)
    known = samples.labels(data)
    classes = 0 if known is None or known.is_floating_point() else holding.classes(data, dataset)
    if arguments.partition is not None:
        share, of = shares.parse(arguments.share)
        part = holding.of_share(data, dataset, _seeded(arguments.partition, arguments.seed), share, of)
        return Held(part, None, classes)
    if arguments.testing and arguments.digits is None:
        return Held(data, None, classes)
    if arguments.digits is None:
        wanted = digits.DEFAULTS[node]
    else:
        wanted = digits.parse(arguments.digits, holding.classes(data, dataset))
    return Held(holding.of_labels(data, dataset, wanted), wanted, classes)


def _check_words(arguments: argparse.Namespace) -> None:
    """What can be said of the flags without the data. Raises UsageError or UnknownName."""
    if arguments.digits is not None:
        digits.parse(arguments.digits, classes=10**9)
    if arguments.partition is not None:
        shares.parse(arguments.share)
        registry.find("partition", registry.Spec.parse(arguments.partition).name)


def tell(arguments: argparse.Namespace, dataset: str, held: Held) -> None:
    """Print how many samples of each label are held, as the demo did."""
    which = "test" if arguments.testing else "train"
    print(f"{holding.title(dataset)} dataset ({which} set), available numbers on {arguments.id}:")
    for label in range(min(held.classes, 1000)):
        print(f"      {label}: {_count(held.data, label)}")
    key = f"{registry.Spec.parse(dataset).name}{'_testing' if arguments.testing else ''}"
    print(f"datasets: {{'{key}': {held.data!r}}}")
    print(f"len(datasets[{key}]): {len(held.data)}", flush=True)


def _count(data: Dataset, label: int) -> int:
    labels = samples.labels(data)
    return 0 if labels is None else int((labels == label).sum())


def _seeded(partition: str, seed: int) -> str:
    """The partition with ``--seed``, where it takes a seed and none is given in its own settings."""
    wanted = registry.Spec.parse(partition)
    takes = registry.find("partition", wanted.name).__annotations__
    return f"{partition},seed={seed}" if "seed" in takes and "seed" not in wanted.options else partition
