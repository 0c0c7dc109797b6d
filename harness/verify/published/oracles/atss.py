"""ATSS by brute force: every point is compared with every box."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from harness.verify.published.oracles.geometry import Array, Points, area, iou, sides

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
    center = ((box[0] + box[2]) / 2, (box[1] + box[3]) / 2)
    chosen: list[int] = []
    tied = False
    for level in sorted(set(points.level.tolist())):
        members = np.flatnonzero(points.level == level)
        offset = points.xy[members] - np.array(center)
        squared = (offset**2).sum(axis=1)
        order = np.lexsort((members, squared)).tolist()  # by distance, ties by location
        if len(order) > topk and squared[order[topk - 1]] == squared[order[topk]]:
            tied = True
        chosen += [int(members[i]) for i in order[:topk]]
    ious, inside = [], []
    for location in chosen:
        x, y = points.xy[location]
        half = 4 * points.stride[location]
        ious.append(iou((x - half, y - half, x + half, y + half), box, plus_one))
        inside.append(min(sides((x, y), box)) > INSIDE)
    mean = sum(ious) / len(ious)
    spread = (sum((value - mean) ** 2 for value in ious) / (len(ious) - 1)) ** 0.5 if len(ious) > 1 else 0.0
    return BoxResult(chosen, ious, mean + spread, inside, tied)


def assign(
    points: Points,
    boxes: Array,
    labels: Sequence[int] | None = None,
    *,
    topk: int = 9,
    plus_one: bool = False,
    fallback_max: bool = False,
) -> NDArray[np.int64]:
    """Box index per location of one image, -1 where negative; a contested location goes to the largest IoU.

    Args:
        labels: break ties of equal IoU by (area, coordinates, class), the product's rule; None leaves list order.
    """
    assigned = np.full(len(points), -1, dtype=np.int64)
    best: list[tuple[float, ...] | None] = [None] * len(points)
    for index, box in enumerate(boxes):
        result = examine(points, box, topk=topk, plus_one=plus_one)
        positives = result.positives
        within = [i for i in range(len(result.candidates)) if result.inside[i]]
        if fallback_max and not positives and within:
            positives = [max(within, key=lambda i: (result.ious[i], -i))]
        for i in positives:
            # Overlaps are compared as the float32 numbers that anyone computes in training.
            key: tuple[float, ...] = (-float(np.float32(result.ious[i])),)
            if labels is not None:
                key = (*key, area(box), *box, float(labels[index]))
            key = (*key, float(index))
            location = result.candidates[i]
            current = best[location]
            if current is None or key < current:
                best[location], assigned[location] = key, index
    return assigned
