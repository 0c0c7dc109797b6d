"""FoveaBox by brute force: every location is compared with every box."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from harness.verify.published.oracles.geometry import Array, Points, area, sides


def in_scale(box: Sequence[float], level: int, points: Points, eta: float = 2.0) -> bool:
    """Is a box of the size that a level answers for? The first level has no least size, the last no largest."""
    edge = 4 * float(points.stride[points.level == level][0])
    size = area(box) ** 0.5
    return (level == 0 or size >= edge / eta) and (level == int(points.level.max()) or size <= edge * eta)


def in_fovea(point: Sequence[float], box: Sequence[float], sigma: float = 0.4) -> bool:
    """Does a point lie in the box shrunk around its centre, ends included, and strictly in the box?"""
    x, y = point
    wide = abs(2 * x - (box[0] + box[2])) <= sigma * (box[2] - box[0])
    high = abs(2 * y - (box[1] + box[3])) <= sigma * (box[3] - box[1])
    return wide and high and min(sides(point, box)) > 0


def assign(
    points: Points, boxes: Array, labels: Sequence[int], *, sigma: float = 0.4, eta: float = 2.0
) -> NDArray[np.int64]:
    """Box index per location of one image, -1 where negative; the smallest box wins."""
    result = np.full(len(points), -1, dtype=np.int64)
    order = [(area(box), *box, label, g) for g, (box, label) in enumerate(zip(boxes.tolist(), labels, strict=True))]
    for g in sorted(range(len(boxes)), key=order.__getitem__, reverse=True):  # the smallest comes last
        box = boxes[g].tolist()
        for level in range(int(points.level.max()) + 1):
            if in_scale(box, level, points, eta):
                for r in np.flatnonzero(points.level == level).tolist():
                    if in_fovea(points.xy[r].tolist(), box, sigma):
                        result[r] = g
    return result
