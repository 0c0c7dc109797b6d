"""Dynamic soft label assignment by brute force: every location is compared with every box.

zoo    a box's candidates lie inside it; k comes from their overlaps; a contested location goes to the cheapest box
       of those that take it
mmdet  every location inside some box is a candidate of every box; k comes from the overlaps of all of these; a
       contested location goes to the cheapest box of the image
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from harness.verify.published.oracles.geometry import Array, Flags, Points, center
from harness.verify.published.oracles.sim_ota import Convention, Result, match, overlaps, softplus

EPS = 1e-7
LARGEST_COST = 1e30


def candidates(points: Points, boxes: Array, convention: Convention) -> Flags:
    """``[R, G]`` who may learn what."""
    able = np.zeros((len(points), len(boxes)), dtype=bool)
    for g, box in enumerate(boxes):
        able[points.inside(box), g] = True
    return able if convention == "zoo" else able.any(axis=1, keepdims=True) & np.ones_like(able)


def soft_class_cost(logits: Array, label: int, target: Array) -> Array:
    """Quality focal cost of locations ``[n, C]``, summed over classes ``[n]``: the own class is to score `target`."""
    y = np.where(np.arange(logits.shape[1]) == label, target[:, None], 0.0)
    s = np.exp(-softplus(-logits))
    summed: Array = ((y - s) ** 2 * (y * softplus(-logits) + (1 - y) * softplus(logits))).sum(axis=1)
    return summed


def price_of_distance(points: Array, stride: Array, box: Sequence[float], radius: float) -> Array:
    """1 at `radius` strides from the centre, ten times as much with every further one ``[n]``."""
    offset = points - np.array(center(box))
    price: Array = 10.0 ** (np.hypot(offset[:, 0], offset[:, 1]) / stride - radius)
    return price


def examine(
    points: Points, boxes: Array, logits: Array, predicted: Array, *, labels: Sequence[int], topk: int = 13,
    radius: float = 3.0, iou_weight: float = 3.0, convention: Convention = "zoo",
) -> Result:  # fmt: skip
    """Assign one image and keep the steps."""
    able = candidates(points, boxes, convention)
    overlap, cost = np.full(able.shape, np.nan), np.full(able.shape, np.nan)
    for g, label in enumerate(labels):
        r = np.flatnonzero(able[:, g])
        box = boxes[g].tolist()
        overlap[r, g] = overlaps(predicted[r], box)
        price = price_of_distance(points.xy[r], points.stride[r], box, radius)
        own = soft_class_cost(logits[r], label, overlap[r, g]) - iou_weight * np.log(overlap[r, g] + EPS)
        cost[r, g] = np.minimum(own + price, LARGEST_COST)
    return match(able, overlap, cost, boxes, labels, topk, convention)
