"""OTA as its textbook: one table of boxes + background by all locations, potentials in the log domain.

zoo     a box supplies its candidates alone, nothing where it has none; the background supplies one label or more;
        a location that two boxes want alike goes to the smaller one
megvii  the authors' code: locations beyond the candidates cost 1e6 more; ties go to the first row; arithmetic in
        float32, which has steps of 1/16 at 1e6 and so decides what a box without candidates gets
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from harness.verify.published.oracles.geometry import BACKGROUND, Array, Flags, Indices, Points, area, ranks

Convention = Literal["zoo", "megvii"]

ALPHA, GAMMA = 0.25, 2.0  # of focal loss
LEAST_IOU = float(np.finfo(np.float32).eps)
FAR = 1e6
INSIDE = 0.01  # px
WORST = 1e4


def focal(logits: Array, one_hot: Array) -> Array:
    """Focal loss of locations, summed over the classes: ``[R]`` from ``[R, C]`` and ``[C]``."""
    probability = np.exp(-np.logaddexp(0, -logits))
    positive = ALPHA * (1 - probability) ** GAMMA * np.logaddexp(0, -logits)
    negative = (1 - ALPHA) * probability**GAMMA * np.logaddexp(0, logits)
    total: Array = np.where(one_hot > 0, positive, negative).sum(axis=1)
    return total


def overlaps(boxes: Array, predicted: Array) -> Array:
    """IoU ``[G, R]`` of every box with what every location predicts, 0 where that is not a box."""
    table = np.zeros((len(boxes), len(predicted)))
    x1, y1, x2, y2 = np.where(np.isfinite(predicted).all(axis=1, keepdims=True), predicted, 0).T
    for g, box in enumerate(boxes):
        width = np.minimum(x2, box[2]) - np.maximum(x1, box[0])
        height = np.minimum(y2, box[3]) - np.maximum(y1, box[1])
        common = np.where((width > 0) & (height > 0), width * height, 0)
        union = area(box) + np.maximum(x2 - x1, 0) * np.maximum(y2 - y1, 0) - common
        table[g] = common / np.maximum(union, 1e-9)
    return table


def sinkhorn(cost: Array, supply: Array, eps: float, iterations: int, dtype: type = np.float64) -> Array:
    """The plan ``[rows, R]`` for demands of 1, columns first; costs may be infinite."""
    cost, supply = cost.astype(dtype), supply.astype(dtype)
    eps = dtype(eps)
    u: Array = np.ones(len(cost), dtype)
    v: Array = np.ones(cost.shape[1], dtype)

    def table() -> Any:
        return (-cost + u[:, None] + v[None, :]) / eps

    for _ in range(iterations):
        v = eps * (np.log(dtype(1 + 1e-8)) - np.logaddexp.reduce(table(), axis=0)) + v
        u = eps * (np.log(supply + dtype(1e-8)) - np.logaddexp.reduce(table(), axis=1)) + u
    plan: Array = np.exp(table()).astype(np.float64)
    return plan


@dataclass(frozen=True)
class Result:
    """The steps of one image.

    Attributes:
        allowed: ``[G, R]`` candidates; cost: ``[G + 1, R]``, the last row the background's; supply: ``[G]``.
        plan: ``[G + 1, R]``; share: the same with each row divided by its largest entry.
        assigned: ``[R]`` box learnt, -1 where negative; soft: ``[R]`` its share, 0 where negative.
    """

    allowed: Flags
    cost: Array
    supply: Array
    plan: Array
    share: Array
    assigned: Indices
    soft: Array


def examine(
    points: Points, boxes: Array, logits: Array, predicted: Array, *, labels: Sequence[int], radius: float = 2.5,
    topk: int = 20, iou_weight: float = 1.5, regularisation: float = 0.1, iterations: int = 50,
    convention: Convention = "zoo",
) -> Result:  # fmt: skip
    """Assign one image and keep the steps."""
    megvii = convention == "megvii"
    count = len(points)
    allowed = np.zeros((len(boxes), count), dtype=bool)
    for g, box in enumerate(boxes):
        allowed[g] = points.near(box, radius) & (points.depth(box) > INSIDE)
    overlap = overlaps(boxes, predicted)

    nothing = focal(logits, np.zeros(logits.shape[1]))
    cost = np.zeros((len(boxes) + 1, count))
    cost[-1] = nothing
    for g, label in enumerate(labels):
        one_hot = np.arange(logits.shape[1]) == label
        cost[g] = focal(logits, one_hot) - iou_weight * np.log(np.maximum(overlap[g], LEAST_IOU))
        cost[g] += np.where(allowed[g], 0, FAR if megvii else np.inf)

    supply = np.ones(len(boxes))
    for g in range(len(boxes)):
        best = sorted((overlap[g] * allowed[g]).tolist(), reverse=True)[:topk]
        supply[g] = max(1, int(sum(best)))
        if not megvii and not allowed[g].any():
            supply[g] = 0
    rest = count - supply.sum()
    rows = [g for g in range(len(boxes)) if supply[g] > 0]
    plan = np.zeros_like(cost)
    plan[[*rows, -1]] = sinkhorn(
        cost[[*rows, -1]], np.array([*supply[rows], rest if megvii else max(rest, 1)]), regularisation, iterations,
        np.float32 if megvii else np.float64,
    )  # fmt: skip
    share = plan / np.maximum(plan.max(axis=1, keepdims=True), 1e-300)
    assigned = decide(share, boxes, labels, convention)
    soft = np.where(assigned >= 0, share.max(axis=0), 0)
    return Result(allowed, cost, supply, plan, share, assigned, soft)


def decide(share: Array, boxes: Array, labels: Sequence[int], convention: Convention) -> Indices:
    """Box of every location ``[R]``, -1 for the background, from the rescaled plan."""
    assigned, rank = np.full(share.shape[1], BACKGROUND, dtype=np.int64), ranks(boxes, labels)
    for r, column in enumerate(share.T.astype(np.float32).tolist()):
        wanting = [g for g, value in enumerate(column[:-1]) if value >= column[-1] and value > 0]
        if wanting and convention == "megvii":
            assigned[r] = max(wanting, key=lambda g: (column[g], -g))
        elif wanting:
            assigned[r] = min(wanting, key=lambda g: (-column[g], rank[g]))
    return assigned
