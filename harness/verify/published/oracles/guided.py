"""Guided anchoring's location targets as loops: every box looks at every location of its level and its neighbours."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from harness.verify.published.oracles.geometry import Array, Points, area, sides

BACKGROUND, IGNORED = -1, -2


def own_level(points: Points, box: Sequence[float]) -> int:
    """The level whose anchor of 4 strides is nearest to the root of the box's area, by ratio; the coarser of two."""
    strides = [float(points.stride[points.level == level][0]) for level in range(int(points.level.max()) + 1)]
    apart = [max(area(box) / (4 * stride) ** 2, (4 * stride) ** 2 / area(box)) for stride in strides]
    return max(level for level, value in enumerate(apart) if value == min(apart))


def along(values: Array, low: float, high: float, share: float) -> NDArray[np.bool_]:
    """Which coordinates lie in the middle `share` from `low` to `high`, ends included; else which are nearest to it."""
    twice_off = np.abs(2 * values - (low + high))
    held = twice_off <= share * (high - low)
    return np.asarray(held if held.any() else twice_off == twice_off.min(), dtype=np.bool_)


def region(points: Points, level: int, box: Sequence[float], share: float) -> NDArray[np.bool_]:
    """``[R]`` the cells of the shrunk box on a level."""
    here = points.level == level
    found = np.zeros(len(points), dtype=bool)
    x, y = points.xy[here].T
    found[here] = along(x, box[0], box[2], share) & along(y, box[1], box[3], share)
    return found


def assign(
    points: Points,
    boxes: Array,
    labels: Sequence[int],
    *,
    center: float = 0.2,
    ignore: float = 0.5,
    neighbours: bool = True,
) -> NDArray[np.int64]:
    """Box index per location of one image, -1 where negative, -2 where ignored; the smallest box wins."""
    result = np.full(len(points), BACKGROUND, dtype=np.int64)
    for box in boxes.tolist():
        own = own_level(points, box)
        for level in range(int(points.level.max()) + 1):
            if level == own or (neighbours and abs(level - own) == 1):
                result[region(points, level, box, ignore)] = IGNORED
    order = [(area(box), *box, label, g) for g, (box, label) in enumerate(zip(boxes.tolist(), labels, strict=True))]
    for g in sorted(range(len(boxes)), key=order.__getitem__, reverse=True):  # the smallest comes last
        box = boxes[g].tolist()
        for r in np.flatnonzero(region(points, own_level(points, box), box, center)).tolist():
            if min(sides(points.xy[r].tolist(), box)) > 0:
                result[r] = g
    return result
