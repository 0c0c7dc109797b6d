"""ATSS by brute force: every point is compared with every box."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from harness.verify.published.oracles.geometry import Array, Indices, Points, center, iou, ranks, winners

INSIDE = 0.01  # px


@dataclass(frozen=True)
class BoxResult:
    """What one box asks for, before other boxes are looked at.

    Attributes:
        candidates: nearest locations of all levels.
        ious: of their anchors with the box.
        threshold: mean + standard deviation of `ious`.
        inside: whether each candidate's point lies in the box.
        tied: a location left out was exactly as near as one taken.
    """

    candidates: list[int]
    ious: list[float]
    threshold: float
    inside: list[bool]
    tied: bool

    @property
    def positives(self) -> list[int]:
        """Positions within `candidates` of the positives."""
        return [i for i in range(len(self.candidates)) if self.inside[i] and self.ious[i] >= self.threshold]

    def margin(self) -> float:
        """How far the nearest candidate IoU is from the threshold: rounding decides below it."""
        return min((abs(value - self.threshold) for value in self.ious), default=np.inf)


def examine(points: Points, box: Sequence[float], *, topk: int = 9, plus_one: bool = False) -> BoxResult:
    """The candidates, overlaps and threshold of one box."""
    chosen: list[int] = []
    tied = False
    for level in points.levels:
        members = np.flatnonzero(points.level == level)
        squared = ((points.xy[members] - np.array(center(box))) ** 2).sum(axis=1)
        order = np.lexsort((members, squared)).tolist()  # by distance, ties by location
        if len(order) > topk and squared[order[topk - 1]] == squared[order[topk]]:
            tied = True
        chosen += [int(members[i]) for i in order[:topk]]
    ious = [iou(points.anchor(location), box, plus_one) for location in chosen]
    return BoxResult(chosen, ious, threshold(ious), (points.depth(box)[chosen] > INSIDE).tolist(), tied)


def threshold(values: Sequence[float]) -> float:
    """Mean plus standard deviation."""
    mean = sum(values) / len(values)
    spread = (sum((value - mean) ** 2 for value in values) / (len(values) - 1)) ** 0.5 if len(values) > 1 else 0.0
    return mean + spread


def assign(
    points: Points, boxes: Array, labels: Sequence[int] | None = None, *, topk: int = 9, plus_one: bool = False,
    fallback_max: bool = False,
) -> Indices:  # fmt: skip
    """Box index per location of one image, -1 where negative; a contested location goes to the largest IoU.

    Args:
        labels: break ties of equal IoU by (area, coordinates, class), the product's rule; None leaves list order.
    """
    order = ranks(boxes, labels) if labels is not None else [(index,) for index in range(len(boxes))]
    claims = []
    for index, box in enumerate(boxes):
        result = examine(points, box, topk=topk, plus_one=plus_one)
        positives = result.positives
        within = [i for i in range(len(result.candidates)) if result.inside[i]]
        if fallback_max and not positives and within:
            positives = [max(within, key=lambda i: (result.ious[i], -i))]
        # Overlaps are compared as the float32 numbers that anyone computes in training.
        keys = {i: (-float(np.float32(result.ious[i])), *order[index]) for i in positives}
        claims += [(result.candidates[i], key, index) for i, key in keys.items()]
    return winners(claims, len(points))
