"""Rising thresholds on predicted boxes as loops over boxes and locations."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from harness.verify.published.oracles import fcos
from harness.verify.published.oracles.geometry import Array, Points, area, iou

Fallback = Literal["center", "best", "none"]


@dataclass(frozen=True)
class Result:
    """What one image learns.

    Attributes:
        assigned: ``[R]`` box, -1 where negative.
        at_threshold: ``[G]`` positives of each box by the threshold; those without any are on the fall-back.
    """

    assigned: NDArray[np.int64]
    at_threshold: NDArray[np.int64]


def threshold(thresholds: Sequence[float], switch: Sequence[float], progress: float) -> float:
    """The overlap asked for: of the last stage that has begun."""
    return [u for u, begin in zip(thresholds, (0.0, *switch), strict=True) if begin <= progress][-1]


def overlaps(points: Points, box: Sequence[float], predicted: Array, radius: float) -> dict[int, np.float32]:
    """IoU of the prediction at each location that FCOS allows the box, as the float32 that is compared in training."""
    allowed = fcos.candidates(points, box, radius, int(points.level.max()) + 1)
    return {r: np.float32(iou(predicted[r].tolist(), box)) for r in allowed}


def examine(
    points: Points,
    boxes: Array,
    predicted: Array,
    *,
    labels: Sequence[int],
    threshold: float,
    fallback: Fallback = "center",
    radius: float = 1.5,
) -> Result:
    """Assign one image; `predicted` ``[R, 4]`` are decoded boxes."""
    table = [overlaps(points, box, predicted, radius) for box in boxes.tolist()]
    rank = [(area(box), *box, label, g) for g, (box, label) in enumerate(zip(boxes.tolist(), labels, strict=True))]
    assigned = np.full(len(points), -1, dtype=np.int64)
    for r in range(len(points)):
        able = [g for g, found in enumerate(table) if found.get(r, -1.0) >= np.float32(threshold)]
        if able:
            assigned[r] = min(able, key=lambda g: (-table[g][r], rank[g]))
    at_threshold = np.array([(assigned == g).sum() for g in range(len(boxes))], dtype=np.int64)

    claims: dict[int, list[int]] = {}
    for g in np.flatnonzero(at_threshold == 0).tolist():
        free = {r: overlap for r, overlap in table[g].items() if assigned[r] < 0}
        for r in spare(points, boxes[g].tolist(), free, fallback):
            claims.setdefault(r, []).append(g)
    for r, rivals in claims.items():
        assigned[r] = min(rivals, key=lambda g: (-table[g][r] if fallback == "best" else 0, rank[g]))
    return Result(assigned, at_threshold)


def spare(points: Points, box: Sequence[float], free: dict[int, np.float32], fallback: Fallback) -> list[int]:
    """What a box without a positive asks for of what is `free` for it."""
    if fallback != "best":
        return list(free) if fallback == "center" else []
    center = np.array([(box[0] + box[2]) / 2, (box[1] + box[3]) / 2])
    order = {r: (-overlap, float(((points.xy[r] - center) ** 2).sum()), r) for r, overlap in free.items()}
    return [min(order, key=order.__getitem__)] if order else []
