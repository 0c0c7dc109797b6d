"""RFLA by brute force: every box ranks every location inside it."""

from __future__ import annotations

from collections.abc import Sequence
from math import log

import numpy as np
from numpy.typing import NDArray

from harness.verify.published.oracles.geometry import Array, Points, area, sides

FIELDS = {4: 35, 8: 91, 16: 267, 32: 427, 64: 555, 128: 811, 256: 1323}  # px


def divergence(point: Sequence[float], width: float, box: Sequence[float]) -> float:
    """KL(N(point, (width / 2)^2) || N(box centre, (sides / 2)^2)), one axis at a time."""
    total = 0.0
    for axis in (0, 1):
        mean, sigma = (box[axis] + box[axis + 2]) / 2, (box[axis + 2] - box[axis]) / 2
        own = width / 2
        total += log(sigma / own) + (own**2 + (point[axis] - mean) ** 2) / (2 * sigma**2) - 0.5
    return total


def table(points: Points, boxes: Array, scale: float, fraction: float = 0.5) -> Array:
    """Divergence ``[R, G]`` of every location, infinite outside the box."""
    result = np.full((len(points), len(boxes)), np.inf)
    for g, box in enumerate(boxes.tolist()):
        for r, point in enumerate(points.xy.tolist()):
            if min(sides(point, box)) > 0:
                result[r, g] = divergence(point, scale * fraction * FIELDS[int(points.stride[r])], box)
    return result


def nearest(column: Array, count: int) -> list[int]:
    """The `count` locations of smallest divergence, ties going to the smaller location."""
    found = sorted(np.flatnonzero(np.isfinite(column)).tolist(), key=lambda r: (round(float(column[r]), 9), r))
    return found[:count]


def assign(
    points: Points,
    boxes: Array,
    labels: Sequence[int],
    *,
    topk: int = 3,
    supplement: int = 1,
    decay: float = 0.9,
    fraction: float = 0.5,
) -> NDArray[np.int64]:
    """Box index per location of one image, -1 where negative."""
    assigned = np.full(len(points), -1, dtype=np.int64)
    for count, scale in ((topk, 1.0), (supplement, decay)):
        distances = table(points, boxes, scale, fraction)
        claims: dict[int, list[int]] = {}
        for g in range(len(boxes)):
            for r in nearest(distances[:, g], count):
                claims.setdefault(r, []).append(g)
        free = assigned.copy()
        for r, found in claims.items():
            if free[r] == -1:
                order = {g: (np.float32(distances[r, g]), area(boxes[g]), *boxes[g], labels[g], g) for g in found}
                assigned[r] = min(found, key=order.__getitem__)
    return assigned
