"""The sampling rules around IQDet as loops: rounding to the grid, the center square, fixed qualities, selection.

The quality function, its integrals and the level gates are in `harness.verify.published.oracles.iqdet`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import exp
from typing import Literal, NamedTuple

from harness.verify.published.oracles.geometry import Array, Points, center, sides
from harness.verify.published.oracles.iqdet import allowed_levels, box_mass, box_position

Unit = Literal["box", "stride", "box_over_ratio"]


class Cell(NamedTuple):
    """A grid point."""

    level: int
    row: int
    column: int


def nearest_cell(
    point: Sequence[float], level: int, shapes: Sequence[tuple[int, int]], strides: Sequence[int], offset: float = 0.5
) -> Cell:
    """The grid point of a level nearest to a pixel position, by comparing all; of two equally near the further one."""
    height, width = shapes[level]
    column = min(range(width), key=lambda i: (abs((i + offset) * strides[level] - point[0]), -i))
    row = min(range(height), key=lambda j: (abs((j + offset) * strides[level] - point[1]), -j))
    return Cell(level, row, column)


def position(cell: Cell, strides: Sequence[int], offset: float = 0.5) -> tuple[float, float]:
    """Pixel position of a grid point."""
    return (cell.column + offset) * strides[cell.level], (cell.row + offset) * strides[cell.level]


def quantise(
    point: Sequence[float], level: int, box: Sequence[float], shapes: Sequence[tuple[int, int]],
    strides: Sequence[int], offset: float = 0.5,
) -> Cell | None:  # fmt: skip
    """The grid point that stands for a draw, None where it lies outside the box."""
    cell = nearest_cell(point, level, shapes, strides, offset)
    return cell if min(sides(position(cell, strides, offset), box)) > 0 else None


def center_square(box: Sequence[float], stride: float, radius: float) -> tuple[float, float, float, float]:
    """Where ``uniform_center`` draws: `radius` strides around the centre, cut to the box."""
    (x, y), reach = center(box), radius * stride
    return max(box[0], x - reach), max(box[1], y - reach), min(box[2], x + reach), min(box[3], y + reach)


def fcos_level(points: Points, box: Sequence[float], num_levels: int) -> int:
    """The level whose range holds half the longer side."""
    return allowed_levels(points, box, num_levels, "fcos_range").index(True)


def fixed_quality(
    point: Sequence[float], box: Sequence[float], stride: float, sigma: float, unit: Unit = "box"
) -> float:
    """A Gaussian of peak 1 at the box centre, its distances measured in `unit`."""
    value = 0.0
    for axis in (0, 1):
        distance = point[axis] - center(box)[axis]
        half = (box[axis + 2] - box[axis]) / 2
        measure = {"box": half, "stride": stride, "box_over_ratio": half * stride / 8}[unit]
        value += (distance / measure / sigma) ** 2
    return exp(-value / 2)


def best_grid_points(
    points: Points, box: Sequence[float], allowed: Sequence[bool], quality: Callable[[int], float], count: int
) -> list[tuple[float, int]]:
    """The `count` best locations inside a box by quality, as (quality, location), best first."""
    ranked = [(quality(r), r) for r in points.inside(box) if allowed[int(points.level[r])]]
    return sorted(ranked, key=lambda entry: (-entry[0], entry[1]))[:count]


def overlap_share(region: Sequence[float], cell: Cell, strides: Sequence[int], offset: float = 0.5) -> float:
    """Share of a region that is nearest to a grid point, away from the map's border."""
    share = 1.0
    place, half = position(cell, strides, offset), strides[cell.level] / 2
    for axis in (0, 1):
        low, high = max(region[axis], place[axis] - half), min(region[axis + 2], place[axis] + half)
        share *= max(high - low, 0.0) / (region[axis + 2] - region[axis])
    return share


def mass_share(box: Sequence[float], part: Sequence[float], mu: Array, sigma: Array, pi: Sequence[float]) -> float:
    """Share of the mixture's integral over the box that lies in a part of it; all in pixels but mu and sigma."""
    corners = (*box_position(part[:2], box), *box_position(part[2:], box))
    x1, y1, x2, y2 = (min(max(value, -1.0), 1.0) for value in corners)  # what lies beside the box has no width here
    whole, inside = (
        sum(peak * box_mass(area, *shape) for peak, *shape in zip(pi, mu, sigma, strict=True))
        for area in ((-1, -1, 1, 1), (x1, y1, x2, y2))
    )
    return inside / whole
