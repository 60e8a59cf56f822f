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
    chosen = arguments.digits or (None if arguments.partition else digits.DEFAULTS.get(node))
    if not (arguments.testing or chosen or arguments.partition):
        raise UsageError(
            f"which samples does {node} hold? Only {', '.join(digits.DEFAULTS)} have digits of their own: "
            "say --digits 0-3, or --partition iid --share 0/3"
        )
    data = holding.load(dataset, arguments.data_dir, train=not arguments.testing)
    known = samples.labels(data)
    classes = 0 if known is None or known.is_floating_point() else holding.classes(data, dataset)
    if arguments.partition is not None:
        share, of = shares.parse(arguments.share)
        part = holding.of_share(data, dataset, _seeded(arguments.partition, arguments.seed), share, of)
        return Held(part, None, classes)
    if arguments.testing and not arguments.digits:
        return Held(data, None, classes)
    wanted = chosen if isinstance(chosen, tuple) else digits.parse(str(chosen), holding.classes(data, dataset))
    return Held(holding.of_labels(data, dataset, wanted), wanted, classes)


def tell(arguments: argparse.Namespace, dataset: str, held: Held) -> None:
    """Print how many samples of each label are held, as the demo did."""
    which = "test" if arguments.testing else "train"
    print(f"{holding.title(dataset)} dataset ({which} set), available numbers on {arguments.id}:")
    for label in range(held.classes):
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
