"""MuSu as loops over boxes and locations."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import exp

import numpy as np

from harness.verify.published.oracles.geometry import Array, Indices, Points, center, iou, ranks, sigmoid, winners


@dataclass(frozen=True)
class Result:
    """What one image learns.

    Attributes:
        assigned: ``[R]`` box, -1 where negative.
        class_weight, box_weight: ``[R]``, 0 where negative.
    """

    assigned: Indices
    class_weight: Array
    box_weight: Array


@dataclass(frozen=True)
class Candidate:
    """A location inside a box; `key` is what it competes by, the smallest first."""

    location: int
    score: float
    overlap: float
    joint: np.float32
    key: np.float32


def candidates(
    points: Points, box: Sequence[float], logits: Array, predicted: Array, noise: Array | None
) -> list[Candidate]:
    """All locations inside a box, with the logits ``[R]`` of its class; numbers are compared as in training, as
    float32."""
    found = []
    middle = np.array(center(box))
    for r in points.inside(box):
        score, overlap = sigmoid(float(logits[r])), iou(predicted[r].tolist(), box)
        if noise is not None:
            score, overlap = score * float(noise[0, r]), overlap * float(noise[1, r])
        joint = np.float32(score * overlap)
        distance = ((points.xy[r] - middle) ** 2).sum()
        found.append(Candidate(r, score, overlap, joint, -joint if joint > 0 else np.float32(distance)))
    return found


def bag(everywhere: list[Candidate], topk: int, share: float) -> list[Candidate]:
    """The best few, the best first."""
    best = sorted(everywhere, key=lambda c: (c.key, c.location))[:topk]
    return [c for c in best if c.joint >= np.float32(share) * max(c.joint for c in best)]


def weights(own: list[Candidate], exponents: tuple[float, float], temperature: float) -> dict[int, float]:
    """Weight of each location by its rank."""
    score, overlap = exponents
    order = sorted(range(len(own)), key=lambda i: (-np.float32(own[i].score ** score * own[i].overlap ** overlap), i))
    return {own[i].location: exp(-rank / temperature) for rank, i in enumerate(order)}


def examine(
    points: Points, boxes: Array, logits: Array, predicted: Array, *, labels: Sequence[int], topk: int = 16,
    share: float = 0.1, mutual: float = 0.8, temperature: float = 4.0, noise: Array | None = None,
) -> Result:  # fmt: skip
    """Assign one image; `noise` ``[G, 2, R]`` multiplies scores and overlaps."""
    bags = [
        bag(candidates(points, box, logits[:, label], predicted, None if noise is None else noise[g]), topk, share)
        for g, (box, label) in enumerate(zip(boxes.tolist(), labels, strict=True))
    ]
    rank, count = ranks(boxes, labels), len(points)
    claims = [(c.location, (float(c.key), *rank[g]), g) for g, mine in enumerate(bags) for c in mine]
    result = Result(winners(claims, count), np.zeros(count), np.zeros(count))
    for g, mine in enumerate(bags):
        own = [c for c in mine if result.assigned[c.location] == g]
        for r, weight in weights(own, (1 - mutual, mutual), temperature).items():
            result.class_weight[r] = weight
        for r, weight in weights(own, (mutual, 1 - mutual), temperature).items():
            result.box_weight[r] = weight
    return result
