"""The shared class loss, channel by channel, cell by cell."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import exp, log1p

from tests.oracles.geometry import Array
from tests.oracles.iqdet import bilinear_read, corner_weights


def quality_focal(logit: float, target: float, gamma: float = 2.0) -> float:
    """``|y - s|^gamma * BCE(s, y)`` with ``s = sigmoid(z)`` (Li et al., "Generalized Focal Loss", eq. 4)."""
    s = 1 / (1 + exp(-logit)) if logit >= 0 else exp(logit) / (1 + exp(logit))
    cross_entropy = max(logit, 0.0) - logit * target + log1p(exp(-abs(logit)))
    return abs(target - s) ** gamma * cross_entropy


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
    logits: Array,
    shapes: Sequence[tuple[int, int]],
    negative_weight: Array,
    samples: Sequence[Sample],
    *,
    owns: bool = True,
    owners: Sequence[bool] | None = None,
    all_classes: bool = False,
) -> float:
    """Class loss of one image (not divided).

    Args:
        logits: ``[R, C]``; negative_weight: ``[R]``.
        owners: which samples take the cells that they read out of the negatives of their class; all where absent.
        all_classes: the other classes of a sample are supervised as zero at the sample.
    """
    maps, start = [], 0
    for height, width in shapes:
        maps.append(logits[start : start + height * width].reshape(height, width, -1))
        start += height * width
    owned: set[tuple[int, int, int, int]] = set()
    for index, sample in enumerate(samples):
        if owns and (owners is None or owners[index]):
            for row, column in corner_weights(sample.u, sample.v, *shapes[sample.level]):
                owned.add((sample.level, row, column, sample.channel))
    total, location = 0.0, 0
    for level, (height, width) in enumerate(shapes):
        for row in range(height):
            for column in range(width):
                for channel in range(logits.shape[1]):
                    if (level, row, column, channel) not in owned:
                        z = float(maps[level][row, column, channel])
                        total += float(negative_weight[location]) * quality_focal(z, 0.0)
                location += 1
    for sample in samples:
        z = bilinear_read(maps[sample.level], sample.u, sample.v)
        total += sample.weight * quality_focal(float(z[sample.channel]), sample.label)
        if all_classes:
            for channel in range(logits.shape[1]):
                if channel != sample.channel:
                    total += sample.weight * quality_focal(float(z[channel]), 0.0)
    return total
