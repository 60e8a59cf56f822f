"""The model ``ssdlite`` and its loss ``ssd``, both torchvision's own, as a plugin of every node.

One tensor goes in and one comes out, so that fedws can cut the model and train either side.
"""

from functools import cache, partial

import torch
from torch import nn
from torchvision.models.detection import ssdlite320_mobilenet_v3_large
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.ssd import SSD
from torchvision.ops import box_convert, box_iou

import fedws
from fedws.training.base import Loss

SIZE = 320
CLASSES = 80
GRIDS = (20, 10, 5, 3, 2, 1)
"""Sides of the feature maps that tell of boxes, in a picture of 320 x 320."""
Boxes = dict[str, torch.Tensor]
"""Of one picture: ``boxes``, float32 [k, 4], corners in pixels; ``labels``, int64 [k] from 1; maybe ``scores`` [k]."""


@fedws.register("model", "ssdlite")
class SsdLite(nn.Module):
    """Pictures [n, 3, 320, 320] from -1 to 1 to [n, 3234, 4 + 81]: for each anchor a box, and logits.

    The logits are of nothing, then of the 80 classes. This is the net of torchvision's
    ``ssdlite320_mobilenet_v3_large``, with weights of its own. What is around that net and has no weights is in the
    data set, in :func:`ssd` and in :func:`detect`.
    """

    def __init__(self) -> None:
        super().__init__()
        whole = _whole()
        self.backbone = whole.backbone
        self.head = whole.head

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        """Regressions and logits."""
        maps = self.backbone(pictures.to(memory_format=torch.channels_last))  # which takes half the time on CPUs
        told = self.head(list(maps.values()))
        return torch.cat([told["bbox_regression"], told["cls_logits"]], dim=2)


@fedws.register("loss", "ssd")
def ssd() -> Loss:
    """The loss of Liu et al., "SSD: Single Shot MultiBox Detector" (ECCV 2016), section 2.2, computed by torchvision.

    Outputs are :class:`SsdLite`'s; targets are float32 [n, k, 5], rows of class, x, y, width and height, the last four
    from 0 to 1. Rows that are no box of a class are passed over. As there, the mean is over the anchors that match a
    box, not over the pictures: how pictures are put into batches shows a little.
    """
    return _ssd


def _ssd(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    around, anchors = _around(outputs.device)
    true = [truth(rows) for rows in targets]
    matches = [_match(around, boxes["boxes"], anchors) for boxes in true]
    losses = around.compute_loss(true, _halves(outputs), [anchors] * len(true), matches)
    total: torch.Tensor = losses["bbox_regression"] + losses["classification"]
    return total


def detect(outputs: torch.Tensor) -> list[Boxes]:
    """What the model sees in each picture, the surest first: at most 300 boxes, as torchvision chooses them."""
    around, anchors = _around(outputs.device)
    several = len(outputs)
    found: list[Boxes] = around.postprocess_detections(_halves(outputs), [anchors] * several, [(SIZE, SIZE)] * several)
    return found


def truth(rows: torch.Tensor) -> Boxes:
    """The boxes of one target, float32 [k, 5]."""
    known = (rows[:, 0] >= 0) & (rows[:, 0] < CLASSES) & (rows[:, 3:] > 0).all(dim=1)
    boxes = box_convert(rows[known, 1:] * SIZE, "cxcywh", "xyxy")
    return {"boxes": boxes, "labels": rows[known, 0].to(torch.int64) + 1}


def _whole() -> SSD:
    # As torchvision makes it, but for batch norm's momentum: its 0.03 a step is meant for many more steps.
    norm = partial(nn.BatchNorm2d, eps=0.001, momentum=0.1)
    return ssdlite320_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=CLASSES + 1, norm_layer=norm)


@cache
def _around(device: torch.device) -> tuple[SSD, torch.Tensor]:
    """What needs no weights of a whole model, and its anchors, float32 [3234, 4]: corners in pixels."""
    with torch.random.fork_rng(devices=[]):  # its weights are drawn, too
        whole = _whole()
    picture = ImageList(torch.zeros(1, 3, SIZE, SIZE, device=device), [(SIZE, SIZE)])
    (anchors,) = whole.anchor_generator(picture, [torch.zeros(1, 1, side, side, device=device) for side in GRIDS])
    return whole, anchors


def _match(around: SSD, boxes: torch.Tensor, anchors: torch.Tensor) -> torch.Tensor:
    """For each anchor the number of its box, int64 [3234]; -1: none."""
    if not len(boxes):
        return torch.full((len(anchors),), -1, device=anchors.device)
    matches: torch.Tensor = around.proposal_matcher(box_iou(boxes, anchors))
    return matches


def _halves(outputs: torch.Tensor) -> dict[str, torch.Tensor]:
    return {"bbox_regression": outputs[:, :, :4], "cls_logits": outputs[:, :, 4:]}
