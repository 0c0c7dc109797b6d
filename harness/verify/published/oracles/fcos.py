"""FCOS with or without center sampling, as loops.

Public implementations differ in details that this module can imitate one by one, so that the published answers in
``tests/golden`` check the oracle, and the oracle then checks the product under the product's own convention.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from harness.verify.published.oracles.geometry import Array, Points, area, sides

Convention = Literal["half_open", "inclusive", "strict"]
"""Ends of the scale ranges: the product's ``low < reach <= high``, mmdet's and the authors' ``low <= reach <= high``
(a reach of exactly 64 px serves two levels), torchvision's ``low < reach < high`` (it serves none)."""

ENDS = tuple(64.0 * 2**level for level in range(16))  # FCOS's 64 to 512, and on for deeper pyramids


def in_range(
    reach: float,
    level: int,
    num_levels: int,
    convention: Convention = "half_open",
    ends: Sequence[float] = ENDS,
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
    points: Points,
    box: Sequence[float],
    radius: float,
    num_levels: int,
    convention: Convention = "half_open",
    ends: Sequence[float] = ENDS,
) -> list[int]:
    """Locations that satisfy a box's three conditions, before other boxes are looked at."""
    center = ((box[0] + box[2]) / 2, (box[1] + box[3]) / 2)
    found = []
    inside = (points.xy > np.array(box[:2])).all(axis=1) & (points.xy < np.array(box[2:])).all(axis=1)
    for index in np.flatnonzero(inside).tolist():
        x, y = points.xy[index].tolist()
        distances = sides((x, y), box)
        near = max(abs(x - center[0]), abs(y - center[1])) < radius * points.stride[index]
        if radius > 0 and not near:
            continue
        if in_range(max(distances), int(points.level[index]), num_levels, convention, ends):
            found.append(index)
    return found


def assign(
    points: Points,
    boxes: Array,
    labels: Sequence[int] | None = None,
    *,
    radius: float = 1.5,
    num_levels: int = 5,
    convention: Convention = "half_open",
    plus_one: bool = False,
    blind_area: bool = False,
    ends: Sequence[float] = ENDS,
) -> NDArray[np.int64]:
    """Box index per location of one image, -1 where negative.

    Args:
        labels: break ties between boxes of equal coordinates (the product's rule); None leaves list order.
        ends: upper ends of the levels' ranges in px but for the last, which is open. torchvision's are 8 strides.
        blind_area: compare areas as torchvision does, by ``1e8 - area`` in float32, whose steps are 8 px².
    """
    assigned = np.full(len(points), -1, dtype=np.int64)
    best: list[tuple[float, ...] | None] = [None] * len(points)
    for index, box in enumerate(boxes):
        size = area(box, plus_one)
        key: tuple[float, ...] = (float(-(np.float32(1e8) - np.float32(size))) if blind_area else size,)
        if labels is not None:
            key = (*key, *box, float(labels[index]))
        key = (*key, float(index))
        for location in candidates(points, box, radius, num_levels, convention, ends):
            current = best[location]
            if current is None or key < current:
                best[location], assigned[location] = key, index
    return assigned
