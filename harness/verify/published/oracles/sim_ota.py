"""SimOTA by brute force: every location is compared with every box, and boxes take their locations one at a time.

zoo    a box's candidates lie inside it and within `radius` strides of its centre; k comes from their overlaps; a
       contested location goes to the cheapest box of those that take it
mmdet  every location inside some box or near some centre is a candidate of every box, at a price of 1e5 unless it
       is both inside and near; k comes from the overlaps of all of these; a contested location goes to the
       cheapest box of the image. The price leaves float32 little room: costs are compared in steps of 1/128 there
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from harness.verify.published.oracles.geometry import BACKGROUND, Array, Flags, Indices, Points, iou, ranks

Convention = Literal["zoo", "mmdet"]

EPS = 1e-7
LARGEST_LOG = 100.0  # at which binary cross-entropy is cut
OUTSIDE = 1e5  # mmdet's price


@dataclass(frozen=True)
class Result:
    """The steps of one image.

    Attributes:
        able: ``[R, G]`` candidates; overlap, cost: ``[R, G]``, NaN where there is none.
        k: ``[G]``; taken: ``[R, G]`` what each box takes, before others are looked at.
        assigned: ``[R]`` box learnt, -1 where negative.
    """

    able: Flags
    overlap: Array
    cost: Array
    k: Indices
    taken: Flags
    assigned: Indices

    @property
    def soft(self) -> Array:
        """Overlap of each positive's predicted box with its box ``[R]``, 0 elsewhere."""
        return np.array([self.overlap[r, g] if g >= 0 else 0.0 for r, g in enumerate(self.assigned)])


def candidates(points: Points, boxes: Array, radius: float, convention: Convention) -> tuple[Flags, Flags]:
    """``[R, G]`` who may learn what; and where this is free of `OUTSIDE`."""
    free, some = np.zeros((2, len(points), len(boxes)), dtype=bool)
    for g, box in enumerate(boxes):
        inside, near = points.depth(box) > 0, points.near(box, radius)
        free[:, g], some[:, g] = inside & near, inside | near
    return (free, free) if convention == "zoo" else (some.any(axis=1, keepdims=True) & np.ones_like(some), free)


def softplus(z: Array) -> Array:
    """log(1 + e^z)."""
    return np.logaddexp(0, z)


def entropy(logits: Array, label: int) -> Array:
    """Binary cross-entropy of the class probabilities ``[n, C]``, summed over classes ``[n]``."""
    sign = np.where(np.arange(logits.shape[1]) == label, -1.0, 1.0)
    summed: Array = softplus(sign * logits).sum(axis=1)
    return summed


def entropy_of_product(logits: Array, quality: Array, label: int) -> Array:
    """The same of the roots of their products with one more probability ``[n]``."""
    p = np.exp(-(softplus(-logits) + softplus(-quality)[:, None]) / 2)
    missed = np.where(np.arange(logits.shape[1]) == label, p, 1 - p)
    summed: Array = -np.log(np.maximum(missed, np.exp(-LARGEST_LOG))).sum(axis=1)
    return summed


def overlaps(predicted: Array, box: Sequence[float]) -> Array:
    """IoU of each of ``[n, 4]`` with the box ``[n]``."""
    return np.array([iou(other, box) for other in predicted.tolist()])


def match(
    able: Flags, overlap: Array, cost: Array, boxes: Array, labels: Sequence[int], topk: int, convention: Convention
) -> Result:
    """Box per location from the tables ``[R, G]`` of candidates, overlaps and costs."""
    taken = np.zeros(able.shape, dtype=bool)
    k = np.zeros(len(boxes), dtype=np.int64)
    for g in range(len(boxes)):
        members = np.flatnonzero(able[:, g]).tolist()
        best = sorted((float(overlap[r, g]) for r in members), reverse=True)[:topk]
        k[g] = max(1, int(sum(best)))
        taken[sorted(members, key=lambda r: (cost[r, g], r))[: k[g]], g] = True
    assigned, rank = np.full(len(able), BACKGROUND, dtype=np.int64), ranks(boxes, labels)
    for r in np.flatnonzero(taken.any(axis=1)).tolist():
        takers = np.flatnonzero(taken[r]).tolist()
        if len(takers) > 1 and convention == "mmdet":
            takers = list(range(len(boxes)))
        # Costs are compared as the float32 numbers that anyone computes in training.
        order = {g: (float(np.float32(cost[r, g])), *rank[g]) for g in takers}
        if convention == "mmdet":
            order = {g: (float(cost[r, g]), g) for g in takers}
        assigned[r] = min(takers, key=order.__getitem__)
    return Result(able, overlap, cost, k, taken, assigned)


def examine(
    points: Points, boxes: Array, logits: Array, quality: Array, predicted: Array, *, labels: Sequence[int],
    topk: int = 10, radius: float = 2.5, iou_weight: float = 3.0, class_weight: float = 1.0,
    score: Literal["class", "sqrt_product"] = "class", convention: Convention = "zoo",
) -> Result:  # fmt: skip
    """Assign one image and keep the steps."""
    able, free = candidates(points, boxes, radius, convention)
    overlap, cost = np.full(able.shape, np.nan), np.full(able.shape, np.nan)
    for g, label in enumerate(labels):
        r = np.flatnonzero(able[:, g])
        classes = entropy(logits[r], label) if score == "class" else entropy_of_product(logits[r], quality[r], label)
        overlap[r, g] = overlaps(predicted[r], boxes[g].tolist())
        cost[r, g] = class_weight * classes - iou_weight * np.log(overlap[r, g] + EPS)
        cost[r, g] = np.where(free[r, g], cost[r, g], (cost[r, g] + OUTSIDE).astype(np.float32))
    return match(able, overlap, cost, boxes, labels, topk, convention)
