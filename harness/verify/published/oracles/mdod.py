"""MDOD, location by location and draw by draw, in float64, with the zoo's conventions: only locations inside a box are
components for it and for draws that show it; no scale is below 1 / pi px.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import exp, log, pi

import numpy as np

from harness.verify.published.oracles.geometry import BACKGROUND, Array, Points, iou, ranks, softplus


@dataclass(frozen=True)
class Result:
    """The steps of one image.

    Attributes:
        shares: ``[R]`` pi, of sum 1.
        scales: ``[R, 4]`` gamma, px.
        joint: ``[G, R]`` log(pi F), -inf outside the box.
        likelihoods: ``[G]`` logarithm of the sum, NaN for a box that holds no location.
        drawn: ``[N]`` locations.
        shows: ``[N]`` box that each shows, or -1.
        class_likelihoods: ``[N]`` logarithm of the sum of pi F P, NaN for a draw that shows a box without a location.
    """

    shares: Array
    scales: Array
    joint: Array
    likelihoods: list[float]
    drawn: list[int]
    shows: list[int]
    class_likelihoods: list[float]


def log_density(box: Sequence[float] | Array, center: Array, scale: Array) -> float:
    """log F: four independent Cauchy distributions."""
    return -sum(
        log(pi * gamma * (1 + ((x - mu) / gamma) ** 2)) for x, mu, gamma in zip(box, center, scale, strict=True)
    )


def log_sum(values: Sequence[float]) -> float:
    """log(sum(exp(values))), -inf of nothing."""
    top = max(values, default=float("-inf"))
    return top if top == float("-inf") else top + log(sum(exp(v - top) for v in values))


def draw(shares: Array, random: Sequence[float]) -> list[int]:
    """The location at which the running sum of the shares reaches each number in (0, 1)."""
    reached = np.cumsum(shares)
    return [min(int(np.searchsorted(reached, number)), len(shares) - 1) for number in random]


def shown(box: Array, boxes: Array, labels: Sequence[int], overlap: float) -> int:
    """The box that a drawn one shows, or -1; ties go by area, coordinates, class, place in the list."""
    best, chosen, rank = overlap, BACKGROUND, ranks(boxes, labels)
    for g in sorted(range(len(boxes)), key=rank.__getitem__):
        if (value := iou(box.tolist(), boxes[g].tolist())) > best:
            best, chosen = value, g
    return chosen


def log_classes(logits: Array, label: int) -> float:
    """log P of exactly the class `label`, or of none."""
    return sum(-softplus(-z) if c == label else -softplus(z) for c, z in enumerate(logits.tolist()))


def examine(
    points: Points, boxes: Array, logits: Array, quality: Array, predicted: Array, *, labels: Sequence[int],
    random: Sequence[float], spread: Sequence[float] = (0.0, 0.0, 0.0, 0.0), draws: int = 5, most: int = 150,
    overlap: float = 0.5, least: float = 0.05,
) -> Result:  # fmt: skip
    """One image with all steps.

    Args:
        boxes: ``[G, 4]``; logits: ``[R, C]``; quality: ``[R]``; predicted: ``[R, 4]``; labels: ``[G]``.
        random: numbers in (0, 1), one for each draw; more are not looked at.
        spread: t of left, top, right, bottom.
    """
    places = list(range(len(points)))
    shares = np.exp(quality - quality.max())
    shares /= shares.sum()
    log_shares = quality - quality.max() - log(np.exp(quality - quality.max()).sum())
    scales = np.zeros((len(points), 4))
    for r in places:
        for side in range(4):
            length = predicted[r, side % 2 + 2] - predicted[r, side % 2]
            scales[r, side] = max(softplus(spread[side]) * points.stride[r] / 4, least * length, 1 / pi)
    joint = np.full((len(boxes), len(points)), -np.inf)
    for g, box in enumerate(boxes):
        for r in points.inside(box):
            joint[g, r] = log_shares[r] + log_density(box, predicted[r], scales[r])
    likelihoods = [value if (value := log_sum(row.tolist())) > -np.inf else float("nan") for row in joint]
    drawn = draw(shares, random[: min(max(draws * len(boxes), 1), most)])
    shows = [shown(predicted[r], boxes, labels, overlap) for r in drawn]
    class_likelihoods = []
    for at, g in zip(drawn, shows, strict=True):
        components = places if g == BACKGROUND else points.inside(boxes[g])
        label = BACKGROUND if g == BACKGROUND else labels[g]
        value = log_sum([
            log_shares[r] + log_density(predicted[at], predicted[r], scales[r]) + log_classes(logits[r], label)
            for r in components
        ])  # fmt: skip
        class_likelihoods.append(value if components else float("nan"))
    return Result(shares, scales, joint, likelihoods, drawn, shows, class_likelihoods)


def losses(
    points: Points, boxes: Array, logits: Array, quality: Array, predicted: Array, *, class_weight: float = 2.0, **asked
) -> dict[str, tuple[float, float]]:
    """The zoo's terms of one image: sum and count by name."""
    result = examine(points, boxes, logits, quality, predicted, **asked)
    held = [value for value in result.likelihoods if not np.isnan(value)]
    counted = [value for value in result.class_likelihoods if not np.isnan(value)]
    return {
        "box_density": (-sum(held), float(len(held))),
        "class_density": (-class_weight * sum(counted), float(len(counted))),
    }
