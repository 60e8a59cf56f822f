"""What can be seen again of the pictures whose features were sent: ``fedws attack``, beside what the paper found."""

import tempfile
from collections.abc import Sequence
from pathlib import Path

from benchmarks.mistnet_wire import LIMIT, PLUGIN
from benchmarks.processes import Crew
from benchmarks.tables import table

PAPER = (
    ("block 1", ".354", ".576", ".728", ".775", ".918"),
    ("block 2", ".211", ".306", ".453", ".515", ".690"),
    ("block 3", ".165", ".170", ".205", ".206", ".303"),
)
"""SSIM of the paper's inversion of ResNet-18's features, by the block after which it is cut."""


def attacked(model: str, pretrained: str, data_dir: Path, cuts: Sequence[str], *, quick: bool) -> None:
    """Attack bits with noise, bits and floats at each cut, and print how like the originals the pictures are."""
    what = ["--dataset", "cifar10_private", "--plugin", PLUGIN, "--data-dir", str(data_dir), "--model", model]
    effort = ["--steps", "5", "--starts", "1", "--samples", "2"] if quick else []
    with Crew() as crew, tempfile.TemporaryDirectory(prefix="fedws-bench-") as folder:
        picture = ["--output", str(Path(folder) / "attack.png")]
        words = [*what, "--pretrained", pretrained, "--cut", *cuts, *effort, *picture]
        child = crew.start("attack", "-m", "fedws", "attack", *words)
        child.finish(LIMIT)
    for _, line in child.lines:
        print(line)
    print("the paper's SSIM, of ResNet-18 on CIFAR-10; below 0.3 counts as unrecognisable:")
    print(table(["cut after", "0.5", "1", "2", "bits", "floats"], PAPER))
