"""RFLA by brute force: every box ranks every location inside it."""

from __future__ import annotations

from collections.abc import Sequence
from math import log

import numpy as np

from harness.verify.published.oracles.geometry import BACKGROUND, Array, Indices, Points, ranks, winners

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
        for r in points.inside(box):
            result[r, g] = divergence(points.xy[r].tolist(), scale * fraction * FIELDS[int(points.stride[r])], box)
    return result


def nearest(column: Array, count: int) -> list[int]:
    """The `count` locations of smallest divergence, ties going to the smaller location."""
    found = sorted(np.flatnonzero(np.isfinite(column)).tolist(), key=lambda r: (round(float(column[r]), 9), r))
    return found[:count]


def assign(
    points: Points, boxes: Array, labels: Sequence[int], *, topk: int = 3, supplement: int = 1, decay: float = 0.9,
    fraction: float = 0.5,
) -> Indices:  # fmt: skip
    """Box index per location of one image, -1 where negative."""
    assigned, rank = np.full(len(points), BACKGROUND, dtype=np.int64), ranks(boxes, labels)
    for count, scale in ((topk, 1.0), (supplement, decay)):
        distances = table(points, boxes, scale, fraction)
        ranked = ((r, g) for g in range(len(boxes)) for r in nearest(distances[:, g], count))
        won = winners([(r, (np.float32(distances[r, g]), *rank[g]), g) for r, g in ranked], len(points))
        assigned = np.where(assigned == BACKGROUND, won, assigned)
    return assigned
