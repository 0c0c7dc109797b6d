"""ATSS by predictions, as loops over boxes and their candidates."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from harness.verify.published.oracles import atss
from harness.verify.published.oracles.geometry import Array, Indices, Points, iou, ranks, sigmoid, winners


def fits(
    points: Points, box: Sequence[float], label: int, logits: Array, predicted: Array, *, topk: int = 9,
    alpha: float = 0.8,
) -> tuple[atss.BoxResult, list[float], float]:  # fmt: skip
    """ATSS's candidates of a box (and which of them lie inside), how well each one's prediction fits, the threshold."""
    nearest = atss.examine(points, box, topk=topk)
    values = [
        sigmoid(float(logits[r, label])) ** (1 - alpha) * iou(predicted[r].tolist(), box) ** alpha
        for r in nearest.candidates
    ]
    return nearest, values, atss.threshold(values)


def assign(
    points: Points, boxes: Array, logits: Array, predicted: Array, *, labels: Sequence[int], topk: int = 9,
    alpha: float = 0.8,
) -> Indices:  # fmt: skip
    """Box index per location of one image, -1 where negative; a contested location goes to the best fit."""
    claims = []
    for g, (box, rank) in enumerate(zip(boxes.tolist(), ranks(boxes, labels), strict=True)):
        nearest, values, threshold = fits(points, box, labels[g], logits, predicted, topk=topk, alpha=alpha)
        for location, inside, value in zip(nearest.candidates, nearest.inside, values, strict=True):
            if inside and value >= threshold:
                claims.append((location, (-float(np.float32(value)), *rank), g))
    return winners(claims, len(points))
