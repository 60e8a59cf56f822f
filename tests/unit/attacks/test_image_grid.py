"""Rows of pictures as one picture."""

from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.image import imread

from fedws.attacks.image_grid import LABEL_INCHES, MARGIN_INCHES, ROW_INCHES, TITLE_INCHES, draw_grid


def pixels(path: Path) -> np.ndarray:
    found: np.ndarray = imread(path)[:, :, :3]
    return found


@pytest.mark.parametrize("rows", [1, 2, 6])
def test_it_grows_by_row(tmp_path: Path, rows: int) -> None:
    path = tmp_path / "picture.png"
    draw_grid([(f"row {number}", torch.zeros(4, 1, 28, 28)) for number in range(rows)], path, "$a_title")
    assert pixels(path).shape[:2] == pytest.approx(
        (
            100 * (TITLE_INCHES + rows * ROW_INCHES + MARGIN_INCHES),
            100 * (LABEL_INCHES + 4 * ROW_INCHES + MARGIN_INCHES),
        ),
        abs=1,
    )
    assert list(tmp_path.iterdir()) == [path]


def test_pictures_are_where_they_should_be_in_their_colours(tmp_path: Path) -> None:
    colours = torch.eye(3).reshape(3, 3, 1, 1).expand(3, 3, 16, 16)
    grey = torch.tensor([0.0, 0.5, 1.0]).reshape(3, 1, 1, 1).expand(3, 1, 16, 16)
    draw_grid([("red, green, blue", colours), ("grey", grey)], tmp_path / "picture.png")
    found = pixels(tmp_path / "picture.png")
    for row, wanted in enumerate((np.eye(3), np.repeat([[0.0], [0.5], [1.0]], 3, axis=1))):
        y = round(100 * (TITLE_INCHES + ROW_INCHES * (row + 0.5)))
        places = [round(100 * (LABEL_INCHES + ROW_INCHES * (column + 0.45))) for column in range(3)]
        assert found[y, places] == pytest.approx(wanted, abs=0.01)
