"""LLA by brute force: every box is compared with every location.

zoo      only locations inside a box may learn it; a contested one goes to the cheapest box that takes it
authors  locations outside cost 1e3 more; a contested one goes to the cheapest box of the image
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from harness.verify.published.oracles.geometry import Array, Indices, Points, ranks, winners
from harness.verify.published.oracles.ota import LEAST_IOU, focal, overlaps

Convention = Literal["zoo", "authors"]

OUTSIDE = 1e3
HOPELESS = 1e30  # the cost where the prediction is no number


@dataclass(frozen=True)
class Result:
    """The steps of one image.

    Attributes:
        cost: ``[G, R]``, infinite where the box may not have the location.
        taken: per box, the locations that it takes, cheapest first.
        assigned: ``[R]`` box learnt, -1 where negative.
    """

    cost: Array
    taken: list[list[int]]
    assigned: Indices


def costs(
    points: Points, boxes: Array, logits: Array, predicted: Array, labels: Sequence[int], iou_weight: float,
    convention: Convention,
) -> Array:  # fmt: skip
    """What every location would lose as a positive of every box ``[G, R]``."""
    table = np.zeros((len(boxes), len(points)))
    overlap = overlaps(boxes, predicted)
    for g, (box, label) in enumerate(zip(boxes.tolist(), labels, strict=True)):
        table[g] = focal(logits, np.arange(logits.shape[1]) == label)
        table[g] -= iou_weight * np.log(np.maximum(overlap[g], LEAST_IOU))
        table[g] = np.minimum(np.nan_to_num(table[g], nan=HOPELESS), HOPELESS)
        table[g, points.depth(box) <= 0] += np.inf if convention == "zoo" else OUTSIDE
    return table


def choose(cost: Array, boxes: Array, labels: Sequence[int], topk: int, convention: Convention) -> Result:
    """The cheapest locations of every box, and one box per location."""
    taken = []
    for row in cost:
        order = sorted(np.flatnonzero(np.isfinite(row)).tolist(), key=lambda r: (np.float32(row[r]), r))
        taken.append(order[:topk])
    rank = ranks(boxes, labels)
    claims = [(r, (np.float32(cost[g, r]), *rank[g]), g) for g, mine in enumerate(taken) for r in mine]
    assigned = winners(claims, cost.shape[1])
    if convention == "authors":
        contested = [r for r, takers in Counter(r for r, *_ in claims).items() if takers > 1]
        assigned[contested] = cost[:, contested].argmin(axis=0)
    return Result(cost, taken, assigned)


def examine(
    points: Points, boxes: Array, logits: Array, predicted: Array, *, labels: Sequence[int], topk: int = 10,
    iou_weight: float = 1.5, convention: Convention = "zoo",
) -> Result:  # fmt: skip
    """Assign one image and keep the steps."""
    cost = costs(points, boxes, logits, predicted, labels, iou_weight, convention)
    return choose(cost, boxes, labels, topk, convention)
