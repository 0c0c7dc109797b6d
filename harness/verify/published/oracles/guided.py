"""Guided anchoring's location targets as loops: every box looks at every location of its level and its neighbours."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from harness.verify.published.oracles.geometry import (
    BACKGROUND,
    IGNORED,
    Array,
    Flags,
    Indices,
    Points,
    area,
    ranks,
    winners,
)


def own_level(points: Points, box: Sequence[float]) -> int:
    """The level whose anchor of 4 strides is nearest to the root of the box's area, by ratio; the coarser of two."""
    size = area(box)
    apart = [max(size / (4 * stride) ** 2, (4 * stride) ** 2 / size) for stride in points.levels.values()]
    return max(level for level, value in enumerate(apart) if value == min(apart))


def along(values: Array, low: float, high: float, share: float) -> Flags:
    """Which coordinates lie in the middle `share` from `low` to `high`, ends included; else which are nearest to it."""
    twice_off = np.abs(2 * values - (low + high))
    held = twice_off <= share * (high - low)
    return np.asarray(held if held.any() else twice_off == twice_off.min(), dtype=np.bool_)


def region(points: Points, level: int, box: Sequence[float], share: float) -> Flags:
    """``[R]`` the cells of the shrunk box on a level."""
    here = points.level == level
    found = np.zeros(len(points), dtype=bool)
    x, y = points.xy[here].T
    found[here] = along(x, box[0], box[2], share) & along(y, box[1], box[3], share)
    return found


def assign(
    points: Points, boxes: Array, labels: Sequence[int], *, center: float = 0.2, ignore: float = 0.5,
    neighbours: bool = True,
) -> Indices:  # fmt: skip
    """Box index per location of one image, -1 where negative, -2 where ignored; the smallest box wins."""
    ignored, claims = np.zeros(len(points), dtype=bool), []
    for g, (box, rank) in enumerate(zip(boxes.tolist(), ranks(boxes, labels), strict=True)):
        own = own_level(points, box)
        for level in points.levels:
            if abs(level - own) <= int(neighbours):
                ignored |= region(points, level, box, ignore)
        held = region(points, own, box, center) & (points.depth(box) > 0)
        claims += [(r, rank, g) for r in np.flatnonzero(held).tolist()]
    assigned = winners(claims, len(points))
    return np.where((assigned == BACKGROUND) & ignored, IGNORED, assigned)
