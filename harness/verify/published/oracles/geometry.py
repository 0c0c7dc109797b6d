"""What the oracles share: the points of a pyramid, how they lie to a box, overlaps, the order of boxes; in float64."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import exp, log1p
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Indices = NDArray[np.int64]
Flags = NDArray[np.bool_]

BACKGROUND, IGNORED = -1, -2  # where a location learns no box


@dataclass(frozen=True)
class Points:
    """Locations of all levels, level-major, then row-major.

    Attributes:
        xy: ``[R, 2]`` pixels; level: ``[R]``; stride: ``[R]`` pixels.
    """

    xy: Array
    level: Indices
    stride: Array

    def __len__(self) -> int:
        return len(self.xy)

    @property
    def levels(self) -> dict[int, float]:
        """Strides by level."""
        return {level: float(self.stride[self.level == level][0]) for level in range(int(self.level.max()) + 1)}

    def anchor(self, location: int) -> tuple[float, float, float, float]:
        """The square of 8 strides around a location."""
        (x, y), half = self.xy[location], 4 * self.stride[location]
        return x - half, y - half, x + half, y + half

    def depth(self, box: Sequence[float] | Array) -> Array:
        """How far each location lies inside a box ``[R]``, the distance to its nearest side; negative outside."""
        low, high = np.array(box[:2]), np.array(box[2:])
        return np.asarray(np.minimum(self.xy - low, high - self.xy).min(axis=1))

    def inside(self, box: Sequence[float] | Array) -> list[int]:
        """Locations strictly inside a box."""
        return list(np.flatnonzero(self.depth(box) > 0).tolist())

    def near(self, box: Sequence[float] | Array, radius: float) -> Flags:
        """Which locations ``[R]`` lie within `radius` strides of a box's centre, along both axes."""
        return np.asarray(np.abs(self.xy - np.array(center(box))).max(axis=1) < radius * self.stride)


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


def center(box: Sequence[float] | Array) -> tuple[float, float]:
    """Middle of an xyxy box."""
    return (box[0] + box[2]) / 2, (box[1] + box[3]) / 2


def ranks(boxes: Array, labels: Sequence[int]) -> list[tuple[float, ...]]:
    """What the zoo breaks ties between boxes by, the smallest first: area, coordinates, class, place in the list."""
    return [(area(box), *box, label, g) for g, (box, label) in enumerate(zip(boxes.tolist(), labels, strict=True))]


def winners(claims: Iterable[tuple[int, tuple[Any, ...], int]], places: int) -> Indices:
    """Box of each location ``[R]``; of the claims (location, key, box) that meet there the smallest key wins."""
    assigned = np.full(places, BACKGROUND, dtype=np.int64)
    for location, _, box in sorted(claims, reverse=True):  # the smallest comes last
        assigned[location] = box
    return assigned


def softplus(z: float) -> float:
    """log(1 + e^z), also for infinite z."""
    return max(z, 0.0) + log1p(exp(-abs(z)))


def sigmoid(z: float) -> float:
    """1 / (1 + e^-z), for any z."""
    return 1 / (1 + exp(-z)) if z >= 0 else exp(z) / (1 + exp(z))


def sides(point: Sequence[float], box: Sequence[float]) -> tuple[float, float, float, float]:
    """Distances left, top, right, bottom from a point to the sides of a box; negative outside."""
    return point[0] - box[0], point[1] - box[1], box[2] - point[0], box[3] - point[1]
