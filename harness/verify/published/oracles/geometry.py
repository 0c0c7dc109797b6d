"""What every oracle needs: the points of a pyramid and the IoU of two boxes, in float64."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import exp

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Points:
    """Locations of all levels, level-major, then row-major.

    Attributes:
        xy: ``[R, 2]`` pixels; level: ``[R]``; stride: ``[R]`` pixels.
    """

    xy: Array
    level: NDArray[np.int64]
    stride: Array

    def __len__(self) -> int:
        return len(self.xy)


def make_points(shapes: Sequence[tuple[int, int]], strides: Sequence[int], offset: float) -> Points:
    """Every location, one at a time."""
    xy, levels, steps = [], [], []
    for level, ((height, width), stride) in enumerate(zip(shapes, strides, strict=True)):
        for row in range(height):
            for column in range(width):
                xy.append(((column + offset) * stride, (row + offset) * stride))
                levels.append(level)
                steps.append(stride)
    return Points(np.array(xy, dtype=np.float64), np.array(levels), np.array(steps, dtype=np.float64))


def iou(a: Sequence[float], b: Sequence[float], plus_one: bool = False) -> float:
    """IoU of two xyxy boxes; `plus_one` is the old pixel-count convention of the maskrcnn-benchmark family."""
    one = 1.0 if plus_one else 0.0
    width = min(a[2], b[2]) - max(a[0], b[0]) + one
    height = min(a[3], b[3]) - max(a[1], b[1]) + one
    intersection = max(width, 0.0) * max(height, 0.0)
    union = area(a, plus_one) + area(b, plus_one) - intersection
    return intersection / union if union > 0 else 0.0


def area(box: Sequence[float] | Array, plus_one: bool = False) -> float:
    """Area of an xyxy box, 0 where a side is negative."""
    one = 1.0 if plus_one else 0.0
    return float(max(box[2] - box[0] + one, 0.0) * max(box[3] - box[1] + one, 0.0))


def sigmoid(z: float) -> float:
    """1 / (1 + e^-z), for any z."""
    return 1 / (1 + exp(-z)) if z >= 0 else exp(z) / (1 + exp(z))


def sides(point: Sequence[float], box: Sequence[float]) -> tuple[float, float, float, float]:
    """Distances left, top, right, bottom from a point to the sides of a box; negative outside."""
    return point[0] - box[0], point[1] - box[1], box[2] - point[0], box[3] - point[1]
