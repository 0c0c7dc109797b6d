"""DW by brute force: every location and box, one pair at a time, in float64."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import exp

import numpy as np

from harness.verify.published.oracles.geometry import Array, Points, center, iou, ranks, sigmoid
from harness.verify.published.oracles.loss import giou


@dataclass(frozen=True)
class Pair:
    """A location in the bag of a box.

    Attributes:
        t: score times fit; prior: of the centre; positive, negative: the two weights.
    """

    box: int
    location: int
    t: float
    prior: float
    iou: float
    positive: float = 0.0
    negative: float = 0.0


def bag(
    points: Points, g: int, box: Sequence[float], label: int, logits: Array, predicted: Array,
    *, beta: float, sigma: float, floor: float,
) -> list[Pair]:  # fmt: skip
    """The locations inside the box with a prior above the floor."""
    found = []
    middle = center(box)
    for r in points.inside(box):
        x, y = points.xy[r].tolist()
        squared = ((x - middle[0]) ** 2 + (y - middle[1]) ** 2) / float(points.stride[r]) ** 2
        prior = exp(-squared / (2 * sigma**2))
        if prior <= floor:
            continue
        truth, guess = list(box), predicted[r].tolist()
        t = sigmoid(float(logits[r, label])) * exp(-beta * (1 - giou(guess, truth)))
        found.append(Pair(g, r, t, prior, iou(guess, truth)))
    return found


def weigh(pairs: list[Pair], *, mu: float, gamma: float) -> list[Pair]:
    """The same pairs of one box with their weights."""
    if not pairs:
        return []
    best_t, best_iou = max(p.t for p in pairs), max(p.iou for p in pairs)
    divisor = sum(exp(3 * p.t) * (p.t / best_t) * p.prior for p in pairs)

    def fall(u: float) -> float:
        return (1 - u**gamma) / (1 - 0.5**gamma)

    weighed = []
    for p in pairs:
        positive = len(pairs) * exp(mu * p.t) * (p.t / best_t) * p.prior / divisor
        negative = 1.0
        if p.iou >= 0.5:
            negative = (fall(p.iou) - fall(best_iou)) / (1 - fall(best_iou)) if best_iou > 0.5 else 0.0
        weighed.append(Pair(p.box, p.location, p.t, p.prior, p.iou, positive, negative))
    return weighed


def assign(
    points: Points, boxes: Array, labels: Sequence[int], logits: Array, predicted: Array, *, mu: float = 5.0,
    beta: float = 5.0, gamma: float = 2.0, sigma: float = 1.11, floor: float = 0.3,
) -> tuple[list[Pair], dict[tuple[int, int], tuple[int, float]]]:  # fmt: skip
    """All weighed pairs of one image, and per (location, class) the box and weight of the one negative."""
    pairs: list[Pair] = []
    for g, box in enumerate(boxes.tolist()):
        mine = bag(points, g, box, labels[g], logits, predicted, beta=beta, sigma=sigma, floor=floor)
        pairs += weigh(mine, mu=mu, gamma=gamma)
    negatives: dict[tuple[int, int], tuple[int, float]] = {}
    order: dict[tuple[int, int], tuple[float, ...]] = {}
    rank = ranks(boxes, labels)  # of boxes of one class
    for p in pairs:
        place = (p.location, labels[p.box])
        key = (float(np.float32(p.negative)), *rank[p.box])
        if place not in order or key < order[place]:
            order[place], negatives[place] = key, (p.box, p.negative)
    return pairs, negatives
