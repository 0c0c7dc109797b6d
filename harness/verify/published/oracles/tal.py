"""Task alignment learning as loops over boxes and locations."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from harness.verify.published.oracles.geometry import Array, Indices, Points, iou, ranks, sigmoid, winners

Convention = Literal["zoo", "mmdet"]
"""mmdet asks a positive to lie 0.01 px inside its box and gives ties to the first box of the list."""

GUARD = 1e-7


@dataclass(frozen=True)
class Result:
    """What one image learns.

    Attributes:
        assigned: ``[R]`` box, -1 where negative; label, metric: ``[R]`` soft label and t of the positives, else 0.
    """

    assigned: Indices
    label: Array
    metric: Array


@dataclass(frozen=True)
class Pair:
    """A location that a box wants, how aligned it is and how much its prediction overlaps."""

    location: int
    t: float
    overlap: float


def candidates(
    points: Points, box: Sequence[float], scores: Array, predicted: Array, *, topk: int, alpha: float, beta: float,
    mask_first: bool, margin: float,
) -> list[Pair]:  # fmt: skip
    """A box's best locations, before other boxes are looked at.

    Args:
        scores: ``[R]`` probability of the box's class; margin: px that a positive lies inside its box.
    """
    inside = points.depth(box) > margin
    pairs = []
    for r in np.flatnonzero(inside).tolist() if mask_first else range(len(points)):
        overlap = iou(predicted[r].tolist(), box)
        t = float(scores[r]) ** alpha * overlap**beta
        if t > 0:
            pairs.append(Pair(r, t, overlap))
    # Compared as float32 numbers, like everything that is compared in training.
    pairs.sort(key=lambda pair: (-np.float32(pair.t), pair.location))
    return [pair for pair in pairs[:topk] if inside[pair.location]]


def examine(
    points: Points, boxes: Array, logits: Array, predicted: Array, *, labels: Sequence[int], topk: int = 13,
    alpha: float = 1.0, beta: float = 6.0, mask_first: bool = True, relative_guard: bool = False,
    convention: Convention = "zoo",
) -> Result:  # fmt: skip
    """Assign one image."""
    wanted: list[tuple[int, Pair]] = []
    for g, box in enumerate(boxes.tolist()):
        scores = np.array([sigmoid(z) for z in logits[:, labels[g]].tolist()])
        for pair in candidates(
            points, box, scores, predicted, topk=topk, alpha=alpha, beta=beta, mask_first=mask_first,
            margin=0.01 if convention == "mmdet" else 0.0,
        ):  # fmt: skip
            wanted.append((g, pair))

    rank = ranks(boxes, labels) if convention == "zoo" else [(g,) for g in range(len(boxes))]
    count = len(points)
    claims = [(pair.location, (-np.float32(pair.overlap), *rank[g]), g) for g, pair in wanted]
    result = Result(winners(claims, count), np.zeros(count), np.zeros(count))
    for g in range(len(boxes)):
        pairs = [pair for box, pair in wanted if box == g == result.assigned[pair.location]]
        largest, best = (max((getattr(pair, name) for pair in pairs), default=0.0) for name in ("t", "overlap"))
        for pair in pairs:
            result.metric[pair.location] = pair.t
            result.label[pair.location] = pair.t / (largest if relative_guard else largest + GUARD) * best
    return result
