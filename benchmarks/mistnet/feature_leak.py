"""Reconstruction of pictures from their features by ``fedws attack features``, beside the paper's figures."""

import re
import tempfile
from collections.abc import Sequence
from pathlib import Path

from benchmarks.harness.processes import Crew
from benchmarks.harness.tables import table
from benchmarks.mistnet.bytes_sent import LIMIT, PLUGIN

PAPER = (
    ("block 1", ".354", ".576", ".728", ".775", ".918"),
    ("block 2", ".211", ".306", ".453", ".515", ".690"),
    ("block 3", ".165", ".170", ".205", ".206", ".303"),
)
"""SSIM of the paper's inversion of ResNet-18's features, by the block after which the model is cut."""
_LINE = re.compile(r"(\S+) +(\w+) +(none|[\d.]+) +\d+ +(?:none|[\d.e+]+) +([\d.-]+) +[\d.-]+ +([\d.-]+) +[\d.-]+ +\w+")


def attacked(
    model: str, pretrained: str, data_dir: Path, cuts: Sequence[str], *, quick: bool
) -> dict[tuple[str, str], tuple[float, float]]:
    """Attack bits with noise, bits and floats at each cut.

    Return the median SSIM and PSNR (in dB) by the cut and the text of the encoding.
    """
    what = ["--dataset", "cifar10_private", "--plugin", PLUGIN, "--data-dir", str(data_dir), "--model", model]
    effort = ["--steps", "5", "--num-starts", "1", "--num-images", "2"] if quick else []
    with Crew() as crew, tempfile.TemporaryDirectory(prefix="fedws-bench-") as folder:
        picture = ["--output", str(Path(folder) / "attack.png")]
        words = [*what, "--pretrained", pretrained, "--split-at", *cuts, *effort, *picture]
        child = crew.start("attack", "-m", "fedws", "attack", "features", *words)
        child.finish(LIMIT)
        return dict(parsed(line) for _, line in child.lines if _LINE.fullmatch(line))


def parsed(line: str) -> tuple[tuple[str, str], tuple[float, float]]:
    """Return the cut, the encoding, the SSIM and the PSNR of one line of the attack's table.

    >>> parsed("features.9  bits            0.5   12288     6144  0.352 0.466   14.0  15.4  mse")
    (('features.9', 'bits:epsilon=0.5'), (0.352, 14.0))
    >>> parsed("features.9  floats         none   12288     none  0.882 0.924   24.2  29.1  mse")
    (('features.9', 'floats'), (0.882, 24.2))
    """
    found = _LINE.fullmatch(line)
    assert found is not None
    encoding = found[2] if found[3] == "none" else f"{found[2]}:epsilon={found[3]}"
    return (found[1], encoding), (float(found[4]), float(found[5]))


def paper() -> str:
    """Return the table of the paper's figures, for comparison."""
    head = "SSIM of the paper, ResNet-18 on CIFAR-10:"
    return f"{head}\n{table(['cut after', '0.5', '1', '2', 'bits', 'floats'], PAPER)}"
