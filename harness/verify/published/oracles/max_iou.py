"""Max-IoU matching by brute force: every anchor is compared with every box.

zoo    only boxes that hold a location may have it: one that claims it (their overlap is the most that the box has
       with any anchor) before one that overlaps it by `pos` or more, the largest overlap first, then by area and
       coordinates. What others ask for, or overlap by `neg` or more, is ignored where nobody has it
mmdet  wherever the point lies; the box of the largest overlap where that is `pos` or more, and then each box takes
       what it claims, later boxes from earlier ones, also where the overlap is 0
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from harness.verify.published.oracles.geometry import Array, Points, area, sides
from harness.verify.published.oracles.paa import overlaps

Convention = Literal["zoo", "mmdet"]
BACKGROUND, IGNORED = -1, -2


def table_of(points: Points, boxes: Array) -> Array:
    """IoU ``[R, G]`` of every anchor with every box, inside or not."""
    return overlaps(points, boxes, "mmdet")


def assign(
    points: Points,
    boxes: Array,
    labels: Sequence[int],
    *,
    pos: float = 0.5,
    neg: float = 0.4,
    low_quality: bool = True,
    convention: Convention = "zoo",
) -> NDArray[np.int64]:
    """Box index per location of one image, -1 where negative, -2 where ignored.

    Overlaps are compared as the float32 numbers that anyone computes in training: ties are the rule here.
    """
    result = np.full(len(points), BACKGROUND, dtype=np.int64)
    if len(boxes) == 0:
        return result
    table = table_of(points, boxes).astype(np.float32)
    best = table.max(axis=0)
    claims = (table == best) & low_quality & ((best > 0) | (convention == "mmdet"))
    for r, (row, claimed) in enumerate(zip(table.tolist(), claims.tolist(), strict=True)):
        if max(row) >= np.float32(neg) or any(claimed):
            result[r] = IGNORED
        if convention == "mmdet":
            if max(row) >= np.float32(pos):
                result[r] = row.index(max(row))
            if any(claimed):
                result[r] = max(g for g, mine in enumerate(claimed) if mine)
            continue
        holds = [g for g, box in enumerate(boxes.tolist()) if min(sides(points.xy[r].tolist(), box)) > 0]
        able = [g for g in holds if claimed[g]] or [g for g in holds if row[g] >= np.float32(pos)]
        order = {g: (-row[g], area(boxes[g]), *boxes[g].tolist(), labels[g], g) for g in able}
        result[r] = min(able, key=order.__getitem__, default=result[r])
    return result
