"""ATSS by predictions, as loops over boxes and their candidates."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from harness.verify.published.oracles import atss
from harness.verify.published.oracles.geometry import Array, Points, area, iou, sigmoid


def fits(
    points: Points,
    box: Sequence[float],
    label: int,
    logits: Array,
    predicted: Array,
    *,
    topk: int = 9,
    alpha: float = 0.8,
) -> tuple[atss.BoxResult, list[float], float]:
    """ATSS's candidates of a box (and which of them lie inside), how well each one's prediction fits, the threshold."""
    nearest = atss.examine(points, box, topk=topk)
    values = [
        sigmoid(float(logits[r, label])) ** (1 - alpha) * iou(predicted[r].tolist(), box) ** alpha
        for r in nearest.candidates
    ]
    mean = sum(values) / len(values)
    spread = (sum((value - mean) ** 2 for value in values) / (len(values) - 1)) ** 0.5 if len(values) > 1 else 0.0
    return nearest, values, mean + spread


def assign(
    points: Points,
    boxes: Array,
    logits: Array,
    predicted: Array,
    *,
    labels: Sequence[int],
    topk: int = 9,
    alpha: float = 0.8,
) -> NDArray[np.int64]:
    """Box index per location of one image, -1 where negative; a contested location goes to the best fit."""
    assigned = np.full(len(points), -1, dtype=np.int64)
    best: dict[int, tuple[float, ...]] = {}
    for g, box in enumerate(boxes.tolist()):
        nearest, values, threshold = fits(points, box, labels[g], logits, predicted, topk=topk, alpha=alpha)
        for location, inside, value in zip(nearest.candidates, nearest.inside, values, strict=True):
            key = (-float(np.float32(value)), area(box), *box, float(labels[g]), float(g))
            if inside and value >= threshold and (location not in best or key < best[location]):
                best[location], assigned[location] = key, g
    return assigned
