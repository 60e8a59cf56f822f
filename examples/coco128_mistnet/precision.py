"""How good detections are, by the measure of COCO's own tools (pycocotools)."""

import contextlib
import io
from collections.abc import Mapping, Sequence

import torch
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

MOST = 100
"""Detections of a picture that count, the surest: COCO's rule."""
Boxes = Mapping[str, torch.Tensor]


def map50(found: Sequence[Boxes], true: Sequence[Boxes]) -> float:
    """Mean average precision at an overlap of one half, 0 to 1, over the classes that ``true`` has.

    One element a picture: ``boxes``, corners as [k, 4], ``labels``, whole numbers [k], and where found ``scores`` [k].
    """
    known, seen = COCO(), COCO()
    with contextlib.redirect_stdout(io.StringIO()):  # both tell of their progress
        for index, pictures in ((known, true), (seen, found)):
            index.dataset = _dataset(pictures)
            index.createIndex()
        measure = COCOeval(known, seen, "bbox")
        measure.params.iouThrs = measure.params.iouThrs[:1]
        measure.params.areaRng, measure.params.areaRngLbl = measure.params.areaRng[:1], measure.params.areaRngLbl[:1]
        measure.params.maxDets = [MOST]
        measure.evaluate()
        measure.accumulate()
    precision = measure.eval["precision"]
    return float(precision[precision > -1].mean())


def _dataset(pictures: Sequence[Boxes]) -> dict[str, list[dict[str, object]]]:
    marks: list[dict[str, object]] = []
    for number, picture in enumerate(pictures):
        scores = picture.get("scores", torch.ones(len(picture["labels"])))
        rows = zip(picture["boxes"].tolist(), picture["labels"].tolist(), scores.tolist(), strict=True)
        for (left, top, right, bottom), label, score in rows:
            place = {"bbox": [left, top, right - left, bottom - top], "area": (right - left) * (bottom - top)}
            own = {"id": len(marks) + 1, "image_id": number, "category_id": label, "iscrowd": 0, "score": score}
            marks.append({**place, **own})
    labels = sorted({mark["category_id"] for mark in marks})  # type: ignore[type-var]
    return {
        "images": [{"id": number} for number in range(len(pictures))],
        "categories": [{"id": label} for label in labels],
        "annotations": marks,
    }
