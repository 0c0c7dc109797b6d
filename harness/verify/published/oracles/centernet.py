"""CenterNet over a pyramid by brute force: every location is compared with every box and every class."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import exp, floor

import numpy as np

from harness.verify.published.oracles.geometry import Array, Flags, Indices, Points, center, sides

FAINTEST = 1e-4


@dataclass(frozen=True)
class Maps:
    """The targets of one image.

    Attributes:
        positive: ``[R, C]`` the class is learnt here.
        weight: ``[R, C]`` of the class, as a negative where it is not learnt.
        regressed: ``[R]`` box whose sides are learnt, -1 where none.
        unsure: ``[R]`` locations where rounding decides.
    """

    positive: Flags
    weight: Array
    regressed: Indices
    unsure: Flags


def in_scale(box: Sequence[float], level: int, points: Points) -> bool:
    """Is half the diagonal of a box 4 to 10 strides? The first level has no least size, the last no largest."""
    stride = points.levels[level]
    half = ((box[2] - box[0]) ** 2 + (box[3] - box[1]) ** 2) ** 0.5 / 2
    return (level == 0 or half >= 4 * stride) and (level == max(points.levels) or half <= 10 * stride)


def distance(point: Sequence[float], box: Sequence[float], min_overlap: float = 0.8, min_radius: float = 4.0) -> float:
    """Squared distance from the centre of a box in squared radii."""
    delta = (1 - min_overlap) / (1 + min_overlap)
    (x, y), squared = center(box), max(2 * delta**2 * (box[2] - box[0]) * (box[3] - box[1]), min_radius**2)
    return ((point[0] - x) ** 2 + (point[1] - y) ** 2) / squared


def steps(point: Sequence[float], box: Sequence[float], stride: float, offset: float) -> float:
    """Cells from the one that holds the centre of a box, along the farther axis."""
    cells = ((p / stride - offset, floor(c / stride - offset + 0.5)) for p, c in zip(point, center(box), strict=True))
    return max(abs(own - middle) for own, middle in cells)


def examine(
    points: Points, boxes: Array, labels: Sequence[int], num_classes: int, *, offset: float = 0.5, beta: float = 4.0,
    min_overlap: float = 0.8, min_radius: float = 4.0, rounding: float = 1e-5,
) -> Maps:  # fmt: skip
    """Targets of one image."""
    count = len(points)
    positive, weight = np.zeros((count, num_classes), dtype=bool), np.ones((count, num_classes))
    regressed, unsure = np.full(count, -1, dtype=np.int64), np.zeros(count, dtype=bool)
    levels = {level: [in_scale(box, level, points) for box in boxes.tolist()] for level in points.levels}
    for r, (point, level, stride) in enumerate(
        zip(points.xy.tolist(), points.level.tolist(), points.stride.tolist(), strict=True)
    ):
        nearest: list[tuple[float, int]] = []
        for g, box in enumerate(boxes.tolist()):
            if min(sides(point, box)) <= 0:
                continue
            away = distance(point, box, min_overlap, min_radius)
            here = steps(point, box, stride, offset) if levels[level][g] else np.inf
            heat, label = exp(-away), labels[g]
            unsure[r] |= abs(heat - FAINTEST) < rounding * FAINTEST
            if heat >= FAINTEST or here <= 1:
                weight[r, label] = min(weight[r, label], (1 - heat) ** beta)
            positive[r, label] |= here == 0
            if here <= 1:
                nearest.append((away, g))
        if nearest:
            regressed[r] = min(nearest)[1]
            unsure[r] |= any(abs(away - min(nearest)[0]) < rounding for away, g in nearest if g != regressed[r])
    weight[positive] = 1
    return Maps(positive, weight, regressed, unsure)
