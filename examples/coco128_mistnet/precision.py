"""The mean average precision of detections, computed with the tools of COCO (pycocotools)."""

import contextlib
import io
from collections.abc import Mapping, Sequence

import torch
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

MAX_DETECTIONS = 100
"""Number of detections with the highest scores that count for a picture, as defined by COCO."""
Boxes = Mapping[str, torch.Tensor]


def map50(found: Sequence[Boxes], true: Sequence[Boxes]) -> float:
    """Return the mean average precision at an overlap of one half, 0 to 1, over the classes in ``true``.

    ``found`` and ``true`` have one element for each picture. An element has ``boxes``, which are corners [k, 4], and
    ``labels``, whole numbers [k]. Elements of ``found`` also have ``scores`` [k].
    """
    true_index, found_index = COCO(), COCO()
    with contextlib.redirect_stdout(io.StringIO()):  # both print their progress
        for index, pictures in ((true_index, true), (found_index, found)):
            index.dataset = _build_coco_dataset(pictures)
            index.createIndex()
        measure = COCOeval(true_index, found_index, "bbox")
        measure.params.iouThrs = measure.params.iouThrs[:1]
        measure.params.areaRng, measure.params.areaRngLbl = measure.params.areaRng[:1], measure.params.areaRngLbl[:1]
        measure.params.maxDets = [MAX_DETECTIONS]
        measure.evaluate()
        measure.accumulate()
    precision = measure.eval["precision"]
    return float(precision[precision > -1].mean())


def _build_coco_dataset(pictures: Sequence[Boxes]) -> dict[str, list[dict[str, object]]]:
    annotations: list[dict[str, object]] = []
    for number, picture in enumerate(pictures):
        scores = picture.get("scores", torch.ones(len(picture["labels"])))
        rows = zip(picture["boxes"].tolist(), picture["labels"].tolist(), scores.tolist(), strict=True)
        for (left, top, right, bottom), label, score in rows:
            place = {"bbox": [left, top, right - left, bottom - top], "area": (right - left) * (bottom - top)}
            other = {"id": len(annotations) + 1, "image_id": number, "category_id": label, "iscrowd": 0, "score": score}
            annotations.append({**place, **other})
    labels = sorted({annotation["category_id"] for annotation in annotations})  # type: ignore[type-var]
    return {
        "images": [{"id": number} for number in range(len(pictures))],
        "categories": [{"id": label} for label in labels],
        "annotations": annotations,
    }
