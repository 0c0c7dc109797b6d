"""Unbalanced optimal transport as its textbook: one table of boxes + background by all locations, in the log domain.

Histograms sum to 1 here, as in the authors' code, and the plan is multiplied by the number of locations at the end.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import log

import numpy as np

from harness.verify.published.oracles.geometry import BACKGROUND, Array, Flags, Indices, Points, iou, sigmoid

SEVERAL = -3  # boxes that a location learns


@dataclass(frozen=True)
class Result:
    """The steps of one image.

    Attributes:
        allowed: ``[G, R]`` candidates; cost: ``[G + 1, R]``, the last row the background's, infinite where not allowed.
        plan: ``[G + 1, R]`` in labels.
        assigned: ``[R]`` box learnt, -1 where none, -3 where several.
        pull, push: ``[R, C]`` weights of a location as a positive and as a negative of every class.
    """

    allowed: Flags
    cost: Array
    plan: Array
    assigned: Indices
    pull: Array
    push: Array


def transport(cost: Array, *, reg: float, reg_pred: float, reg_target: float, iterations: int) -> Array:
    """The plan ``[rows, R]`` in labels for costs ``[rows, R]``, infinite ones too; the last row is the background's.

    Args:
        reg: of the entropy.
        reg_pred, reg_target: of what locations take and what rows give.
    """
    rows, places = cost.shape
    give = np.log(np.array([1.0] * (rows - 1) + [max(places - (rows - 1), 1)]) / places)
    take = -log(places)
    kernel, u = -cost / reg, np.zeros(places)

    def scaled(u: Array) -> Array:
        potential: Array = reg_target / (reg_target + reg) * (give - np.logaddexp.reduce(kernel + u, axis=1))
        return potential

    for _ in range(iterations):
        v = scaled(u)
        u = reg_pred / (reg_pred + reg) * (take - np.logaddexp.reduce(kernel + v[:, None], axis=0))
    plan: Array = places * np.exp(kernel + scaled(u)[:, None] + u)
    return plan


def examine(
    points: Points, boxes: Array, logits: Array, predicted: Array, *, labels: Sequence[int], reg_target: float = 0.25,
    reg_pred: float = 1000.0, background_cost: float = 0.8, regularisation: float = 0.12, iterations: int = 70,
    class_weight: float = 1.0, iou_weight: float = 2.0, radius: float = 2.5, least: float = 0.05,
) -> Result:  # fmt: skip
    """Assign one image and keep the steps."""
    count = len(points)
    allowed = np.zeros((len(boxes), count), dtype=bool)
    cost = np.full((len(boxes) + 1, count), np.inf)
    cost[-1] = background_cost
    for g, box in enumerate(boxes.tolist()):
        allowed[g] = (points.depth(box) > 0) & points.near(box, radius)
        for r in np.flatnonzero(allowed[g]).tolist():
            misses = class_weight * (1 - sigmoid(float(logits[r, labels[g]])))
            cost[g, r] = (misses + iou_weight * (1 - iou(predicted[r].tolist(), box))) / (class_weight + iou_weight)

    plan = np.zeros_like(cost)
    rows = [*np.flatnonzero(allowed.any(axis=1)).tolist(), -1]
    plan[rows] = transport(
        cost[rows], reg=regularisation / (log(2 * count) + 1), reg_pred=reg_pred, reg_target=reg_target,
        iterations=iterations,
    )  # fmt: skip
    return Result(allowed, cost, plan, *weights(plan, labels, logits.shape[1], least))


def weights(plan: Array, labels: Sequence[int], classes: int, least: float) -> tuple[Indices, Array, Array]:
    """Box, positive and negative weights of every location, from a plan ``[G + 1, R]``."""
    count = plan.shape[1]
    assigned, pull, push = np.full(count, BACKGROUND), np.zeros((count, classes)), np.ones((count, classes))
    for r in range(count):
        boxes = np.minimum(plan[:-1, r], 1).astype(np.float32)
        learnt = np.flatnonzero(boxes >= np.float32(least)).tolist()
        if learnt:
            assigned[r] = learnt[0] if len(learnt) == 1 else SEVERAL
        for label in {labels[g] for g in learnt}:
            pull[r, label] = sum(float(boxes[g]) for g in learnt if labels[g] == label)
            push[r, label] = min(max(float(boxes.sum()) + plan[-1, r] - pull[r, label], 0), 1)
    return assigned, pull, push
