"""Rising thresholds on predicted boxes as loops over boxes and locations."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from harness.verify.published.oracles import fcos
from harness.verify.published.oracles.geometry import Array, Indices, Points, center, iou, ranks, winners

Fallback = Literal["center", "best", "none"]


@dataclass(frozen=True)
class Result:
    """What one image learns.

    Attributes:
        assigned: ``[R]`` box, -1 where negative.
        at_threshold: ``[G]`` positives of each box by the threshold; those without any are on the fall-back.
    """

    assigned: Indices
    at_threshold: Indices


def threshold(thresholds: Sequence[float], switch: Sequence[float], progress: float) -> float:
    """The overlap asked for: of the last stage that has begun."""
    return [u for u, begin in zip(thresholds, (0.0, *switch), strict=True) if begin <= progress][-1]


def overlaps(points: Points, box: Sequence[float], predicted: Array, radius: float) -> dict[int, np.float32]:
    """IoU of the prediction at each location that FCOS allows the box, as the float32 that is compared in training."""
    allowed = fcos.candidates(points, box, radius, len(points.levels))
    return {r: np.float32(iou(predicted[r].tolist(), box)) for r in allowed}


def examine(
    points: Points, boxes: Array, predicted: Array, *, labels: Sequence[int], threshold: float,
    fallback: Fallback = "center", radius: float = 1.5,
) -> Result:  # fmt: skip
    """Assign one image; `predicted` ``[R, 4]`` are decoded boxes."""
    table = [overlaps(points, box, predicted, radius) for box in boxes.tolist()]
    rank, places = ranks(boxes, labels), len(points)
    assigned = winners(
        [(r, (-overlap, *rank[g]), g) for g, found in enumerate(table) for r, overlap in found.items()
         if overlap >= np.float32(threshold)],
        places,
    )  # fmt: skip
    at_threshold = np.array([(assigned == g).sum() for g in range(len(boxes))], dtype=np.int64)

    claims = []
    for g in np.flatnonzero(at_threshold == 0).tolist():
        free = {r: overlap for r, overlap in table[g].items() if assigned[r] < 0}
        for r in spare(points, boxes[g].tolist(), free, fallback):
            claims.append((r, (-table[g][r] if fallback == "best" else 0, *rank[g]), g))
    return Result(np.where(assigned < 0, winners(claims, places), assigned), at_threshold)


def spare(points: Points, box: Sequence[float], free: dict[int, np.float32], fallback: Fallback) -> list[int]:
    """What a box without a positive asks for of what is `free` for it."""
    if fallback != "best":
        return list(free) if fallback == "center" else []
    middle = np.array(center(box))
    order = {r: (-overlap, float(((points.xy[r] - middle) ** 2).sum()), r) for r, overlap in free.items()}
    return [min(order, key=order.__getitem__)] if order else []
