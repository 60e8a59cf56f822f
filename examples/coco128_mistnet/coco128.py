"""The plugin with the data set ``coco128``, which has 128 photographs with boxes around objects.

Every node loads it:

fedws worker --id edge1 --plugin examples/coco128_mistnet/coco128.py --dataset coco128 --partition iid --share 0/2
"""

from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
import torch
from PIL import Image

import fedws

SIZE = 320
"""Width and height in pixels of the pictures that the model gets."""
CLASSES = 80
MAX_BOXES = 64
"""Number of rows of a target. No picture of coco128 has more than 42 boxes."""


@fedws.register("dataset", "coco128")
class Coco128(torch.utils.data.Dataset[tuple[torch.Tensor, torch.Tensor]]):
    """Pictures, float32 [3, 320, 320] from -1 to 1, and their boxes, float32 [64, 5].

    A row of the boxes has the class, x and y of the centre, the width and the height. The last four are fractions of
    the size of the picture, 0 to 1. Unused rows have the class -1 and zeros. ``root/coco128`` is the directory as
    packed by Ultralytics. The pictures are sorted by name. The first half of them is ``public``, and the ``edges``
    share the second half. ``train`` has no effect, because coco128 has no test set.
    """

    title: ClassVar = "coco128"
    model: ClassVar = "ssdlite"

    def __init__(self, root: Path, train: bool, *, part: Literal["edges", "public"] = "edges") -> None:
        folder = root / "coco128"
        files = sorted((folder / "images" / "train2017").glob("*.jpg"))
        if not files:
            raise fedws.UsageError(
                f"coco128 not found in {folder}; unpack Ultralytics' coco128 there, with images/train2017 and "
                "labels/train2017, and set --data-dir or FEDWS_DATA to its parent directory"
            )
        half = len(files) // 2
        files = files[:half] if part == "public" else files[half:]
        self._pixels = torch.stack([read_picture(file) for file in files])
        labels = folder / "labels" / "train2017"
        self.boxes = torch.stack([read_boxes(labels / f"{file.stem}.txt") for file in files])
        classes, areas = self.boxes[:, :, 0], self.boxes[:, :, 3:].prod(dim=2)
        largest = classes.gather(1, areas.argmax(dim=1, keepdim=True)).squeeze(1).to(torch.int64)
        self.targets = largest.where(largest >= 0, CLASSES)
        """Class of the largest box of each picture, or 80 without boxes. Partitions by label use it."""

    def __len__(self) -> int:
        return len(self.boxes)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        return self._pixels[index].to(torch.float32) / 127.5 - 1, self.boxes[index]

    def __repr__(self) -> str:
        return f"{len(self)} pictures of coco128"


def read_picture(file: Path) -> torch.Tensor:
    """Return the pixels of a picture of any size, uint8 [3, 320, 320]. Grey pictures get three equal channels."""
    with Image.open(file) as image:
        pixels = np.array(image.convert("RGB").resize((SIZE, SIZE), Image.Resampling.BILINEAR))
    return torch.from_numpy(pixels).permute(2, 0, 1)


def read_boxes(file: Path) -> torch.Tensor:
    """Return the boxes in a label file, float32 [64, 5]. A missing file means that the picture has no boxes.

    Raise UsageError if the file has too many lines or an invalid line.
    """
    rows = torch.zeros(MAX_BOXES, 5)
    rows[:, 0] = -1
    lines = file.read_text(encoding="utf-8").splitlines() if file.is_file() else []
    if len(lines) > MAX_BOXES:
        raise fedws.UsageError(f"{file}: {len(lines)} boxes exceed the limit of {MAX_BOXES}")
    for number, line in enumerate(lines):
        try:
            label, *place = map(float, line.split())
            is_valid = label in range(CLASSES) and len(place) == 4 and all(0 <= value <= 1 for value in place)
            is_valid = is_valid and min(place[2:]) > 0
        except ValueError:
            is_valid = False
        if not is_valid:
            raise fedws.UsageError(f"{file}, line {number + 1}: expected class, x, y, width, height, got {line[:64]!r}")
        rows[number] = torch.tensor([label, *place])
    return rows
