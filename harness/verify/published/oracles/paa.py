"""PAA by brute force: every location is compared with every box, and one mixture is fitted at a time.

The published implementations differ in the first stage, in the score and in the split; `convention` imitates them, so
that the published answers in ``tests/golden`` check these loops, and the loops then check the product.

    zoo       boxes without +1; only locations inside a box may learn it, and its best IoU is the best of these; an
              anchor that ties the best IoU of some boxes goes to one of these, else to any, by (IoU, area, ...)
    mmdet     every anchor that ties a box's best IoU goes to that box, later boxes overwriting earlier ones; the box
              term weighs 1.3; a prefix of component 0 alone; no positive for a box of one candidate or without
              component 0
    official  widths and heights + 1; an anchor that ties any box's best IoU learns its own best box
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import exp
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from harness.verify.published.oracles.geometry import BACKGROUND, Array, Indices, Points, iou, ranks, softplus
from harness.verify.published.oracles.loss import giou

Convention = Literal["zoo", "mmdet", "official"]
Arithmetic = Literal["double", "full", "diag"]
"""How a mixture is computed. ``double``: in float64. ``full``, ``diag``: from float32 values as scikit-learn does it
for the covariance type of that name, which is how the authors and mmdet call it. A component of two values is as dense
at one as at the other, so that the last bit decides these peers' answers."""


ALPHA, GAMMA = 0.25, 2.0  # of focal loss
BOX_WEIGHT = {"zoo": 1.0, "mmdet": 1.3, "official": 1.0}
ARITHMETIC: dict[str, Arithmetic] = {"zoo": "double", "mmdet": "diag", "official": "full"}
LARGEST_SCORE = 1e4
TOLERANCE, REGULARISATION, MOST_ITERATIONS = 1e-3, 1e-6, 64


def overlaps(points: Points, boxes: Array, convention: Convention = "zoo") -> Array:
    """IoU ``[R, G]`` of every location's anchor with every box; NaN where the zoo does not let the two meet."""
    table = np.full((len(points), len(boxes)), np.nan)
    for g, box in enumerate(boxes.tolist()):
        for r in points.inside(box) if convention == "zoo" else range(len(points)):
            table[r, g] = iou(points.anchor(r), box, plus_one=convention == "official")
    return table


def first_stage(
    table: Array, boxes: Array, labels: Sequence[int], *, threshold: float = 0.1, convention: Convention = "zoo"
) -> Indices:
    """Box of every location ``[R]``, -1 where none, from the overlaps ``[R, G]``.

    Overlaps are compared as the float32 numbers that anyone computes in training: their ties are the rule here, as
    every anchor that holds a small box has the same overlap with it.
    """
    values, least = table.astype(np.float32), float(np.float32(threshold))
    best_of_box = [float(column[~np.isnan(column)].max(initial=0)) for column in values.T]
    result, rank = np.full(len(values), BACKGROUND, dtype=np.int64), ranks(boxes, labels)
    for r in np.flatnonzero(~np.isnan(values).all(axis=1)).tolist():
        row = {g: value for g, value in enumerate(values[r].tolist()) if value == value}
        claims = [g for g, value in row.items() if value == best_of_box[g] and (value > 0 or convention != "zoo")]
        if convention == "zoo":
            able = claims or [g for g, value in row.items() if value >= least]
            result[r] = min(able, key=lambda g: (-row[g], rank[g]), default=BACKGROUND)
            continue
        own = min(row, key=lambda g: (-row[g], g))
        if row[own] >= least or (claims and convention == "official"):
            result[r] = own
        if claims and convention == "mmdet":
            result[r] = claims[-1]
    return result


def focal_sum(logits: Array, label: int) -> float:
    """Focal loss of one location, summed over the classes ``[C]``."""
    total = 0.0
    for channel, z in enumerate(logits.tolist()):
        if channel == label:
            total += ALPHA * exp(-softplus(z)) ** GAMMA * softplus(-z)
        else:
            total += (1 - ALPHA) * exp(-softplus(-z)) ** GAMMA * softplus(z)
    return total


def score(
    logits: Array, predicted: Sequence[float], box: Sequence[float], label: int, box_weight: float = 1.0
) -> float:
    """How badly a location predicts its box: class and box loss, low is good; 1e4 where it is not a number."""
    if np.isnan(logits).any() or not np.isfinite(predicted).all():
        return LARGEST_SCORE
    return min(max(focal_sum(logits, label) + box_weight * (1 - giou(predicted, box)), 0.0), LARGEST_SCORE)


def scores(
    own: Indices, boxes: Array, labels: Sequence[int], logits: Array, predicted: Array, convention: Convention = "zoo"
) -> Array:
    """Score of every location ``[R]`` with its stage-1 box, infinite where it has none."""
    result = np.full(len(own), np.inf)
    for r in np.flatnonzero(own >= 0).tolist():
        g = int(own[r])
        result[r] = score(logits[r], predicted[r].tolist(), boxes[g].tolist(), labels[g], BOX_WEIGHT[convention])
    return result


