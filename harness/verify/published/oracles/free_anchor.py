"""FreeAnchor, location by location, in float64.

Conventions:

    "zoo"    bags and matches know only the locations inside a box; the box loss is beta * (1 - GIoU)
    "mmdet"  bags reach outside, every predicted box may match every box; the box loss is 0.75 times a smooth L1 loss
             (beta 0.11) of the anchor deltas, scaled by (0.1, 0.1, 0.2, 0.2); a box without area has no deltas, so the
             recorded answers took it to be 1/8 px wide, to the right and downward
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import exp, log, log1p
from typing import Any, Literal

import numpy as np

from harness.verify.published.oracles.geometry import Array, Points, iou, sigmoid
from harness.verify.published.oracles.loss import giou

Convention = Literal["zoo", "mmdet"]

SCALES = (0.1, 0.1, 0.2, 0.2)
TURN = 0.11  # of the smooth L1 loss, from a parabola to a line
LEAST = 0.125  # px


@dataclass(frozen=True)
class Result:
    """The steps of one image.

    Attributes:
        bags: per box its locations, best anchor first.
        products: per box P_cls * P_loc of these.
        likelihoods: per box the mean-max of its bag, NaN for an empty one.
        match: ``[R, C]``.
        negative: sum over locations and classes, not weighted.
    """

    bags: list[list[int]]
    products: list[list[float]]
    likelihoods: list[float]
    match: Array
    negative: float


def reach(points: Points, box: Sequence[float], convention: Convention) -> Sequence[int]:
    """The locations that a box may know."""
    return range(len(points)) if convention == "mmdet" else points.inside(box)


def bag_of(points: Points, box: Sequence[float], count: int, convention: Convention = "zoo") -> list[int]:
    """The `count` locations whose anchors overlap the box most."""
    overlap = {r: iou(points.anchor(r), box) for r in reach(points, box, convention)}
    return sorted(overlap, key=lambda r: (-overlap[r], r))[:count]


def deltas(reference: Sequence[float], box: Sequence[float]) -> list[float]:
    width, height = reference[2] - reference[0], reference[3] - reference[1]
    raw = (
        (box[0] + box[2] - reference[0] - reference[2]) / 2 / width,
        (box[1] + box[3] - reference[1] - reference[3]) / 2 / height,
        log((box[2] - box[0]) / width),
        log((box[3] - box[1]) / height),
    )
    return [value / scale for value, scale in zip(raw, SCALES, strict=True)]


def smooth_l1(difference: float) -> float:
    size = abs(difference)
    return 0.5 * size * size / TURN if size < TURN else size - 0.5 * TURN


def box_cost(
    points: Points, location: int, predicted: Sequence[float], box: Sequence[float], beta: float, convention: Convention
) -> float:
    """-log P_loc."""
    if convention == "zoo":
        return beta * (1 - giou(predicted, box))
    reference = points.anchor(location)
    x1, y1, x2, y2 = predicted
    predicted = (x1, y1, max(x2, x1 + LEAST), max(y2, y1 + LEAST))
    pairs = zip(deltas(reference, predicted), deltas(reference, box), strict=True)
    return beta * sum(smooth_l1(p - t) for p, t in pairs)


def mean_max(products: Sequence[float], rest: Sequence[float]) -> float:
    """Mean of the products, each with the weight 1 / (1 - product)."""
    weights = [1 / max(value, 1e-12) for value in rest]
    return sum(w * x for w, x in zip(weights, products, strict=True)) / sum(weights)


def matches(
    points: Points, boxes: Array, predicted: Array, labels: Sequence[int], classes: int, threshold: float,
    convention: Convention = "zoo",
) -> Array:  # fmt: skip
    """How surely each location is taken by a box of each class ``[R, C]``."""
    match = np.zeros((len(points), classes))
    for box, label in zip(boxes, labels, strict=True):
        overlap = {r: iou(predicted[r], box) for r in reach(points, box, convention)}
        best = max(overlap.values(), default=0.0)
        for r, value in overlap.items():
            if value > threshold:
                match[r, label] = max(match[r, label], (value - threshold) / (best - threshold))
    return match


def negative_focal(score: float, rest: float, match: float, gamma: float) -> float:
    """Focal loss of a negative with the probability ``score * (1 - match)``; `rest` is 1 - score."""
    u, unmatched = score * (1 - match), rest + score * match
    return u**gamma * -(log(unmatched) if unmatched < 0.5 else log1p(-u))


def negatives(logits: Array, match: Array, gamma: float = 2.0, quality: Array | None = None) -> float:
    """Sum of the negative term over locations and classes, not weighted; with a quality each score is a product."""
    total = 0.0
    for r in range(len(logits)):
        there, absent = (1.0, 0.0) if quality is None else (sigmoid(quality[r]), sigmoid(-quality[r]))
        for c in range(logits.shape[1]):
            score = sigmoid(logits[r, c])
            total += negative_focal(score * there, sigmoid(-logits[r, c]) + score * absent, match[r, c], gamma)
    return total


def examine(
    points: Points, boxes: Array, logits: Array, predicted: Array, *, labels: Sequence[int], bag: int = 50,
    threshold: float = 0.6, gamma: float = 2.0, beta: float = 0.75, convention: Convention = "zoo",
    bags: Sequence[Sequence[int]] | None = None,
) -> Result:  # fmt: skip
    """One image with all steps.

    Args:
        bags: these instead of the rule's own, where ties leave a choice.
    """
    chosen = [list(b) for b in bags] if bags is not None else [bag_of(points, b, bag, convention) for b in boxes]
    products, likelihoods = [], []
    for members, box, label in zip(chosen, boxes, labels, strict=True):
        x, rest = [], []
        for r in members:
            cost = box_cost(points, r, predicted[r], box, beta, convention)
            score = sigmoid(logits[r, label])
            x.append(score * exp(-cost))
            rest.append(sigmoid(-logits[r, label]) - score * np.expm1(-cost))
        products.append(x)
        likelihoods.append(mean_max(x, rest) if members else float("nan"))
    match = matches(points, boxes, predicted, labels, logits.shape[1], threshold, convention)
    return Result(chosen, products, likelihoods, match, negatives(logits, match, gamma))


def losses(
    points: Points, boxes: Array, logits: Array, predicted: Array, *, bag: int = 50, alpha: float = 0.5, **asked
):
    """The zoo's terms of one image: sum and count by name."""
    result = examine(points, boxes, logits, predicted, bag=bag, **asked)
    held = [value for value in result.likelihoods if not np.isnan(value)]
    positive = alpha * sum(-log(value) for value in held)
    return {
        "positive_bag": (positive, float(len(held))),
        "negative_bag": ((1 - alpha) / bag * result.negative, float(len(held))),
    }


