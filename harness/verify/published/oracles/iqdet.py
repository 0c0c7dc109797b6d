"""IQDet's parts as loops in float64: the quality function, its integrals, the reader, the gate, selection and masks.

`d` is a position in the box: (-1, -1) its upper left corner, (0, 0) its centre, (1, 1) its lower right corner.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import erf, exp, floor, log, sqrt
from typing import Literal

import numpy as np

from harness.verify.published.oracles.fcos import in_range
from harness.verify.published.oracles.geometry import Array, Flags, Points, center, iou

Inbox = Literal["ignore", "negative", "negative_no_footprint", "one_minus_q", "soft"]


def quality(d: Sequence[float], mu: Array, sigma: Array, pi: Sequence[float]) -> float:
    """Q(d): a sum of axis-aligned Gaussians of peak `pi` (mu, sigma ``[K, 2]``, pi ``[K]``)."""
    total = 0.0
    for peak, mean, width in zip(pi, mu, sigma, strict=True):
        x, y = (d[0] - mean[0]) / width[0], (d[1] - mean[1]) / width[1]
        total += peak * exp(-(x * x + y * y) / 2)
    return total


def box_position(point: Sequence[float], box: Sequence[float]) -> tuple[float, float]:
    """`d` of a pixel position."""
    x, y = center(box)
    return (point[0] - x) / ((box[2] - box[0]) / 2), (point[1] - y) / ((box[3] - box[1]) / 2)


def _normal_cdf(x: float) -> float:
    return 0.5 * (1 + erf(x / sqrt(2)))


def _mass(low: float, high: float, mu: float, sigma: float) -> float:
    """Integral over [low, high] of a Gaussian of peak 1."""
    return sigma * sqrt(2 * np.pi) * (_normal_cdf((high - mu) / sigma) - _normal_cdf((low - mu) / sigma))


def box_mass(part: Sequence[float], mu: Sequence[float], sigma: Sequence[float]) -> float:
    """Integral of a Gaussian of peak 1 over a part (x1, y1, x2, y2) of the box."""
    return _mass(part[0], part[2], mu[0], sigma[0]) * _mass(part[1], part[3], mu[1], sigma[1])


def bin_probabilities(mu: Array, sigma: Array, pi: Sequence[float], bins: int = 10) -> Array:
    """Share of Q's integral over the box in each of ``bins x bins`` equal cells, ``[x, y]``."""
    edges = np.linspace(-1, 1, bins + 1)
    shares = np.zeros((bins, bins))
    for k in range(len(pi)):
        along_x = [_mass(edges[i], edges[i + 1], mu[k][0], sigma[k][0]) for i in range(bins)]
        along_y = [_mass(edges[j], edges[j + 1], mu[k][1], sigma[k][1]) for j in range(bins)]
        shares += pi[k] * np.outer(along_x, along_y)
    return shares / shares.sum()


def component_shares(mu: Array, sigma: Array, pi: Sequence[float]) -> Array:
    """Share of each component in Q's integral over the box ``[K]``."""
    mass = np.array([pi[k] * box_mass((-1, -1, 1, 1), mu[k], sigma[k]) for k in range(len(pi))])
    return mass / mass.sum()


def allowed_levels(
    points: Points, box: Sequence[float], num_levels: int,
    gate: Literal["contains_grid", "contains_cell", "none", "fcos_range"],
) -> list[bool]:  # fmt: skip
    """Which levels may serve a box."""
    if gate == "none":
        return [True] * num_levels
    if gate == "fcos_range":
        reach = max(box[2] - box[0], box[3] - box[1]) / 2
        fits = [in_range(reach, level, num_levels) and reaches(points, level, box) for level in range(num_levels)]
        return fits if any(fits) else [level == 0 for level in range(num_levels)]
    inside = points.inside(box)
    found = [[points.xy[i] for i in inside if points.level[i] == level] for level in range(num_levels)]
    for side in (2, 1) if gate == "contains_cell" else (1,):
        held = [all(len({place[axis] for place in places}) >= side for axis in (0, 1)) for places in found]
        if any(held):
            return held
    return [level == 0 for level in range(num_levels)]


