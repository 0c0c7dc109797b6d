"""Candidate locations of boxes: windows by index arithmetic and the flat list of (box, location) pairs.

Every rule with a bounded reach takes its candidates from a window of a few cells around the box centre instead of
comparing all boxes with all locations; rules over whole boxes take the pair list, whose length the host knows.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil

import torch
from torch import Tensor

from assigners.contract import Grid, Targets, inside_range


@dataclass(frozen=True)
class Window:
    """Candidate cells of each box on each level, in the order of their location index.

    Attributes:
        location: ``[G, L, P]`` flat index within the image; 0 where not `ok`.
        ok: ``[G, L, P]`` the cell exists.
    """

    location: Tensor
    ok: Tensor


def centers(boxes: Tensor) -> Tensor:
    """Box centres ``[G, 2]``."""
    return (boxes[:, :2] + boxes[:, 2:]) / 2


def _map_centers(grid: Grid, boxes: Tensor) -> Tensor:
    """Box centres in cells of every level ``[G, L, 2]``."""
    return centers(boxes)[:, None] / grid.level_stride[:, None] - grid.offset


def window_within(grid: Grid, boxes: Tensor, radius: float) -> Window:
    """The cells strictly within `radius` cells of the box centre along both axes, clipped to the map.

    A superset by at most rounding: callers test the exact condition in pixels.
    """
    side = ceil(2 * radius) + 1
    first = (_map_centers(grid, boxes) - radius).floor().long()
    return _cells(grid, first, [(side, side)] * grid.num_levels)


def window_nearest(grid: Grid, boxes: Tensor, count: int) -> Window:
    """Cells that surely hold the `count` nearest ones to the box centre, for centres on the (padded) map.

    A block of m x m cells, m odd and m*m >= 2*count + 7, shifted inward at the border, suffices on maps at least
    that large (checked against brute force); smaller maps are taken whole along the short axis and up to `count`
    cells along the other.
    """
    side = 3
    while side * side < 2 * count + 7:
        side += 2
    sizes = []
    for height, width in grid.shapes:
        roomy = height >= side and width >= side
        sizes.append((side, side) if roomy else (min(height, max(count, side)), min(width, max(count, side))))
    size = torch.tensor([(w, h) for h, w in sizes], device=boxes.device)
    limit = torch.stack((grid.level_width, grid.level_height), dim=-1) - size
    first = (_map_centers(grid, boxes) + 0.5).floor().long() - size // 2
    return _cells(grid, torch.minimum(first, limit).clamp(min=0), sizes)


def _cells(grid: Grid, first: Tensor, sizes: list[tuple[int, int]]) -> Window:
    """Blocks of ``(rows, columns)`` cells per level, with upper-left cell `first` ``[G, L, 2]`` (column, row)."""
    longest = max(rows * columns for rows, columns in sizes)
    position = torch.arange(longest, device=first.device)
    columns = torch.tensor([c for _, c in sizes], device=first.device)[:, None]
    cells = torch.tensor([r * c for r, c in sizes], device=first.device)[:, None]
    column = first[..., 0:1] + position % columns  # [G, L, P]
    row = first[..., 1:2] + position // columns
    width, height = grid.level_width[:, None], grid.level_height[:, None]
    ok = (position < cells) & (column >= 0) & (row >= 0) & (column < width) & (row < height)
    return Window(torch.where(ok, grid.level_start[:, None] + row * width + column, 0), ok)


@dataclass(frozen=True)
class Pairs:
    """Every (box, location) pair with the location strictly inside the box, ordered by box, level, row, column.

    Attributes:
        gt, location: ``[P]`` int64, ``P = targets.num_pairs``.
    """

    gt: Tensor
    location: Tensor


def inside_pairs(grid: Grid, targets: Targets) -> Pairs:
    """The flat pair list; its length was counted on the host, so nothing synchronises."""
    first, last = inside_range(targets.boxes, grid.strides, grid.shapes, grid.offset)
    size = last - first  # [G, L, 2]
    cells = size.prod(dim=-1).flatten()
    device = cells.device
    row_of = torch.repeat_interleave(
        torch.arange(cells.shape[0], device=device), cells, output_size=targets.num_pairs
    )  # [P] index into (box, level)
    within = torch.arange(targets.num_pairs, device=device) - (cells.cumsum(0) - cells)[row_of]
    level = row_of % grid.num_levels
    columns = size[..., 0].flatten()[row_of]
    column = first[..., 0].flatten()[row_of] + within % columns
    row = first[..., 1].flatten()[row_of] + within // columns
    return Pairs(row_of // grid.num_levels, grid.level_start[level] + row * grid.level_width[level] + column)
