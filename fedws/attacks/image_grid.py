"""A grid of small images as one picture, with originals above the reconstructions of an attacker."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch.nn import functional

from fedws.recording import curves

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TITLE_INCHES, ROW_INCHES, LABEL_INCHES, MARGIN_INCHES = 0.6, 1.2, 3.3, 0.15
"""Sizes in inches: height of the title and of a row, width of a row's label and of the margins."""
_GAP_FRACTION = 0.06
"""Gap between images as a fraction of their size."""


def draw_grid(rows: Sequence[tuple[str, torch.Tensor]], path: Path, title: str = "") -> None:
    """Draw rows of a label and images into a PNG at ``path``.

    A label may have a few lines. Images are [n, channels, height, width] of values 0 to 1. Three channels are red,
    green and blue. The mean of any other number of channels is drawn in grey. The file is written atomically, so it is
    complete whenever it exists.
    """

    def draw(figure: "Figure") -> "Figure":
        count, _, height, width = rows[0][1].shape
        across = LABEL_INCHES + count * ROW_INCHES * width / height + MARGIN_INCHES
        figure.set_size_inches((across, TITLE_INCHES + ROW_INCHES * len(rows) + MARGIN_INCHES))
        inches = figure.get_figwidth(), figure.get_figheight()
        figure.text(
            MARGIN_INCHES / inches[0], 1 - TITLE_INCHES / 2 / inches[1], title, size=13, weight="bold", va="center"
        )
        for number, (label, images) in enumerate(rows):
            middle = 1 - (TITLE_INCHES + ROW_INCHES * (number + 0.5)) / inches[1]
            figure.text(
                MARGIN_INCHES / inches[0], middle, label, va="center", size=10, linespacing=1.4, parse_math=False
            )
            high = ROW_INCHES / (1 + _GAP_FRACTION) / inches[1]
            box = (
                LABEL_INCHES / inches[0],
                middle - high / 2,
                (inches[0] - LABEL_INCHES - MARGIN_INCHES) / inches[0],
                high,
            )
            axes = figure.add_axes(box)
            axes.imshow(_join_images(images), cmap="gray", vmin=0, vmax=1, interpolation="nearest")
            axes.set_anchor("W")
            axes.set_axis_off()
        return figure

    curves.save_figure(path, draw)


def _join_images(images: torch.Tensor) -> list[list[list[float]]]:
    """Return images side by side, with a white gap between them, as [height][width][3]."""
    if images.shape[1] != 3:
        images = images.mean(1, keepdim=True).expand(-1, 3, -1, -1)
    gap = max(1, round(_GAP_FRACTION * images.shape[3]))
    framed = functional.pad(images, (0, gap), value=1.0)
    strip: list[list[list[float]]] = framed.permute(2, 0, 3, 1).flatten(1, 2)[:, :-gap].tolist()
    return strip
