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

from harness.verify.published.oracles.geometry import BACKGROUND, IGNORED, Array, Indices, Points, ranks
from harness.verify.published.oracles.paa import overlaps

Convention = Literal["zoo", "mmdet"]


def table_of(points: Points, boxes: Array) -> Array:
    """IoU ``[R, G]`` of every anchor with every box, inside or not."""
    return overlaps(points, boxes, "mmdet")


def assign(
    points: Points, boxes: Array, labels: Sequence[int], *, pos: float = 0.5, neg: float = 0.4,
    low_quality: bool = True, convention: Convention = "zoo",
) -> Indices:  # fmt: skip
    """Box index per location of one image, -1 where negative, -2 where ignored.

    Overlaps are compared as the float32 numbers that anyone computes in training: ties are the rule here.
    """
    result = np.full(len(points), BACKGROUND, dtype=np.int64)
    if len(boxes) == 0:
        return result
    table = table_of(points, boxes).astype(np.float32)
    best, rank = table.max(axis=0), ranks(boxes, labels)
    inside = np.stack([points.depth(box) > 0 for box in boxes], axis=1)
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
        holds = np.flatnonzero(inside[r]).tolist()
        able = [g for g in holds if claimed[g]] or [g for g in holds if row[g] >= np.float32(pos)]
        result[r] = min(able, key=lambda g: (-row[g], rank[g]), default=result[r])
    return result
