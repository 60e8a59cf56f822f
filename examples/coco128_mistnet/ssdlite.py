"""The plugin with the model ``ssdlite`` and its loss ``ssd``, both from torchvision.

Every node loads it. The model has one input tensor and one output tensor, so that fedws can split the model and train
both parts.
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
"""Widths of the square feature maps from which boxes are predicted, for a picture of 320 x 320 pixels."""
Boxes = dict[str, torch.Tensor]
"""The boxes of one picture.

``boxes`` has their corners in pixels, float32 [k, 4]. ``labels`` has their classes from 1 on, int64 [k]. Detections
also have ``scores`` [k].
"""


@fedws.register("model", "ssdlite")
class SsdLite(nn.Module):
    """A detector that maps pictures [n, 3, 320, 320] from -1 to 1 to outputs [n, 3234, 4 + 81].

    The outputs are a box and logits for each anchor. The first logit is for the background, and the others are for the
    80 classes. The network is that of torchvision's ``ssdlite320_mobilenet_v3_large``, with new weights. The steps of
    torchvision's detector without weights are in the data set, in ``ssd`` and in ``detect``.
    """

    def __init__(self) -> None:
        super().__init__()
        detector = _build_detector()
        self.backbone = detector.backbone
        self.head = detector.head

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        """Return the box regressions and the logits."""
        maps = self.backbone(pictures.to(memory_format=torch.channels_last))  # this halves the time on CPUs
        outputs = self.head(list(maps.values()))
        return torch.cat([outputs["bbox_regression"], outputs["cls_logits"]], dim=2)


@fedws.register("loss", "ssd")
def ssd() -> Loss:
    """Return the loss of Liu et al., "SSD: Single Shot MultiBox Detector" (ECCV 2016), section 2.2, from torchvision.

    The loss takes the outputs of ``SsdLite``, and targets, float32 [n, k, 5]. A row of the targets has the class,
    x, y, width and height, the last four from 0 to 1. Rows without a valid class or area are ignored. As in the paper,
    the mean is over the anchors that match a box, and not over the pictures. The loss therefore depends slightly on the
    division of the pictures into batches.
    """
    return _ssd


def _ssd(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    detector, anchors = _get_detector(outputs.device)
    true_boxes = [decode_target(rows) for rows in targets]
    matches = [_match_anchors(detector, boxes["boxes"], anchors) for boxes in true_boxes]
    losses = detector.compute_loss(true_boxes, _split_outputs(outputs), [anchors] * len(true_boxes), matches)
    total: torch.Tensor = losses["bbox_regression"] + losses["classification"]
    return total


def detect(outputs: torch.Tensor) -> list[Boxes]:
    """Return at most 300 detections for each picture, as selected by torchvision, with the highest scores first."""
    detector, anchors = _get_detector(outputs.device)
    count = len(outputs)
    detections: list[Boxes] = detector.postprocess_detections(
        _split_outputs(outputs), [anchors] * count, [(SIZE, SIZE)] * count
    )
    return detections


def decode_target(rows: torch.Tensor) -> Boxes:
    """Return the boxes of one target, float32 [k, 5]."""
    is_box = (rows[:, 0] >= 0) & (rows[:, 0] < CLASSES) & (rows[:, 3:] > 0).all(dim=1)
    boxes = box_convert(rows[is_box, 1:] * SIZE, "cxcywh", "xyxy")
    return {"boxes": boxes, "labels": rows[is_box, 0].to(torch.int64) + 1}


def _build_detector() -> SSD:
    # torchvision uses a batch norm momentum of 0.03, which is meant for many more training steps.
    norm = partial(nn.BatchNorm2d, eps=0.001, momentum=0.1)
    return ssdlite320_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=CLASSES + 1, norm_layer=norm)


@cache
def _get_detector(device: torch.device) -> tuple[SSD, torch.Tensor]:
    """Return a detector and its anchors, float32 [3234, 4], which are corners in pixels.

    Only the methods of the detector that do not need weights may be used.
    """
    with torch.random.fork_rng(devices=[]):  # the constructor draws weights
        detector = _build_detector()
    picture = ImageList(torch.zeros(1, 3, SIZE, SIZE, device=device), [(SIZE, SIZE)])
    (anchors,) = detector.anchor_generator(picture, [torch.zeros(1, 1, side, side, device=device) for side in GRIDS])
    return detector, anchors


def _match_anchors(detector: SSD, boxes: torch.Tensor, anchors: torch.Tensor) -> torch.Tensor:
    """Return the index of the matching box of each anchor, int64 [3234], or -1 without a match."""
    if not len(boxes):
        return torch.full((len(anchors),), -1, device=anchors.device)
    matches: torch.Tensor = detector.proposal_matcher(box_iou(boxes, anchors))
    return matches


def _split_outputs(outputs: torch.Tensor) -> dict[str, torch.Tensor]:
    return {"bbox_regression": outputs[:, :, :4], "cls_logits": outputs[:, :, 4:]}