class Fit(NamedTuple):
    """A two-component mixture, read at the values that it was fitted to.

    Attributes:
        labels: ``[K]`` the likelier component, 0 the one that started at the smallest value.
        log_density: ``[K]`` of the mixture.
        lead: ``[K]`` log of how much likelier component 0 is than component 1.
        iterations: how many steps it took.
    """

    labels: Indices
    log_density: Array
    lead: Array
    iterations: int


def _log_joint(x: NDArray[Any], weight: Array, mean: Array, scale: NDArray[Any], arithmetic: Arithmetic) -> Array:
    """log(weight_k) + log N(x; mean_k, 1 / scale_k^2) ``[K, 2]``."""
    if arithmetic == "diag":
        precision = scale**2
        distance = mean**2 * precision - 2 * x[:, None] * (mean * precision) + (x**2)[:, None] * precision
    else:
        distance = ((x[:, None] * scale - mean * scale) ** 2).astype(x.dtype)
    return np.log(weight) + (-0.5 * (float(np.log(2 * np.pi)) + distance) + np.log(scale))


def fit(values: Array, most_iterations: int = MOST_ITERATIONS, arithmetic: Arithmetic = "double") -> Fit:
    """Expectation maximisation as scikit-learn's ``GaussianMixture`` does it with PAA's start, for two or more values.

    Each iteration is an E-step under the old parameters and an M-step; it stops once the mean log-likelihood, taken
    in the E-step, changes by less than 1e-3. The answer comes from one more E-step.
    """
    x: Array = np.asarray(values, dtype=np.float64 if arithmetic == "double" else np.float32)
    weight, mean, scale = np.array([0.5, 0.5]), np.array([x.min(), x.max()]), np.array([1.0, 1.0])
    before, iterations = -np.inf, 0
    while iterations < most_iterations:
        iterations += 1
        joint = _log_joint(x, weight, mean, scale, arithmetic)
        density = np.logaddexp(joint[:, 0], joint[:, 1])
        share = np.exp(joint - density[:, None])
        count = share.sum(axis=0) + 10 * np.finfo(np.float64).eps
        mean = share.T @ x / count
        if arithmetic == "diag":
            variance = share.T @ (x * x) / count - mean**2
        else:
            variance = ((share * (x[:, None] - mean) ** 2).sum(axis=0) / count).astype(x.dtype)
        scale = 1 / np.sqrt(variance + variance.dtype.type(REGULARISATION))
        weight = count / count.sum()
        change, before = abs(density.mean() - before), density.mean()
        if change < TOLERANCE:
            break
    joint = _log_joint(x, weight, mean, scale, arithmetic)
    density = np.logaddexp(joint[:, 0], joint[:, 1])
    lead = joint[:, 0] - joint[:, 1]
    return Fit((lead < 0).astype(np.int64), density, lead, iterations)


def split(values: Sequence[float], convention: Convention = "zoo", most_iterations: int = MOST_ITERATIONS) -> list[int]:
    """Positions of the positives among a box's candidates: a prefix of them by ascending score."""
    order = sorted(range(len(values)), key=lambda i: (values[i], i))
    if len(values) < 2:
        return [] if convention == "mmdet" else order
    ascending = np.array([values[i] for i in order])
    fitted = fit(ascending, most_iterations, ARITHMETIC[convention])
    front = np.flatnonzero(fitted.labels == 0).tolist()
    if not front:
        return [] if convention == "mmdet" else order
    likeliest = front[int(np.argmax(fitted.log_density[front]))]
    prefix = range(likeliest + 1) if convention != "mmdet" else [i for i in front if i <= likeliest]
    return [order[i] for i in prefix]


def candidates(own: Indices, cost: Array, level: Indices, box: int, topk: int = 9) -> list[int]:
    """The locations of the `topk` lowest scores of a box on each level."""
    found: list[int] = []
    for here in sorted(set(level.tolist())):
        members = np.flatnonzero((own == box) & (level == here)).tolist()
        found += sorted(members, key=lambda r: (cost[r], r))[:topk]
    return found


@dataclass(frozen=True)
class Result:
    """The steps of one image.

    Attributes:
        own: ``[R]`` stage-1 box, -1 where none; cost: ``[R]`` score; assigned: ``[R]`` box learnt, -1 where negative.
    """

    own: Indices
    cost: Array
    assigned: Indices


def divide(
    own: Indices, cost: Array, level: Indices, num_boxes: int, *, topk: int = 9, convention: Convention = "zoo"
) -> Indices:
    """Stages 2 and 3: box per location from the stage-1 boxes and their scores."""
    assigned = np.full(len(own), -1, dtype=np.int64)
    for g in range(num_boxes):
        found = candidates(own, cost, level, g, topk)
        for position in split([float(cost[r]) for r in found], convention):
            assigned[found[position]] = g
    return assigned


def examine(
    points: Points, boxes: Array, logits: Array, predicted: Array, *, labels: Sequence[int], topk: int = 9,
    threshold: float = 0.1, convention: Convention = "zoo",
) -> Result:  # fmt: skip
    """Assign one image and keep the steps."""
    table = overlaps(points, boxes, convention)
    own = first_stage(table, boxes, labels, threshold=threshold, convention=convention)
    cost = scores(own, boxes, labels, logits, predicted, convention)
    return Result(own, cost, divide(own, cost, points.level, len(boxes), topk=topk, convention=convention))
