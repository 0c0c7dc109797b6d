"""Candidate locations of boxes: windows by index arithmetic and the flat list of (box, location) pairs.

Every rule with a bounded reach takes its candidates from a window of a few cells around the box centre instead of
comparing all boxes with all locations; rules over whole boxes take the pair list, whose length the host knows.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil

import torch
from torch import Tensor

from assigners.contract import Targets
from assigners.grid import Grid, inside_range
from assigners.ops.boxes import aligned_iou, ltrb, square_anchors
from assigners.ops.segments import at, ragged


@dataclass(frozen=True)
class Window:
    """Candidate cells of each box on each level, in the order of their location index.

    Attributes:
        location: ``[G, L, P]`` flat index within the image; 0 where not `ok`.
        ok: ``[G, L, P]`` the cell exists.
        column, row: ``[G, L, P]`` int64 on the level's map.
    """

    location: Tensor
    ok: Tensor
    column: Tensor
    row: Tensor


def centers(boxes: Tensor) -> Tensor:
    """Box centres ``[G, 2]``."""
    return (boxes[:, :2] + boxes[:, 2:]) / 2


def map_centers(grid: Grid, boxes: Tensor) -> Tensor:
    """Box centres in cells of every level ``[G, L, 2]``."""
    return centers(boxes)[:, None] / grid.level_stride[:, None] - grid.offset


def window_within(grid: Grid, boxes: Tensor, radius: float) -> Window:
    """The cells strictly within `radius` cells of the box centre along both axes, and a few more.

    The block is as large as the radius or the map needs, and shifted inward at the border: callers test the exact
    condition in pixels.
    """
    side = ceil(min(2 * radius, max(max(shape) for shape in grid.shapes))) + 1
    sizes = [(min(height, side), min(width, side)) for height, width in grid.shapes]
    return _cells(grid, (map_centers(grid, boxes) - radius).floor().long(), sizes)


def near_center(grid: Grid, boxes: Tensor, radius: float) -> tuple[Tensor, Tensor]:
    """Locations of each box on all levels, and whether they lie in it and within `radius` cells of its centre along
    both axes: ``[G, K]``."""
    window = window_within(grid, boxes, radius)
    location = window.location.flatten(1)
    points = at(grid.points, location)
    offset = (points - centers(boxes)[:, None]).abs().amax(dim=-1)
    inside = ltrb(points, boxes[:, None]).amin(dim=-1) > 0
    return location, window.ok.flatten(1) & inside & (offset < radius * at(grid.stride, location))


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
        longest = side if roomy else max(count, side)
        sizes.append((min(height, longest), min(width, longest)))
    half = torch.tensor([(columns // 2, rows // 2) for rows, columns in sizes], device=boxes.device)
    return _cells(grid, (map_centers(grid, boxes) + 0.5).floor().long() - half, sizes)


def _cells(grid: Grid, first: Tensor, sizes: list[tuple[int, int]]) -> Window:
    """Blocks of ``(rows, columns)`` cells from `first` ``[G, L, 2]`` (column, row), shifted inward at the border."""
    longest = max(rows * columns for rows, columns in sizes)
    position = torch.arange(longest, device=first.device)
    size = torch.tensor([(columns, rows) for rows, columns in sizes], device=first.device)
    first = torch.minimum(first, grid.level_size - size).clamp(min=0)
    columns = size[:, 0, None]
    column = first[..., 0:1] + position % columns  # [G, L, P]
    row = first[..., 1:2] + position // columns
    ok = (position < size.prod(dim=-1, keepdim=True)).expand(column.shape)
    location = torch.where(ok, grid.level_start[:, None] + row * grid.level_width[:, None] + column, 0)
    return Window(location, ok, column, row)


@dataclass(frozen=True)
class Pairs:
    """Every (box, location) pair with the location strictly inside the box, ordered by box, level, row, column.

    Attributes:
        gt, location: ``[P]`` int64, ``P = targets.num_pairs``; cell: ``[P]`` of the batch, image * R + location.
    """

    gt: Tensor
    location: Tensor
    cell: Tensor


def inside_pairs(grid: Grid, targets: Targets) -> Pairs:
    """The flat pair list; its length was counted on the host, so nothing synchronises."""
    first, last = inside_range(grid, targets.boxes)
    size = last - first  # [G, L, 2]
    row_of, within = ragged(size.prod(dim=-1).flatten(), targets.num_pairs)  # [P] index into (box, level)
    level = row_of % grid.num_levels
    columns = at(size[..., 0].flatten(), row_of)
    column = at(first[..., 0].flatten(), row_of) + within % columns
    row = at(first[..., 1].flatten(), row_of) + within // columns
    gt, location = row_of // grid.num_levels, at(grid.level_start, level) + row * at(grid.level_width, level) + column
    return Pairs(gt, location, grid.cell(at(targets.image, gt), location))


def box_levels(grid: Grid, targets: Targets) -> Tensor:
    """Indices ``[num_box_levels]`` into (box, level) of those with a location strictly inside, ascending.

    The finest level of a box that has none is among them.
    """
    first, last = inside_range(grid, targets.boxes)
    held = (last - first).amin(dim=-1) > 0  # [G, L]
    held[:, 0] |= ~held.any(dim=1)
    index = torch.arange(held.numel(), device=held.device)
    return torch.repeat_interleave(index, held.flatten().long(), output_size=targets.num_box_levels)


def anchor_overlap(grid: Grid, location: Tensor, boxes: Tensor) -> Tensor:
    """IoU ``[...]`` of the `square_anchors` at locations ``[...]`` with boxes that broadcast to ``[..., 4]``."""
    return aligned_iou(square_anchors(at(grid.points, location), at(grid.stride, location)), boxes)


def shrunk(grid: Grid, boxes: Tensor, share: float) -> tuple[Tensor, Tensor]:
    """Ends of boxes ``[G, 4]`` shrunk to a `share` of their sides, in cells of every level: twice ``[G, L, 2]``."""
    step = 2 * grid.level_stride[:, None]
    twice, reach = (boxes[:, :2] + boxes[:, 2:])[:, None], share * (boxes[:, 2:] - boxes[:, :2])[:, None]
    return (twice - reach) / step - grid.offset, (twice + reach) / step - grid.offset


def cells_between(grid: Grid, boxes: Tensor, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
    """Whole cells from `low` to `high` ``[G, L, 2]`` (column, row), ends included, cut to the map and never empty.

    Along an axis without a cell they are the one nearest to the box's centre, or both of two.

    Returns:
        first, last: ``[G, L, 2]`` int64, half-open.
    """
    low, high, center = low.ceil(), high.floor(), map_centers(grid, boxes)
    none = high < low
    first = torch.where(none, (center - 0.5).ceil(), low).long()
    last = torch.where(none, (center + 0.5).floor(), high).long() + 1
    return torch.minimum(first.clamp(min=0), grid.level_size - 1), torch.minimum(last.clamp(min=1), grid.level_size)


def rectangle_cells(grid: Grid, first: Tensor, last: Tensor, length: int) -> tuple[Tensor, Tensor, Tensor]:
    """The cells of rectangles as one flat list whose length the host knows without knowing the sizes.

    Args:
        first, last: ``[G, L, 2]`` (column, row) on the map, half-open; empty where ``last <= first``.
        length: P, at least the number of cells.

    Returns:
        Box, location and existence, each ``[P]``, ordered by box, level, row, column; the rows left over come last.
    """
    columns, rows = (last - first).clamp(min=0).flatten(0, 1).unbind(dim=-1)
    cells = columns * rows
    rest = (length - cells.sum())[None]  # one more group takes the rows left over
    group, within = ragged(torch.cat((cells, rest)), length)
    ok = group < cells.shape[0]
    group = torch.where(ok, group, 0)
    corner = grid.level_start + first[..., 1] * grid.level_width + first[..., 0]
    skipped = grid.level_width.repeat(first.shape[0]) - columns  # cells between the rows of a rectangle
    row = within // at(columns.clamp(min=1), group)
    location = at(corner.flatten(), group) + within + row * at(skipped, group)
    return group // grid.num_levels, torch.where(ok, location, 0), ok
