"""Which samples a node takes, by its flags, and the lines that say so."""

import argparse

from fedws import digits, holding, registry, samples, shares
from fedws.errors import UsageError
from fedws.interfaces import Dataset


def take(arguments: argparse.Namespace, dataset: str) -> tuple[Dataset, tuple[int, ...] | None]:
    """The node's samples, and the labels it declares (None: those of its samples). Raises UsageError."""
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
    if arguments.partition is not None:
        share, of = shares.parse(arguments.share)
        return holding.of_share(data, dataset, _seeded(arguments.partition, arguments.seed), share, of), None
    if arguments.testing and not arguments.digits:
        return data, None
    wanted = chosen if isinstance(chosen, tuple) else digits.parse(str(chosen), holding.classes(data, dataset))
    return holding.of_labels(data, dataset, wanted), wanted


def tell(arguments: argparse.Namespace, dataset: str, data: Dataset) -> None:
    """Print how many samples of each label are held, as the demo did."""
    which = "test" if arguments.testing else "train"
    print(f"{holding.title(dataset)} dataset ({which} set), available numbers on {arguments.id}:")
    held = samples.labels(data)
    if held is not None and not held.is_floating_point():
        for label in range(max(10, int(held.max()) + 1)):
            print(f"      {label}: {int((held == label).sum())}")
    key = f"{registry.Spec.parse(dataset).name}{'_testing' if arguments.testing else ''}"
    print(f"datasets: {{'{key}': {data!r}}}")
    print(f"len(datasets[{key}]): {len(data)}", flush=True)


def _seeded(partition: str, seed: int) -> str:
    """The partition with ``--seed``, where it takes a seed and none is given in its own settings."""
    wanted = registry.Spec.parse(partition)
    takes = registry.find("partition", wanted.name).__annotations__
    return f"{partition},seed={seed}" if "seed" in takes and "seed" not in wanted.options else partition
