"""Detections against ground truth: COCO average precision, and recall by the shape of the objects.

Detections are one dict per image of the set, in the set's order and in pixels of the original image: ``boxes``
``[n, 4]`` xyxy, ``scores`` ``[n]``, ``labels`` ``[n]``. Pixels have no +1 anywhere. Those that do not match the set, or
hold NaN or infinity, are a ValueError wherever they are given (`check`).
"""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

if TYPE_CHECKING:
    from harness.data.base import ImageSet

Detections = Mapping[str, NDArray[Any]]
Metrics = dict[str, float | None]

MAX_DETECTIONS = 100  # per class and image, for AR100

# Edges of the bins, lower ones inclusive; the last bin of a share includes 1.
BINS: dict[str, tuple[float, ...]] = {
    "eccentricity": (0.0, 0.1, 0.25, math.inf),  # half-box units: 0.1 is a twentieth of the side
    "centre_fill": (0.0, 0.05, 0.5, 0.9, 1.0),  # empty, mostly empty, mostly filled, filled
}


def coco_metrics(images: ImageSet, detections: Sequence[Detections]) -> Metrics:
    """Average precision and recall in points (0-100) by pycocotools, in memory and without printing.

    Crowd regions match any number of detections and count for nothing. Difficult objects count for nothing either,
    but stay objects: one detection each, by plain IoU. Classes without an object are left out of the means.

    Every detection is read. The 100 per class and image of COCO's own numbers are those that its detectors keep; faces
    in WIDER FACE are up to 700 in an image, and only 78 % of those of its val split are among the first 100 of one. So
    it is for ``evaluation.detections`` to say how many there are.

    Returns:
        ``AP, AP50, AP75, APs, APm, APl``, and ``AR100`` of the `MAX_DETECTIONS` best per class and image; ``None``
        where no object defines the value.
    """
    judge = matched(images, detections)
    with redirect_stdout(io.StringIO()):
        judge.accumulate()
    precision = judge.eval["precision"][..., -1]  # [T, R, K, A]: IoU, recall, class, size; of all detections
    values = {"AP": precision[..., 0], "AP50": precision[0, ..., 0], "AP75": precision[5, ..., 0]}
    values |= {name: precision[..., size] for size, name in ((1, "APs"), (2, "APm"), (3, "APl"))}
    values["AR100"] = judge.eval["recall"][..., 0, judge.params.maxDets.index(MAX_DETECTIONS)]
    return {name: _mean(value) for name, value in values.items()}


def _mean(values: NDArray[np.float64]) -> float | None:
    """In points, over the entries that an object defines; the library marks the others with -1."""
    defined = values[values > -1]
    return 100 * float(defined.mean()) if defined.size else None


def matched(images: ImageSet, detections: Sequence[Detections], *, sizes: bool = True) -> COCOeval:
    """The library's own evaluation after its matching: ``evalImgs`` is filled, nothing is accumulated.

    Args:
        sizes: match within small, medium and large objects too, not among all of them alone.
    """
    check(images, detections)
    with redirect_stdout(io.StringIO()):
        judge = _Evaluation(_ground_truth(images), _results(images, detections), "bbox")
        # Last the number that the matching goes to, and by which precision is read.
        most = max((len(found["scores"]) for found in detections), default=0)
        judge.params.maxDets = sorted({MAX_DETECTIONS, max(most, MAX_DETECTIONS)})
        if not sizes:
            judge.params.areaRng = judge.params.areaRng[:1]
            judge.params.areaRngLbl = judge.params.areaRngLbl[:1]
        judge.evaluate()
    return judge


def object_bins(
    images: ImageSet, detections: Sequence[Detections], *, iou: float = 0.5
) -> dict[str, dict[str, dict[str, float | None]]]:
    """AP, recall and IoU of objects, by bins of each attribute that the annotations carry.

    For AP the objects outside a bin count as difficult ones do, and what finds no object counts against every bin.
    For recall, detections take the free object of their class with the highest IoU, in the order of their score. Crowd
    and difficult objects may be taken but are not counted.

    Args:
        iou: least IoU of a match, for recall.

    Returns:
        attribute -> bin -> ``count`` of objects, ``AP`` and ``recall`` in points and ``mean_iou`` in [0, 1], in which
        an object nobody found counts as 0; all ``None`` where a bin is empty. Of sets without attributes, nothing.
    """
    check(images, detections)
    truths = [images.annotations(index) for index in range(len(images))]
    names = [name for name in BINS if any(name in truth.attributes for truth in truths)]
    if not names:
        return {}
    best = np.concatenate(
        [_greedy_iou(t.boxes, t.labels, found, iou) for t, found in zip(truths, detections, strict=True)]
    )
    counted = np.concatenate([~(truth.crowd | truth.difficult) for truth in truths])
    within = _APWithin(matched(images, detections, sizes=False))
    rows: dict[str, dict[str, dict[str, float | None]]] = {}
    for name in names:
        values = np.concatenate([t.attributes.get(name, np.full(len(t.boxes), np.nan, np.float32)) for t in truths])
        for title, inside in in_bins(values, BINS[name]).items():
            chosen = best[inside & counted]
            rows.setdefault(name, {})[title] = {
                "count": len(chosen),
                "AP": within(inside) if len(chosen) else None,
                "recall": 100 * float((chosen > 0).mean()) if len(chosen) else None,
                "mean_iou": float(chosen.mean()) if len(chosen) else None,
            }
    return rows


