"""The data set ``coco128``: 128 photographs with boxes around what is in them, as a plugin of every node.

fedws worker --id edge1 --plugin examples/coco128_mistnet/coco128.py --dataset coco128 --partition iid --share 0/2
"""

from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
import torch
from PIL import Image

import fedws

SIZE = 320
"""Pixels of a side of the picture that the model sees."""
CLASSES = 80
MOST = 64
"""Rows of a target. The fullest picture of coco128 has 42 boxes."""


@fedws.register("dataset", "coco128")
class Coco128(torch.utils.data.Dataset[tuple[torch.Tensor, torch.Tensor]]):
    """Pictures, float32 [3, 320, 320] from -1 to 1, and their boxes, float32 [64, 5].

    A row of the boxes is class, x and y of the middle, width and height, the last four from 0 to 1 of the picture's
    size; rows that are not needed have class -1 and zeros. ``root/coco128`` is the folder as Ultralytics packs it. Of
    the pictures in the order of their names, the first half is ``public`` and the second is what the ``edges`` share.
    There is no other set to test with: ``train`` makes no difference.
    """

    title: ClassVar = "coco128"
    model: ClassVar = "ssdlite"

    def __init__(self, root: Path, train: bool, *, part: Literal["edges", "public"] = "edges") -> None:
        folder = root / "coco128"
        files = sorted((folder / "images" / "train2017").glob("*.jpg"))
        if not files:
            raise fedws.UsageError(
                f"coco128 is not in {folder}: unpack Ultralytics' coco128 there, as images/train2017 and "
                "labels/train2017, and name the folder around it with --data-dir or FEDWS_DATA"
            )
        half = len(files) // 2
        files = files[:half] if part == "public" else files[half:]
        self._pixels = torch.stack([picture(file) for file in files])
        labels = folder / "labels" / "train2017"
        self.boxes = torch.stack([boxes(labels / f"{file.stem}.txt") for file in files])
        kinds, areas = self.boxes[:, :, 0], self.boxes[:, :, 3:].prod(dim=2)
        largest = kinds.gather(1, areas.argmax(dim=1, keepdim=True)).squeeze(1).to(torch.int64)
        self.targets = largest.where(largest >= 0, CLASSES)
        """The class of each picture's largest box, 80 where there is none: what a partition by label goes by."""

    def __len__(self) -> int:
        return len(self.boxes)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        return self._pixels[index].to(torch.float32) / 127.5 - 1, self.boxes[index]

    def __repr__(self) -> str:
        return f"{len(self)} pictures of coco128"


def picture(file: Path) -> torch.Tensor:
    """A file's pixels, uint8 [3, 320, 320], whatever its shape was; grey ones are made three equal channels."""
    with Image.open(file) as opened:
        pixels = np.array(opened.convert("RGB").resize((SIZE, SIZE), Image.Resampling.BILINEAR))
    return torch.from_numpy(pixels).permute(2, 0, 1)


def boxes(file: Path) -> torch.Tensor:
    """The boxes that a label file tells, float32 [64, 5]; without a file there are none. Raises UsageError."""
    found = torch.zeros(MOST, 5)
    found[:, 0] = -1
    lines = file.read_text(encoding="utf-8").splitlines() if file.is_file() else []
    if len(lines) > MOST:
        raise fedws.UsageError(f"{file}: {len(lines)} boxes; at most {MOST} are taken")
    for row, line in enumerate(lines):
        try:
            kind, *places = map(float, line.split())
            good = kind in range(CLASSES) and len(places) == 4 and all(0 <= place <= 1 for place in places)
            good = good and min(places[2:]) > 0
        except ValueError:
            good = False
        if not good:
            raise fedws.UsageError(f"{file}, line {row + 1}: {line[:64]!r} is not class, x, y, width, height")
        found[row] = torch.tensor([kind, *places])
    return found
