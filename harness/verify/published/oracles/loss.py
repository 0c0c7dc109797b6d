"""The shared loss, channel by channel, cell by cell, sample by sample."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import exp, log1p

from harness.verify.published.oracles.geometry import Array, area, iou, sigmoid
from harness.verify.published.oracles.iqdet import bilinear_read, corner_weights


def quality_focal(logit: float, target: float, gamma: float = 2.0, alpha: float | None = None) -> float:
    """``|y - s|^gamma * BCE(s, y)`` with ``s = sigmoid(z)`` (Li et al., "Generalized Focal Loss", eq. 4).

    Args:
        alpha: weight of labelled points, ``1 - alpha`` of negatives, as in focal loss; None weighs both 1.
    """
    s = sigmoid(logit)
    cross_entropy = max(logit, 0.0) - logit * target + log1p(exp(-abs(logit)))
    weight = 1.0 if alpha is None else (alpha if target > 0 else 1 - alpha)
    return weight * abs(target - s) ** gamma * cross_entropy


def giou(a: Sequence[float], b: Sequence[float]) -> float:
    """Generalised IoU of two xyxy boxes."""
    overlap = iou(a, b)
    hull = area((min(a[0], b[0]), min(a[1], b[1]), max(a[2], b[2]), max(a[3], b[3])))
    union = area(a) + area(b)
    union -= overlap * union / (1 + overlap)  # intersection = iou * union, union = sum - intersection
    return overlap - (hull - union) / hull


@dataclass(frozen=True)
class Sample:
    """One row of an assignment, of one image."""

    level: int
    u: float
    v: float
    channel: int
    label: float
    weight: float


def class_loss(
    logits: Array, shapes: Sequence[tuple[int, int]], negative_weight: Array, samples: Sequence[Sample], *,
    owns: bool = True, all_classes: bool = False, alpha: float | None = None,
) -> float:  # fmt: skip
    """Class loss of one image (not divided).

    Args:
        logits: ``[R, C]``; negative_weight: ``[R]``.
        owns: samples take the cells that they read out of the negatives of their own class.
        all_classes: the other classes of a sample are supervised as zero at the sample.
    """
    maps, start = [], 0
    for height, width in shapes:
        maps.append(logits[start : start + height * width].reshape(height, width, -1))
        start += height * width
    owned: set[tuple[int, int, int, int]] = set()
    for sample in samples:
        if owns:
            for row, column in corner_weights(sample.u, sample.v, *shapes[sample.level]):
                owned.add((sample.level, row, column, sample.channel))
    total, location = 0.0, 0
    for level, (height, width) in enumerate(shapes):
        for row in range(height):
            for column in range(width):
                for channel in range(logits.shape[1]):
                    if (level, row, column, channel) not in owned:
                        z = float(maps[level][row, column, channel])
                        total += float(negative_weight[location]) * quality_focal(z, 0.0, alpha=alpha)
                location += 1
    for sample in samples:
        read = bilinear_read(maps[sample.level], sample.u, sample.v)
        total += sample.weight * quality_focal(float(read[sample.channel]), sample.label, alpha=alpha)
        if all_classes:
            for channel in range(logits.shape[1]):
                if channel != sample.channel:
                    total += sample.weight * quality_focal(float(read[channel]), 0.0, alpha=alpha)
    return total
