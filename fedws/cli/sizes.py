"""``fedws sizes``: what models, raw data and features take, and what FedAvg and MistNet send."""

import argparse
import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING

from fedws.cli.parser import Parser

if TYPE_CHECKING:
    from fedws.split_learning.communication_cost import Sizes

WIDTH = 80
HEAD = ("net", "input", "cut", "parameters", "model", "raw", "floats", "bits", "FedAvg")
UNITS = ("", "", "", "", "MB", "GB", "GB", "GB", "GB")


def parser(prog: str) -> Parser:
    """The command's flags."""
    flags = Parser(
        prog=prog,
        description="What a model, raw data and the features of a cut take, by their shapes. "
        "Without --model: VGG-16 and ResNet-18, and what was claimed of them.",
    )
    add = flags.add_argument
    add("--model", metavar="NAME", help="a model of yours")
    add("--cut", metavar="WHERE", help="the last layer that workers run, as features.2 or 4 (the model's own)")
    add("--shape", metavar="CxHxW", help="of an input (3x32x32)")
    add("--records", metavar="N", type=int, help="samples of all workers (50000)")
    add("--rounds", metavar="N", type=int, help="of FedAvg (100)")
    add("--plugin", metavar="FILE.py", action="append", help="a file of yours that registers pieces")
    return flags


def main(arguments: argparse.Namespace) -> int:
    """Print the table, and the claim beside it."""
    from fedws.core import registry
    from fedws.core.errors import UsageError
    from fedws.split_learning import communication_cost

    for plugin in arguments.plugin or ():
        registry.load_plugin(plugin)
    given = {name: getattr(arguments, name) for name in ("cut", "shape", "records", "rounds")}
    given = {name: value for name, value in given.items() if value is not None}
    if arguments.model is None:
        if given:
            raise UsageError(f"--{next(iter(given))} is for a model of yours; name it with --model")
        found = communication_cost.published()
        claimed = communication_cost.claim(*found[:3])
    else:
        found, claimed = [_own(arguments.model, given)], []
    lines = [HEAD, UNITS, *(_row(one) for one in found)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(HEAD))]
    for line in lines:
        cells = zip(line, widths, strict=True)
        print(" ".join(f"{cell:<{width}}" if at < 3 else f"{cell:>{width}}" for at, (cell, width) in enumerate(cells)))
    first = found[0]
    beneath = f"{first.records:,} samples, raw: a byte a value; FedAvg: of one client, {first.rounds} rounds, one way"
    for line in (beneath, *claimed):
        print(textwrap.fill(line, WIDTH, subsequent_indent="  "))
    return 0


def _own(model: str, given: dict[str, str | int]) -> "Sizes":
    from fedws.core import registry
    from fedws.core.errors import UsageError
    from fedws.split_learning import communication_cost
    from fedws.split_learning.model_split import cuts

    for name in ("records", "rounds"):
        if int(given.get(name, 1)) < 1:
            raise UsageError(f"--{name} must be at least 1")
    piece = registry.find("model", registry.Spec.parse(model).name)
    cut = str(given.pop("cut", getattr(piece, "cut", "")))
    if not cut:
        raise UsageError(f"--cut is needed, one of: {', '.join(cuts(registry.build('model', model)))}")
    shape = _shape(str(given.pop("shape", "3x32x32")))
    return communication_cost.measure(model, lambda: registry.build("model", model), shape, cut, **given)  # type: ignore[arg-type]


def _shape(text: str) -> tuple[int, ...]:
    from fedws.core.errors import UsageError

    parts = text.split("x")
    if not all(part.isdecimal() and int(part) for part in parts):
        raise UsageError(f"--shape {text}: the form is CxHxW, as 3x32x32")
    return tuple(map(int, parts))


def _row(one: "Sizes") -> Sequence[str]:
    from fedws.split_learning.communication_cost import times

    return (
        one.net,
        times(one.shape),
        one.cut,
        f"{one.parameters:,}",
        f"{one.model / 1e6:.1f}",
        f"{one.raw / 1e9:.3f}",
        f"{one.encoded('floats') / 1e9:.2f}",
        f"{one.encoded('bits') / 1e9:.3f}",
        f"{one.fedavg / 1e9:.2f}",
    )
