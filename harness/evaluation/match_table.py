"""AP of a run as a function of the weight of each image: the match table.

Which detection is right does not depend on how often an image counts, so COCO's matching is done once and a bootstrap
re-weights its outcome. With weight 1 everywhere the numbers are those of pycocotools; with whole weights they are
those of a set that holds each image so many times, detections of equal score in the order that they have at weight 1.

Shape letters: B rows of weights, N images, D detections and G objects of one class, T = 10 thresholds of IoU, 0.5
to 0.95.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from harness.data.base import ImageSet
from harness.evaluation.coco_metrics import RECALL
from harness.evaluation.detections import Detections
from harness.evaluation.matching import ClassMatches, Floats, Matcher

BLOCK = 2**17  # elements of a working array [D, b], 1 MiB, so that the handful in use stay in the cache


@dataclass(frozen=True)
class MatchTable:
    """What COCO's matching decided about the detections of a run.

    Attributes:
        num_images: N.
        classes: those that have a detection or an object that counts.
    """

    num_images: int
    classes: tuple[ClassMatches, ...]

    @staticmethod
    def build(images: ImageSet, detections: Sequence[Detections]) -> MatchTable:
        """Match as `harness.evaluation.coco_metrics.coco_metrics` does: objects of all sizes.

        Raises:
            ValueError: if the detections do not match the set, or hold NaN or infinity.
        """
        classes = Matcher(images, detections).match().classes()
        return MatchTable(len(images), tuple(each for each in classes if len(each.image) or len(each.objects)))

    def average_precision(self, weights: Floats) -> dict[str, Floats]:
        """AP and AP50 under each row of weights.

        A class without weighted objects leaves the mean of its row, as pycocotools leaves out a class without objects.

        Args:
            weights: ``[B, N]`` >= 0, how often each image of the set counts.

        Returns:
            ``AP`` and ``AP50``, each ``[B]``, in points (0-100); NaN where no object defines the value.

        Raises:
            ValueError: if the weights are not ``[B, N]``.
        """
        if weights.ndim != 2 or weights.shape[1] != self.num_images:
            raise ValueError(f"weights must be [B, {self.num_images}], one column per image, got {weights.shape}")
        by_image = np.ascontiguousarray(weights.T, dtype=np.float64)  # [N, B]: gathering images copies whole rows
        total = np.zeros((2, len(weights)))
        defined = np.zeros(len(weights))
        for matches in self.classes:
            objects = np.bincount(matches.objects, minlength=self.num_images) @ by_image
            precision = _class_precision(matches, objects, by_image)
            total += np.where(objects > 0, (precision.mean(axis=0), precision[0]), 0.0)
            defined += objects > 0
        points = np.divide(100 * total, defined, out=np.full_like(total, np.nan), where=defined > 0)
        return {"AP": points[0], "AP50": points[1]}


def _class_precision(matches: ClassMatches, objects: Floats, by_image: Floats) -> Floats:
    """Average precision ``[T, B]`` in [0, 1]; zero where there are no objects."""
    answer = np.zeros((len(matches.matched), len(objects)))
    present = np.where(objects > 0, objects, 1.0)
    for image, hits in _rankings(matches):
        width = max(1, BLOCK // len(image))
        for start in range(0, len(objects), width):
            block = slice(start, start + width)
            weight = by_image[:, block][image]
            seen = np.cumsum(weight, axis=0)
            for threshold, rows in hits.items():
                answer[threshold, block] = _area(weight[rows], seen[rows], present[block])
    return answer


def _rankings(matches: ClassMatches) -> Iterator[tuple[NDArray[np.intp], dict[int, NDArray[np.intp]]]]:
    """The detections that count, once per set of thresholds that ignore the same ones.

    Yields:
        image: of each detection down to the last true positive; what ranks below it changes nothing.
        hits: the true positives, as positions in `image`, by threshold. Thresholds without any are left out.
    """
    true = matches.matched & ~matches.ignored
    if not true.any():
        return
    sharing: dict[bytes, list[int]] = {}
    for threshold, ignored in enumerate(matches.ignored):
        sharing.setdefault(ignored.tobytes(), []).append(threshold)
    for thresholds in sharing.values():
        counted = np.flatnonzero(~matches.ignored[thresholds[0]])
        positives = {threshold: np.flatnonzero(true[threshold, counted]) for threshold in thresholds}
        hits = {threshold: rows for threshold, rows in positives.items() if len(rows)}
        if hits:
            yield matches.image[counted[: 1 + max(rows[-1] for rows in hits.values())]], hits


def _area(weight: Floats, seen: Floats, objects: Floats) -> Floats:
    """Mean over `RECALL` of the precision envelope ``[b]``, from the true positives of one ranking.

    Between two true positives precision falls and recall stands still, so the envelope is known from them alone.

    Args:
        weight: ``[H, b]`` of each true positive.
        seen: ``[H, b]`` weight of all detections down to it.
        objects: ``[b]`` weight of all objects.
    """
    hits = np.cumsum(weight, axis=0)
    precision = hits / (seen + np.spacing(1))
    envelope = np.maximum.accumulate(precision[::-1], axis=0)[::-1]
    reached = _points_reached(hits / objects)
    reached[1:] -= reached[:-1].copy()
    area: Floats = np.einsum("hb,hb->b", envelope, reached) / len(RECALL)
    return area


def _points_reached(recall: Floats) -> Floats:
    """How many of the points of `RECALL` lie at or below each value: a search, as they are a hundredth apart."""
    nearest = np.rint(recall * (len(RECALL) - 1))
    # Points below the nearest one are below the value; whether that one is, rounding decides as in pycocotools.
    return nearest + (RECALL.take(nearest.astype(np.intp), mode="clip") <= recall)
