"""FoveaBox by brute force: every location is compared with every box."""

from __future__ import annotations

from collections.abc import Sequence

from harness.verify.published.oracles.geometry import Array, Indices, Points, area, ranks, sides, winners


def in_scale(box: Sequence[float], level: int, points: Points, eta: float = 2.0) -> bool:
    """Is a box of the size that a level answers for? The first level has no least size, the last no largest."""
    edge = 4 * points.levels[level]
    size = area(box) ** 0.5
    return (level == 0 or size >= edge / eta) and (level == max(points.levels) or size <= edge * eta)


def in_fovea(point: Sequence[float], box: Sequence[float], sigma: float = 0.4) -> bool:
    """Does a point lie in the box shrunk around its centre, ends included, and strictly in the box?"""
    x, y = point
    wide = abs(2 * x - (box[0] + box[2])) <= sigma * (box[2] - box[0])
    high = abs(2 * y - (box[1] + box[3])) <= sigma * (box[3] - box[1])
    return wide and high and min(sides(point, box)) > 0


def assign(points: Points, boxes: Array, labels: Sequence[int], *, sigma: float = 0.4, eta: float = 2.0) -> Indices:
    """Box index per location of one image, -1 where negative; the smallest box wins."""
    claims = []
    for g, (box, rank) in enumerate(zip(boxes.tolist(), ranks(boxes, labels), strict=True)):
        on = {level for level in points.levels if in_scale(box, level, points, eta)}
        for r, (point, level) in enumerate(zip(points.xy.tolist(), points.level.tolist(), strict=True)):
            if level in on and in_fovea(point, box, sigma):
                claims.append((r, rank, g))
    return winners(claims, len(points))
