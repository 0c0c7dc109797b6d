"""O2F as loops over boxes and locations."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from harness.verify.published.oracles.geometry import Array, Flags, Indices, Points, center, ranks, sigmoid, winners
from harness.verify.published.oracles.poto import FORBIDDEN, qualities


@dataclass(frozen=True)
class Result:
    """What one image learns.

    Attributes:
        assigned: ``[R]`` box, -1 where negative.
        certain: ``[R]`` bool, the one positive of its box without doubt.
        label: ``[R]`` class target, 0 where negative; weight: ``[R]`` of the class loss, 0 where negative.
    """

    assigned: Indices
    certain: Flags
    label: Array
    weight: Array


def largest_degree(start: float, end: float, progress: float) -> float:
    """T of equation 3: a line from `start` to `end`."""
    return start * (1 - progress) + end * progress


def choices(table: Array, points: Points, box: Sequence[float], topk: int) -> list[int]:
    """Locations that a box takes by its qualities ``[R]``, the best first."""
    # Qualities are compared as the float32 numbers that anyone computes in training.
    values = table.astype(np.float32)
    middle = np.array(center(box))
    allowed = [r for r in range(len(points)) if table[r] != FORBIDDEN]
    order = {r: (-values[r], float(((points.xy[r] - middle) ** 2).sum()), r) for r in allowed}
    best = sorted(allowed, key=order.__getitem__)[:topk]
    return [r for place, r in enumerate(best) if place == 0 or values[r] > 0]


def settle(
    table: Array, scores: Array, points: Points, boxes: Array, labels: Sequence[int],
    *, topk: int, degree: float, weight: float,
) -> Result:  # fmt: skip
    """Assign by qualities and scores ``[G, R]``."""
    asked = [choices(table[g], points, box, topk) for g, box in enumerate(boxes.tolist())]
    rank, count = ranks(boxes, labels), len(points)
    claims = [(r, (-np.float32(table[g, r]), *rank[g]), g) for g, mine in enumerate(asked) for r in mine]
    result = Result(winners(claims, count), np.zeros(count, bool), np.zeros(count), np.zeros(count))
    for g, mine in enumerate(asked):
        left = [r for r in mine if result.assigned[r] == g]
        for place, r in enumerate(left):
            rest = max((scores[g, other] for other in left[1:]), default=0.0)
            result.certain[r] = place == 0
            result.label[r] = 1.0 if place == 0 else degree * scores[g, r] / rest if rest > 0 else 0.0
            result.weight[r] = 1.0 if place == 0 else weight
    return result


def examine(
    points: Points, boxes: Array, logits: Array, predicted: Array, *, labels: Sequence[int], topk: int = 7,
    degree: float = 0.6, weight: float = 0.4, alpha: float = 0.8, radius: float = 1.5, shake: Array | None = None,
) -> Result:  # fmt: skip
    """Assign one image at the largest degree `degree`; `shake` ``[G, R]`` multiplies the qualities."""
    table = qualities(points, boxes, logits, predicted, labels=labels, alpha=alpha, radius=radius)
    if shake is not None:
        table = np.where(table > 0, table * shake, table)
    scores = np.array([[sigmoid(float(z)) for z in logits[:, label]] for label in labels]).reshape(table.shape)
    return settle(table, scores, points, boxes, labels, topk=topk, degree=degree, weight=weight)
