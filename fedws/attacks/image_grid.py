"""Rows of small pictures as one picture: originals, and below them what an attacker made of them."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch.nn import functional

from fedws.recording import curves

if TYPE_CHECKING:
    from matplotlib.figure import Figure

HEAD, ROW, LABEL, EDGE = 0.6, 1.2, 3.3, 0.15
"""Inches: above the rows, a row, the text before its pictures, and after them."""
_GAP = 0.06
"""Between pictures, of their size."""


def draw(rows: Sequence[tuple[str, torch.Tensor]], path: Path, title: str = "") -> None:
    """Draw rows of a label, of a few lines, and pictures into a PNG at ``path``, which is whole whenever it is there.

    Pictures are [n, channels, height, width] of values 0 to 1; three channels are red, green and blue, and of another
    number the mean is drawn in grey.
    """

    def picture(figure: "Figure") -> "Figure":
        count, _, height, width = rows[0][1].shape
        across = LABEL + count * ROW * width / height + EDGE
        figure.set_size_inches((across, HEAD + ROW * len(rows) + EDGE))
        inches = figure.get_figwidth(), figure.get_figheight()
        figure.text(EDGE / inches[0], 1 - HEAD / 2 / inches[1], title, size=13, weight="bold", va="center")
        for number, (label, pictures) in enumerate(rows):
            middle = 1 - (HEAD + ROW * (number + 0.5)) / inches[1]
            figure.text(EDGE / inches[0], middle, label, va="center", size=10, linespacing=1.4, parse_math=False)
            high = ROW / (1 + _GAP) / inches[1]
            box = (LABEL / inches[0], middle - high / 2, (inches[0] - LABEL - EDGE) / inches[0], high)
            axes = figure.add_axes(box)
            axes.imshow(_strip(pictures), cmap="gray", vmin=0, vmax=1, interpolation="nearest")
            axes.set_anchor("W")
            axes.set_axis_off()
        return figure

    curves.write(path, picture)


def _strip(pictures: torch.Tensor) -> list[list[list[float]]]:
    """Pictures side by side, with white between them."""
    if pictures.shape[1] != 3:
        pictures = pictures.mean(1, keepdim=True).expand(-1, 3, -1, -1)
    gap = max(1, round(_GAP * pictures.shape[3]))
    framed = functional.pad(pictures, (0, gap), value=1.0)
    strip: list[list[list[float]]] = framed.permute(2, 0, 3, 1).flatten(1, 2)[:, :-gap].tolist()
    return strip
