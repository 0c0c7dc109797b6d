"""Detections against ground truth: COCO average precision, and recall by the shape of the objects.

Detections are as `harness.evaluation.detections` has them; those that do not match the set, or hold NaN or infinity,
are a ValueError everywhere. All numbers are those of pycocotools, to the bit (`harness.evaluation.matching`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from harness.evaluation.detections import Detections
from harness.evaluation.matching import THRESHOLDS, ClassMatches, Floats, Matcher, Matches

if TYPE_CHECKING:
    from harness.data.base import ImageSet

Metrics = dict[str, float | None]

RECALL = np.linspace(0.0, 1.0, 101)  # the points at which precision is read, as in pycocotools
MAX_DETECTIONS = 100  # per class and image, for AR100
SIZES = {"APs": (0.0, 32.0**2), "APm": (32.0**2, 96.0**2), "APl": (96.0**2, 1e5**2)}  # area in pixels, ends included

# Edges of the bins, lower ones inclusive; the last bin of a share includes 1.
BINS: dict[str, tuple[float, ...]] = {
    "eccentricity": (0.0, 0.1, 0.25, math.inf),  # half-box units: 0.1 is a twentieth of the side
    "centre_fill": (0.0, 0.05, 0.5, 0.9, 1.0),  # empty, mostly empty, mostly filled, filled
}


def coco_metrics(images: ImageSet, detections: Sequence[Detections]) -> Metrics:
    """Average precision and recall in points (0-100).

    Crowd regions match any number of detections and count for nothing. Difficult objects count for nothing either,
    but stay objects: one detection each, by plain IoU. Classes without an object are left out of the means.

    Every detection is read. The 100 per class and image of COCO's own numbers are those that its detectors keep; faces
    in WIDER FACE are up to 700 in an image, and only 78 % of those of its val split are among the first 100 of one. So
    it is for ``evaluation.detections`` to say how many there are.

    Returns:
        ``AP, AP50, AP75, APs, APm, APl``, and ``AR100`` of the `MAX_DETECTIONS` best per class and image; ``None``
        where no object defines the value.
    """
    matcher = Matcher(images, detections)
    matches = matcher.match()
    precision = _precision(matches)
    values = {"AP": precision, "AP50": precision[0], "AP75": precision[5]}
    values |= {name: _precision(matcher.match(size=size)) for name, size in SIZES.items()}
    values["AR100"] = _recall(matches, MAX_DETECTIONS)
    return {name: _points(value) for name, value in values.items()}


def _points(values: Floats) -> float | None:
    """The mean in points; None where there is nothing."""
    in_order = values.ravel()  # the memory's order decides how a sum is rounded; this is the library's
    return 100 * float(in_order.mean()) if in_order.size else None


def _precision(matches: Matches) -> Floats:
    """Interpolated precision ``[T, R, K]`` of the classes that have an object, at the points of `RECALL`."""
    curves = [_class_precision(each) for each in matches.classes() if len(each.objects)]
    return np.stack(curves, axis=-1) if curves else np.zeros((len(THRESHOLDS), len(RECALL), 0))


def _class_precision(matches: ClassMatches) -> Floats:
    """Of one class, ``[T, R]``: the highest precision at this recall or a higher one, 0 beyond the last."""
    true = matches.matched & ~matches.ignored
    seen = np.cumsum(~matches.ignored, axis=1)
    answer = np.zeros((len(THRESHOLDS), len(RECALL)))
    for row, hit, counted in zip(answer, true, seen, strict=True):
        # Between two true positives precision falls and recall stands still: they alone make the curve.
        found = np.flatnonzero(hit)
        hits = np.arange(1, len(found) + 1)
        precision = hits / (counted[found] + np.spacing(1))  # written as in pycocotools, for equal bits
        envelope = np.maximum.accumulate(precision[::-1])[::-1]
        row[:] = np.append(envelope, 0.0)[np.searchsorted(hits / len(matches.objects), RECALL, side="left")]
    return answer


def _recall(matches: Matches, most: int) -> Floats:
    """Recall ``[T, K]`` of the `most` best detections of each image, by class, of the classes that have an object."""
    of = matches.of
    objects = np.bincount(of.object_label[matches.counted], minlength=of.num_classes)
    true = (matches.object >= 0) & ~matches.ignored & (of.rank < most)
    hits = [np.bincount(of.label[row], minlength=of.num_classes) for row in true]
    defined = objects > 0
    recall: Floats = np.reshape(hits, (len(THRESHOLDS), -1))[:, defined] / objects[defined]
    return recall


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
    matcher = Matcher(images, detections)
    truths = [images.annotations(index) for index in range(len(images))]
    names = [name for name in BINS if any(name in truth.attributes for truth in truths)]
    if not names:
        return {}
    best = np.concatenate(
        [_greedy_iou(t.boxes, t.labels, found, iou) for t, found in zip(truths, detections, strict=True)]
    )
    rows: dict[str, dict[str, dict[str, float | None]]] = {}
    for name in names:
        values = np.concatenate([t.attributes.get(name, np.full(len(t.boxes), np.nan, np.float32)) for t in truths])
        for title, inside in in_bins(values, BINS[name]).items():
            chosen = best[inside & ~matcher.ignored]
            rows.setdefault(name, {})[title] = {
                "count": len(chosen),
                "AP": _points(_precision(matcher.match(without=~inside))) if len(chosen) else None,
                "recall": 100 * float((chosen > 0).mean()) if len(chosen) else None,
                "mean_iou": float(chosen.mean()) if len(chosen) else None,
            }
    return rows


def box_iou(a: NDArray[Any], b: NDArray[Any]) -> NDArray[np.float64]:
    """IoU ``[n, m]`` of xyxy boxes ``[n, 4]`` and ``[m, 4]``; 0 where both are empty."""
    a, b = a.astype(np.float64), b.astype(np.float64)
    corner = np.minimum(a[:, None, 2:], b[None, :, 2:]) - np.maximum(a[:, None, :2], b[None, :, :2])
    shared = corner.clip(min=0).prod(axis=-1)
    area_a, area_b = ((box[:, 2:] - box[:, :2]).clip(min=0).prod(axis=-1) for box in (a, b))
    union = area_a[:, None] + area_b[None, :] - shared
    iou: NDArray[np.float64] = np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)
    return iou


def _greedy_iou(
    boxes: NDArray[Any], labels: NDArray[Any], detections: Detections, threshold: float
) -> NDArray[np.float64]:
    """IoU ``[n]`` of each object with the detection that took it, 0 where none did."""
    best = np.zeros(len(boxes))
    order = np.argsort(-detections["scores"], kind="stable")
    overlap = box_iou(detections["boxes"][order], boxes)
    overlap[detections["labels"][order][:, None] != labels[None, :]] = 0.0
    free = np.ones(len(boxes), dtype=bool)
    for row in overlap[(overlap >= threshold).any(axis=1)]:
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