class _APWithin:
    """AP of some of the objects; the overlaps are computed once, by a judge that has matched without sizes."""

    def __init__(self, judge: COCOeval) -> None:
        self._judge = judge
        self._rows = [row for group in judge._gts.values() for row in group]
        self._ignored = [row["ignore"] for row in self._rows]

    def __call__(self, inside: NDArray[np.bool_]) -> float | None:
        """Points, of those `inside` ``[n]`` of all objects in the order of the images."""
        judge, params = self._judge, self._judge.params
        for row, ignored in zip(self._rows, self._ignored, strict=True):
            row["ignore"] = ignored or not inside[row["id"] - 1]
        (every,), most = params.areaRng, params.maxDets[-1]
        judge.evalImgs = [judge.evaluateImg(i, k, every, most) for k in params.catIds for i in params.imgIds]
        with redirect_stdout(io.StringIO()):
            judge.accumulate()
        return _mean(judge.eval["precision"][..., 0, -1])


def box_iou(a: NDArray[Any], b: NDArray[Any]) -> NDArray[np.float64]:
    """IoU ``[n, m]`` of xyxy boxes ``[n, 4]`` and ``[m, 4]``; 0 where both are empty."""
    a, b = a.astype(np.float64), b.astype(np.float64)
    corner = np.minimum(a[:, None, 2:], b[None, :, 2:]) - np.maximum(a[:, None, :2], b[None, :, :2])
    shared = corner.clip(min=0).prod(axis=-1)
    area_a, area_b = ((box[:, 2:] - box[:, :2]).clip(min=0).prod(axis=-1) for box in (a, b))
    union = area_a[:, None] + area_b[None, :] - shared
    iou: NDArray[np.float64] = np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)
    return iou


class _Evaluation(COCOeval):  # type: ignore[misc]
    """COCOeval with difficult objects: the library overwrites ``ignore`` with ``iscrowd``."""

    def _prepare(self) -> None:
        super()._prepare()
        for group in self._gts.values():
            for row in group:
                row["ignore"] = row["iscrowd"] or row["difficult"]


def check(images: ImageSet, detections: Sequence[Detections]) -> None:
    """Whether there is one dict per image with arrays that fit together and finite numbers.

    Raises:
        ValueError: if not.
    """
    if len(detections) != len(images):
        raise ValueError(f"{len(detections)} detections for {len(images)} images; give one dict per image, in order")
    for index, result in enumerate(detections):
        count = len(result["scores"])
        if result["boxes"].shape != (count, 4) or result["labels"].shape != (count,):
            shapes = {name: value.shape for name, value in result.items()}
            raise ValueError(f"image {index}: boxes must be [n, 4] with n scores and n labels, got {shapes}")
        if not (np.isfinite(result["boxes"]).all() and np.isfinite(result["scores"]).all()):
            raise ValueError(f"image {index}: detections hold NaN or infinity")


def _ground_truth(images: ImageSet) -> COCO:
    rows = []
    for index in range(len(images)):
        image_id, truth = images.image_id(index), images.annotations(index)
        columns = zip(truth.boxes, truth.labels, truth.area, truth.crowd, truth.difficult, strict=True)
        for box, label, area, crowd, difficult in columns:
            marks = {"area": float(area), "iscrowd": int(crowd), "difficult": int(difficult)}
            rows.append(_row(image_id, box, label) | marks)
    return _coco(images, rows)


def _results(images: ImageSet, detections: Sequence[Detections]) -> COCO:
    rows = []
    for index, result in enumerate(detections):
        image_id = images.image_id(index)
        for box, label, score in zip(result["boxes"], result["labels"], result["scores"], strict=True):
            row = _row(image_id, box, label)
            rows.append(row | {"area": row["bbox"][2] * row["bbox"][3], "iscrowd": 0, "score": float(score)})
    return _coco(images, rows)


def _row(image_id: int, box: NDArray[Any], label: int) -> dict[str, Any]:
    left, top, right, bottom = (float(value) for value in box)
    return {"image_id": image_id, "category_id": int(label), "bbox": [left, top, right - left, bottom - top]}


def _coco(images: ImageSet, rows: list[dict[str, Any]]) -> COCO:
    coco = COCO()
    # Ids start at 1: COCOeval reads a match with id 0 as no match.
    coco.dataset = {
        "images": [{"id": images.image_id(index)} for index in range(len(images))],
        "annotations": [row | {"id": number} for number, row in enumerate(rows, start=1)],
        "categories": [{"id": label, "name": name} for label, name in enumerate(images.classes)],
    }
    coco.createIndex()
    return coco


def _greedy_iou(
    boxes: NDArray[Any], labels: NDArray[Any], detections: Detections, threshold: float
) -> NDArray[np.float64]:
    """IoU ``[n]`` of each object with the detection that took it, 0 where none did."""
    best = np.zeros(len(boxes))
    order = np.argsort(-detections["scores"], kind="stable")
    overlap = box_iou(detections["boxes"][order], boxes)
    overlap[detections["labels"][order][:, None] != labels[None, :]] = 0.0
    free = np.ones(len(boxes), dtype=bool)
    for row in overlap if len(boxes) else ():
        candidates = np.where(free, row, -1.0)
        choice = int(candidates.argmax())
        if candidates[choice] >= threshold:
            best[choice], free[choice] = row[choice], False
    return best


def in_bins(values: NDArray[Any], edges: Sequence[float]) -> dict[str, NDArray[np.bool_]]:
    """Which values lie in each bin, by its name; NaN in none."""
    bins = {}
    for low, high in pairwise(edges):
        closed = high == edges[-1] and math.isfinite(high)
        inside = (values >= low) & ((values <= high) if closed else (values < high))
        bins[f"[{low:g}, {high:g}{']' if closed else ')'}"] = inside
    return bins