def reaches(points: Points, level: int, box: Sequence[float]) -> bool:
    """Does the box meet the rectangle that the level's locations span?"""
    x, y = points.xy[points.level == level].T
    return box[0] < x.max() and box[2] > x.min() and box[1] < y.max() and box[3] > y.min()


def bce(probability: float, target: float) -> float:
    """Binary cross-entropy, its logarithms cut at e^-100."""
    present, absent = (max(log(p), -100.0) if p > 0 else -100.0 for p in (probability, 1 - probability))
    return -target * present - (1 - target) * absent


def iq_loss(
    points: Points, boxes: Array, predicted: Array, mu: Array, sigma: Array, pi: Array, num_levels: int
) -> tuple[float, int]:
    """L_IQ of one image over every in-box location: (sum of means per box and level, number of box-level pairs).

    Args:
        predicted: ``[R, 4]`` decoded boxes; mu, sigma: ``[G, L, K, 2]``; pi: ``[G, L, K]``.
    """
    total, count = 0.0, 0
    for g, box in enumerate(boxes):
        inside = points.inside(box)
        for level in range(num_levels):
            losses = []
            for location in inside:
                if points.level[location] != level:
                    continue
                q = quality(box_position(points.xy[location], box), mu[g, level], sigma[g, level], pi[g, level])
                losses.append(bce(q, iou(predicted[location], box)))
            if losses:
                total += sum(losses) / len(losses)
                count += 1
    return total, count


def corner_weights(u: float, v: float, height: int, width: int) -> dict[tuple[int, int], float]:
    """The cells (row, column) that a bilinear read at column u, row v touches, with weights > 0."""
    u = min(max(u, 0.0), width - 1.0)
    v = min(max(v, 0.0), height - 1.0)
    weights: dict[tuple[int, int], float] = {}
    for row, row_weight in ((floor(v), 1 - (v - floor(v))), (floor(v) + 1, v - floor(v))):
        for column, column_weight in ((floor(u), 1 - (u - floor(u))), (floor(u) + 1, u - floor(u))):
            if row_weight * column_weight > 0:
                weights[row, column] = row_weight * column_weight
    return weights


def bilinear_read(values: Array, u: float, v: float) -> Array:
    """A map ``[H, W]`` or ``[H, W, D]`` at column u, row v, clamped to its border."""
    height, width = values.shape[:2]
    return sum(  # type: ignore[return-value]
        (weight * values[row, column] for (row, column), weight in corner_weights(u, v, height, width).items()),
        start=np.zeros(values.shape[2:]),
    )


def is_top(scores: Sequence[float], kept: Sequence[bool], count: int, slack: float = 0.0) -> bool:
    """Are `kept` as many of the scores as there are, up to `count`, and none of them below a dropped one?"""
    chosen = [s for s, k in zip(scores, kept, strict=True) if k]
    dropped = [s for s, k in zip(scores, kept, strict=True) if not k]
    full = len(chosen) == min(count, len(scores))
    return full and (not chosen or not dropped or min(chosen) >= max(dropped) - slack)


def negatives(
    points: Points, shapes: Sequence[tuple[int, int]], boxes: Array, labels: Sequence[int],
    samples: Sequence[tuple[int, int, float, float]], num_classes: int,
    mode: Literal["ignore", "negative", "negative_no_footprint"],
) -> Flags:  # fmt: skip
    """Which (location, class) of one image are negatives ``[R, C]``, for the three hard readings of the paper.

    Args:
        samples: the positives as (box index, level, column, row).
    """
    mask = np.ones((len(points), num_classes), dtype=bool)
    if mode == "ignore":
        for box in boxes:
            mask[points.inside(box)] = False
    if mode != "negative":
        starts = np.cumsum([0] + [h * w for h, w in shapes])
        for g, level, u, v in samples:
            height, width = shapes[level]
            for row, column in corner_weights(u, v, height, width):
                mask[starts[level] + row * width + column, labels[g]] = False
    return mask
