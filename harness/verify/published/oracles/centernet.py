"""CenterNet over a pyramid by brute force: every location is compared with every box and every class."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import exp, floor

import numpy as np
from numpy.typing import NDArray

from harness.verify.published.oracles.geometry import Array, Points, sides

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

    positive: NDArray[np.bool_]
    weight: Array
    regressed: NDArray[np.int64]
    unsure: NDArray[np.bool_]


def in_scale(box: Sequence[float], level: int, points: Points) -> bool:
    """Is half the diagonal of a box 4 to 10 strides? The first level has no least size, the last no largest."""
    stride = float(points.stride[points.level == level][0])
    half = ((box[2] - box[0]) ** 2 + (box[3] - box[1]) ** 2) ** 0.5 / 2
    return (level == 0 or half >= 4 * stride) and (level == int(points.level.max()) or half <= 10 * stride)


def distance(point: Sequence[float], box: Sequence[float], min_overlap: float = 0.8, min_radius: float = 4.0) -> float:
    """Squared distance from the centre of a box in squared radii."""
    delta = (1 - min_overlap) / (1 + min_overlap)
    squared = max(2 * delta**2 * (box[2] - box[0]) * (box[3] - box[1]), min_radius**2)
    dx, dy = point[0] - (box[0] + box[2]) / 2, point[1] - (box[1] + box[3]) / 2
    return (dx**2 + dy**2) / squared


def steps(point: Sequence[float], box: Sequence[float], stride: float, offset: float) -> float:
    """Cells from the one that holds the centre of a box, along the farther axis."""
    found = []
    for axis in (0, 1):
        center = (box[axis] + box[axis + 2]) / 2
        found.append(abs(point[axis] / stride - offset - floor(center / stride - offset + 0.5)))
    return max(found)


def examine(
    points: Points,
    boxes: Array,
    labels: Sequence[int],
    num_classes: int,
    *,
    offset: float = 0.5,
    beta: float = 4.0,
    min_overlap: float = 0.8,
    min_radius: float = 4.0,
    rounding: float = 1e-5,
) -> Maps:
    """Targets of one image."""
    count = len(points)
    positive, weight = np.zeros((count, num_classes), dtype=bool), np.ones((count, num_classes))
    regressed, unsure = np.full(count, -1, dtype=np.int64), np.zeros(count, dtype=bool)
    levels = {level: [in_scale(box, level, points) for box in boxes.tolist()] for level in set(points.level.tolist())}
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