def peer(
    points: Points, boxes: Array, logits: Array, predicted: Array, theirs: Mapping[str, Any], *, bag: int = 50, **asked
) -> dict[str, Any]:  # fmt: skip
    """What the peer records of one image, by its names and with its weights; members of a bag in the record's order.

    A bag with places left for anchors that miss the box is filled with whichever: the record names them. What its
    members overlap must still be what the best ones do.
    """
    bags = np.asarray(theirs["bag_idx"], dtype=np.int64)
    result = examine(points, boxes, logits, predicted, bag=bag, convention="mmdet", bags=bags.tolist(), **asked)
    least = []
    for box, members in zip(boxes, bags.tolist(), strict=True):
        best = sorted((iou(points.anchor(r), box) for r in range(len(points))), reverse=True)[:bag]
        told = sorted((iou(points.anchor(r), box) for r in set(members)), reverse=True)
        least.append(best[-1] if np.allclose(best, told, rtol=0, atol=1e-6) else np.nan)
    return {
        "bag_min_iou": np.array(least),
        "bag_prob": np.array(result.products).reshape(bags.shape),
        "positive_loss": np.array([-0.5 * log(value) for value in result.likelihoods]),
        "box_prob": result.match.max(axis=1),
        "negative_loss_sum": 0.5 * result.negative,
    }
