"""The command ``fedws communication-cost``, which compares the traffic of FedAvg and MistNet.

It prints the sizes of models, raw data and features.
"""

import argparse
import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING

from fedws.cli.parser import Parser

if TYPE_CHECKING:
    from fedws.split_learning.communication_cost import CommunicationCost

LINE_WIDTH = 80
COLUMN_TITLES = ("net", "input", "cut", "parameters", "model", "raw", "floats", "bits", "FedAvg")
COLUMN_UNITS = ("", "", "", "", "MB", "GB", "GB", "GB", "GB")


def build_parser(prog: str) -> Parser:
    """Return the parser of the command."""
    flags = Parser(
        prog=prog,
        description="Compute the sizes of a model, of raw data, and of features at a split point from their shapes. "
        "Without --model, measure VGG-16 and ResNet-18, and explain the published claim about them.",
    )
    add = flags.add_argument
    add("--model", metavar="NAME", help="registered model to measure")
    add(
        "--split-at",
        metavar="LAYER",
        help="last layer that workers run, such as features.2 or 4 (the default of the model)",
    )
    add("--input-shape", metavar="CxHxW", help="shape of an input (3x32x32)")
    add("--num-records", metavar="N", type=int, help="number of samples of all workers (50000)")
    add("--rounds", metavar="N", type=int, help="number of rounds of FedAvg (100)")
    add(
        "--plugin",
        dest="plugins",
        metavar="FILE.py",
        action="append",
        help="Python file that registers pieces; repeatable",
    )
    return flags


def main(arguments: argparse.Namespace) -> int:
    """Print the table, and the published claim below it."""
    from fedws.core.errors import UsageError
    from fedws.core.plugins import load_plugins
    from fedws.split_learning import communication_cost

    load_plugins(arguments.plugins or ())
    given = {name: getattr(arguments, name) for name in ("split_at", "input_shape", "num_records", "rounds")}
    given = {name: value for name, value in given.items() if value is not None}
    if arguments.model is None:
        if given:
            raise UsageError(f"--{next(iter(given)).replace('_', '-')} requires --model")
        found = communication_cost.measure_published_models()
        claimed = communication_cost.explain_claim(*found[:3])
    else:
        found, claimed = [_measure_model(arguments.model, given)], []
    lines = [COLUMN_TITLES, COLUMN_UNITS, *(_format_row(one) for one in found)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(COLUMN_TITLES))]
    for line in lines:
        cells = zip(line, widths, strict=True)
        print(" ".join(f"{cell:<{width}}" if at < 3 else f"{cell:>{width}}" for at, (cell, width) in enumerate(cells)))
    first = found[0]
    caption = (
        f"{first.num_records:,} samples; raw: one byte per value; FedAvg: one client, {first.rounds} rounds, one way"
    )
    for line in (caption, *claimed):
        print(textwrap.fill(line, LINE_WIDTH, subsequent_indent="  "))
    return 0


def _measure_model(model: str, flags: dict[str, str | int]) -> "CommunicationCost":
    from fedws.core import registry
    from fedws.core.errors import UsageError
    from fedws.core.spec import Spec
    from fedws.split_learning import communication_cost
    from fedws.split_learning.model_split import find_split_points

    for name in ("num_records", "rounds"):
        if int(flags.get(name, 1)) < 1:
            raise UsageError(f"--{name.replace('_', '-')}: expected at least 1, got {flags[name]}")
    piece = registry.find_piece("model", Spec.parse(model).name)
    cut = str(flags.pop("split_at", getattr(piece, "split_at", "")))
    if not cut:
        split_points = ", ".join(find_split_points(registry.build_piece("model", model)))
        raise UsageError(
            f"--split-at is required: model {model!r} has no default split point; available: {split_points}"
        )
    shape = _parse_shape(str(flags.pop("input_shape", "3x32x32")))
    counts = {name: int(value) for name, value in flags.items()}
    return communication_cost.measure_cost(model, lambda: registry.build_piece("model", model), shape, cut, **counts)


def _parse_shape(text: str) -> tuple[int, ...]:
    from fedws.core.errors import UsageError

    parts = text.split("x")
    if not all(part.isdecimal() and int(part) for part in parts):
        raise UsageError(f"--input-shape: {text!r} is not a valid shape; use the form CxHxW, such as 3x32x32")
    return tuple(map(int, parts))


def _format_row(cost: "CommunicationCost") -> Sequence[str]:
    from fedws.split_learning.communication_cost import format_shape

    return (
        cost.model_name,
        format_shape(cost.input_shape),
        cost.split_at,
        f"{cost.num_parameters:,}",
        f"{cost.model_bytes / 1e6:.1f}",
        f"{cost.raw_bytes / 1e9:.3f}",
        f"{cost.encoded_bytes('floats') / 1e9:.2f}",
        f"{cost.encoded_bytes('bits') / 1e9:.3f}",
        f"{cost.fedavg_bytes / 1e9:.2f}",
    )
