"""FCOS with or without center sampling, as loops.

Public implementations differ in details that this module can imitate one by one, so that the published answers in
``tests/golden`` check the oracle, and the oracle then checks the product under the product's own convention.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

from harness.verify.published.oracles.geometry import Array, Indices, Points, area, sides, winners

Convention = Literal["half_open", "inclusive", "strict"]
"""Ends of the scale ranges: the product's ``low < reach <= high``, mmdet's and the authors' ``low <= reach <= high``
(a reach of exactly 64 px serves two levels), torchvision's ``low < reach < high`` (it serves none)."""

ENDS = tuple(64.0 * 2**level for level in range(16))  # FCOS's 64 to 512, and on for deeper pyramids


def in_range(
    reach: float, level: int, num_levels: int, convention: Convention = "half_open", ends: Sequence[float] = ENDS
) -> bool:
    """Does a box reaching `reach` px from the point belong to the level?"""
    low = ends[level - 1] if level > 0 else (0.0 if convention == "strict" else -1.0)
    high = ends[level] if level < num_levels - 1 else np.inf
    if convention == "half_open":
        return low < reach <= high
    if convention == "inclusive":
        return low <= reach <= high
    return low < reach < high


def candidates(
    points: Points, box: Sequence[float], radius: float, num_levels: int, convention: Convention = "half_open",
    ends: Sequence[float] = ENDS,
) -> list[int]:  # fmt: skip
    """Locations that satisfy a box's three conditions, before other boxes are looked at."""
    near = points.near(box, radius)
    reach = {r: max(sides(points.xy[r].tolist(), box)) for r in points.inside(box) if radius <= 0 or near[r]}
    return [r for r in reach if in_range(reach[r], int(points.level[r]), num_levels, convention, ends)]


def assign(
    points: Points, boxes: Array, labels: Sequence[int] | None = None, *, radius: float = 1.5, num_levels: int = 5,
    convention: Convention = "half_open", plus_one: bool = False, blind_area: bool = False,
    ends: Sequence[float] = ENDS,
) -> Indices:  # fmt: skip
    """Box index per location of one image, -1 where negative.

    Args:
        labels: break ties between boxes of equal coordinates (the product's rule); None leaves list order.
        ends: upper ends of the levels' ranges in px but for the last, which is open. torchvision's are 8 strides.
        blind_area: compare areas as torchvision does, by ``1e8 - area`` in float32, whose steps are 8 px².
    """
    claims = []
    for index, box in enumerate(boxes):
        size = area(box, plus_one)
        size = float(-(np.float32(1e8) - np.float32(size))) if blind_area else size
        key = (size, *(() if labels is None else (*box, labels[index])), index)
        claims += [(r, key, index) for r in candidates(points, box, radius, num_levels, convention, ends)]
    return winners(claims, len(points))
