"""AutoAssign, location by location, in float64.

Conventions:

    "zoo"    the IoU within w- is the largest with the boxes that hold the location; boxes of one class that share a
             location share the smallest w-; a box that holds no location is left out
    "mmdet"  the largest with any box; of boxes of one class that share a location, the w- of any one stands, commonly
             the last; a box that holds no location counts and costs 100
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import exp, log
from operator import itemgetter
from typing import Any, Literal

import numpy as np

from harness.verify.published.oracles.free_anchor import negatives
from harness.verify.published.oracles.geometry import Array, Points, center, iou, sigmoid
from harness.verify.published.oracles.loss import giou

Convention = Literal["zoo", "mmdet"]

EPS = 1e-12
ROUNDING = 1e-5  # of a recorded w-
HOPELESS = 100.0  # bound of the peers' cross entropy


@dataclass(frozen=True)
class Result:
    """The steps of one image.

    Attributes:
        prior: ``[G, R]`` G, 0 outside the box.
        promise: ``[G, R]`` P, 0 outside the box.
        weight: ``[G, R]`` w+, of sum 1 for a box that holds a location.
        likelihoods: ``[G]`` sum of w+ P, NaN for a box that holds none.
        claims: 1 - w- by location and class, of each box.
        match: ``[R, C]`` 1 - w-, of those the one that stands.
        negative: sum over locations and classes, not weighted.
    """

    prior: Array
    promise: Array
    weight: Array
    likelihoods: list[float]
    claims: Claims
    match: Array
    negative: float


def center_prior(
    points: Points, location: int, box: Sequence[float], mu: Sequence[float], sigma: Sequence[float]
) -> float:
    """G of a location for a box, whether or not it lies inside."""
    x, y = points.xy[location]
    stride = points.stride[location]
    dx = (x - center(box)[0]) / stride - mu[0]
    dy = (y - center(box)[1]) / stride - mu[1]
    return exp(-(dx**2) / (2 * sigma[0] ** 2)) * exp(-(dy**2) / (2 * sigma[1] ** 2))


Claims = dict[int, dict[int, list[float]]]


def claims(
    points: Points, boxes: Array, predicted: Array, labels: Sequence[int], convention: Convention = "zoo"
) -> Claims:
    """``1 - w-`` by location and class, one per box of the class that holds the location, in the order of boxes."""
    found: Claims = {}
    reach = [range(len(points)) if convention == "mmdet" else set(points.inside(box)) for box in boxes]
    for box, label in zip(boxes, labels, strict=True):
        held = points.inside(box)
        f = []
        for r in held:
            best = max(iou(predicted[r], other) for other, able in zip(boxes, reach, strict=True) if r in able)
            f.append(1 / max(1 - best, EPS))
        for r, value in zip(held, f, strict=True):
            scaled = (value - min(f)) / (max(f) - min(f)) if max(f) > min(f) else 1.0
            found.setdefault(r, {}).setdefault(label, []).append(scaled)
    return found


def matches(claimed: Claims, places: int, classes: int, stands: Callable[[list[float]], float] = max) -> Array:
    """``1 - w-`` of every location and class ``[R, C]``."""
    match = np.zeros((places, classes))
    for r, here in claimed.items():
        for label, values in here.items():
            match[r, label] = stands(values)
    return match


def examine(
    points: Points, boxes: Array, logits: Array, quality: Array, predicted: Array, *, labels: Sequence[int],
    mu: Array | None = None, sigma: Array | None = None, gamma: float = 2.0, beta: float = 5.0,
    convention: Convention = "zoo",
) -> Result:  # fmt: skip
    """One image with all steps.

    Args:
        mu, sigma: ``[C, 2]``, 0 and 1 where absent.
    """
    classes = logits.shape[1]
    mu = np.zeros((classes, 2)) if mu is None else mu
    sigma = np.ones((classes, 2)) if sigma is None else sigma
    prior, promise, weight = (np.zeros((len(boxes), len(points))) for _ in range(3))
    likelihoods = []
    for g, (box, label) in enumerate(zip(boxes, labels, strict=True)):
        held = points.inside(box)
        for r in held:
            prior[g, r] = center_prior(points, r, box, mu[label], sigma[label])
            score = sigmoid(logits[r, label]) * sigmoid(quality[r])
            promise[g, r] = score * exp(-beta * (1 - giou(predicted[r], box)))
        raw = np.exp(3 * promise[g]) * prior[g]
        weight[g] = raw / max(raw.sum(), EPS)
        likelihoods.append(float(weight[g] @ promise[g]) if held else float("nan"))
    claimed = claims(points, boxes, predicted, labels, convention)
    match = matches(claimed, len(points), classes, max if convention == "zoo" else itemgetter(-1))
    return Result(prior, promise, weight, likelihoods, claimed, match, negatives(logits, match, gamma, quality))


def losses(
    points: Points, boxes: Array, logits: Array, quality: Array, predicted: Array, *, alpha: float = 0.25,
    center: float = 0.75, **asked,
) -> dict[str, tuple[float, float]]:  # fmt: skip
    """The zoo's terms of one image: sum and count by name."""
    result = examine(points, boxes, logits, quality, predicted, **asked)
    held = [value for value in result.likelihoods if not np.isnan(value)]
    mass = float(result.prior.sum())
    return {
        "positive": (alpha * sum(-log(value) for value in held), float(len(held))),
        "negative": ((1 - alpha) * result.negative, mass),
        "center": (center * len(held) / max(mass, EPS), 1.0),
    }


def peer(
    points: Points, boxes: Array, logits: Array, quality: Array, predicted: Array, theirs: Mapping[str, Any], **asked
) -> dict[str, Any]:
    """What the peer records of a batch of one image, by its names and with its weights.

    Which of the w- of boxes of one class stands at a location is a race of its threads, won by the last box unless the
    record shows otherwise. There the record decides; it shows only the smallest w- of each location, so that its
    negative loss may then be any of those that some outcome of the race gives.
    """
    result = examine(points, boxes, logits, quality, predicted, convention="mmdet", **asked)
    count, mass = len(boxes), float(result.prior.sum())
    told = 1 - np.asarray(theirs["wneg"], dtype=np.float64)
    largest, negative = result.match.max(axis=1), result.negative
    raced = [r for r in result.claims if abs(largest[r] - told[r]) > ROUNDING]
    if raced:
        for r in raced:
            possible = [value for values in result.claims[r].values() for value in values]
            largest[r] = min(possible, key=lambda value: abs(value - told[r]))
        places, classes = logits.shape
        low, high = (
            negatives(logits, matches(result.claims, places, classes, of), quality=quality) for of in (max, min)
        )
        negative = min(max(float(theirs["loss_neg"]) * max(mass, 1.0) / 0.75, low), high)
    bags = [HOPELESS if np.isnan(value) else min(-log(value), HOPELESS) for value in result.likelihoods]
    return {
        "soft": result.weight.max(axis=0, initial=0.0),
        "wneg": 1 - largest,
        "loss_pos": 0.25 * sum(bags) / max(count, 1),
        "loss_neg": 0.75 * negative / max(mass, 1.0),
        "loss_center": 0.75 * count / max(mass, EPS),
    }
