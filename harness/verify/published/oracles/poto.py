"""POTO as loops over boxes and locations; the optimal matching is scipy's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
from scipy.optimize import linear_sum_assignment

from harness.verify.published.oracles.geometry import BACKGROUND, Array, Indices, Points, center, iou, ranks, sigmoid

Convention = Literal["zoo", "optimal", "defcn"]
"""The product's rounds of argmax; the optimal matching, without the pairs that the rule does not allow; the authors'
code, which keeps those pairs too."""

FORBIDDEN = -1.0  # quality of a pair that center sampling does not allow


def qualities(
    points: Points, boxes: Array, logits: Array, predicted: Array, *, labels: Sequence[int], alpha: float = 0.8,
    radius: float = 1.5,
) -> Array:  # fmt: skip
    """How well each location's prediction fits each box ``[G, R]``, FORBIDDEN outside its sampling square."""
    table = np.full((len(boxes), len(points)), FORBIDDEN)
    for g, box in enumerate(boxes.tolist()):
        for r in np.flatnonzero((points.depth(box) > 0) & points.near(box, radius)).tolist():
            score = sigmoid(float(logits[r, labels[g]]))
            table[g, r] = score ** (1 - alpha) * iou(predicted[r].tolist(), box) ** alpha
    return table


def optimal(table: Array) -> list[int]:
    """Location of each box in the matching of the largest total quality."""
    rows, columns = linear_sum_assignment(table, maximize=True)
    assert rows.tolist() == list(range(len(table)))
    found: list[int] = columns.tolist()
    return found


def take_turns(table: Array, points: Points, boxes: Array, labels: Sequence[int], rounds: int) -> list[int | None]:
    """Location of each box after some rounds: each asks for its best one that is left, the best asker gets it."""
    # Qualities are compared as the float32 numbers that anyone computes in training.
    values = table.astype(np.float32)
    rank = ranks(boxes, labels)
    result: list[int | None] = [None] * len(boxes)
    for _ in range(rounds):
        taken = {r for r in result if r is not None}
        asked: dict[int, list[int]] = {}
        for g, box in enumerate(boxes.tolist()):
            if result[g] is not None:
                continue
            middle = np.array(center(box))
            left = [r for r in np.flatnonzero(values[g] != FORBIDDEN).tolist() if r not in taken]
            if left:
                order = {r: (-values[g, r], float(((points.xy[r] - middle) ** 2).sum()), r) for r in left}
                asked.setdefault(min(left, key=order.__getitem__), []).append(g)
        for r, askers in asked.items():
            best = min((-values[g, r], rank[g], g) for g in askers)
            result[best[-1]] = r
    return result


def total(table: Array, matched: Sequence[int | None]) -> float:
    """Sum of the qualities of a matching, where a box without a location counts FORBIDDEN."""
    return sum(FORBIDDEN if r is None else float(table[g, r]) for g, r in enumerate(matched))


def assign(
    points: Points, boxes: Array, logits: Array, predicted: Array, *, labels: Sequence[int], alpha: float = 0.8,
    radius: float = 1.5, rounds: int = 3, convention: Convention = "zoo",
) -> Indices:  # fmt: skip
    """Box index per location of one image, -1 where negative."""
    table = qualities(points, boxes, logits, predicted, labels=labels, alpha=alpha, radius=radius)
    matched: Sequence[int | None]
    matched = take_turns(table, points, boxes, labels, rounds) if convention == "zoo" else optimal(table)
    assigned = np.full(len(points), BACKGROUND, dtype=np.int64)
    for g, r in enumerate(matched):
        if r is not None and (table[g, r] != FORBIDDEN or convention == "defcn"):
            assigned[r] = g
    return assigned
