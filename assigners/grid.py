"""The locations of the feature maps: where they are, how they are numbered, which boxes cover them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from itertools import accumulate

import torch
from torch import Tensor

from assigners.ops.segments import at, ragged


@dataclass(frozen=True)
class Grid:
    """Where the locations of one input size are. Build it with `Grid.build`, once per size and device.

    Attributes:
        shapes: ``(height, width)`` in cells per level.
        strides: pixels per cell, per level.
        starts: flat index of each level's first location.
        offset: position of a location within its cell, 0.5 = centre. The grid alone owns it.
        points: ``[R, 2]`` x, y in pixels.
        uv: ``[R, 2]`` float32 (column, row) in cells of the level.
        level: ``[R]`` int64.
        stride: ``[R]`` float32 pixels.
        level_start, level_height, level_width: ``[L]`` int64; level_stride: ``[L]`` float32.
    """

    shapes: tuple[tuple[int, int], ...]
    strides: tuple[int, ...]
    starts: tuple[int, ...]
    offset: float
    points: Tensor
    uv: Tensor
    level: Tensor
    stride: Tensor
    level_start: Tensor
    level_height: Tensor
    level_width: Tensor
    level_stride: Tensor

    @staticmethod
    def build(
        shapes: Sequence[tuple[int, int]],
        strides: Sequence[int],
        *,
        offset: float = 0.5,
        device: torch.device | str = "cpu",
    ) -> Grid:
        """Make the grid of a pyramid.

        Raises:
            ValueError: if `shapes` and `strides` differ in length or are empty.
        """
        if not shapes or len(shapes) != len(strides):
            raise ValueError(f"a grid needs one stride per level, got {len(shapes)} levels and {len(strides)} strides")
        axis = partial(torch.arange, dtype=torch.float32, device=device)
        uv = torch.cat([torch.cartesian_prod(axis(height), axis(width)).flip(1) for height, width in shapes])
        heights, widths = (torch.tensor(sides, device=device) for sides in zip(*shapes, strict=True))
        level_stride = torch.tensor([float(stride) for stride in strides], device=device)
        level, _ = ragged(heights * widths, len(uv))
        stride = level_stride[level]
        starts = tuple(accumulate((int(h) * int(w) for h, w in shapes), initial=0))[:-1]
        return Grid(
            shapes=tuple((int(h), int(w)) for h, w in shapes),
            strides=tuple(int(s) for s in strides),
            starts=starts,
            offset=offset,
            points=(uv + offset) * stride[:, None],
            uv=uv,
            level=level,
            stride=stride,
            level_start=torch.tensor(starts, device=device),
            level_height=heights,
            level_width=widths,
            level_stride=level_stride,
        )

    @property
    def num_locations(self) -> int:
        """Number R of locations over all levels."""
        return self.points.shape[0]

    @property
    def num_levels(self) -> int:
        """Number L of pyramid levels."""
        return len(self.strides)

    @property
    def level_size(self) -> Tensor:
        """Columns and rows of each level, ``[L, 2]`` int64."""
        return torch.stack((self.level_width, self.level_height), dim=-1)

    def cell(self, image: Tensor, location: Tensor) -> Tensor:
        """Flat index into ``[B * R]`` of locations of images, both of one shape or broadcast."""
        return image * self.num_locations + location

    def map_coordinates(self, location: Tensor) -> tuple[Tensor, Tensor]:
        """Level ``[...]`` and float map coordinates (column, row) ``[..., 2]`` of flat locations ``[...]``."""
        return at(self.level, location), at(self.uv, location)

    def location(self, level: Tensor, uv: Tensor) -> Tensor:
        """Flat locations ``[...]`` of whole map coordinates ``[..., 2]`` on levels, which broadcast."""
        column, row = uv.long().unbind(-1)
        return self.level_start[level] + row * self.level_width[level] + column

    def pixels(self, level: Tensor, uv: Tensor) -> Tensor:
        """Pixel position ``[..., 2]`` of map coordinates ``[..., 2]`` on levels ``[...]``."""
        return (uv + self.offset) * self.level_stride[level].unsqueeze(-1)


@lru_cache(maxsize=64)
def cached_grid(
    shapes: tuple[tuple[int, int], ...], strides: tuple[int, ...], offset: float, device: torch.device
) -> Grid:
    """`Grid.build`, remembered: a training run meets few input sizes."""
    return Grid.build(shapes, strides, offset=offset, device=device)


def inside_range(grid: Grid, boxes: Tensor) -> tuple[Tensor, Tensor]:
    """The rectangle of cells whose points lie strictly inside each box, per level; on the device of the boxes.

    Returns:
        first, last: ``[G, L, 2]`` int64 (column, row), half-open; empty where ``last <= first``.
    """
    step = torch.tensor(grid.strides, dtype=boxes.dtype, device=boxes.device)[:, None]
    limit = torch.tensor([(w, h) for h, w in grid.shapes], device=boxes.device)
    low = boxes[:, None, :2] / step - grid.offset
    high = boxes[:, None, 2:] / step - grid.offset
    first = (low.floor().long() + 1).clamp(min=0)  # the smallest integer strictly above `low`
    last = torch.minimum(high.ceil().long(), limit)  # one past the largest integer strictly below `high`
    return first, torch.maximum(last, first)


def count_inside(grid: Grid, boxes: Tensor) -> tuple[int, int]:
    """Of boxes ``[G, 4]`` on the host: pairs (box, location strictly inside), and of how many (box, level) they are.

    A box without a location inside counts as one level, its finest.
    """
    first, last = inside_range(grid, boxes)
    inside = (last - first).prod(dim=-1)  # [G, L]
    return int(inside.sum()), int((inside > 0).sum(dim=1).clamp(min=1).sum())


def coverage(grid: Grid, boxes: Tensor, image: Tensor, num_images: int) -> Tensor:
    """How many of the boxes ``[n, 4]`` (of images ``[n]``) hold each location strictly inside: ``[B, R]`` int32."""
    return cells_covered(grid, *inside_range(grid, boxes), image, num_images)


def cells_covered(grid: Grid, first: Tensor, last: Tensor, image: Tensor, num_images: int) -> Tensor:
    """`coverage` of rectangles of cells: (column, row) of their ends ``[n, L, 2]``, half-open, on the map."""
    maps = []
    for level, (height, width) in enumerate(grid.shapes):
        x0, y0 = first[:, level].unbind(-1)
        x1, y1 = last[:, level].unbind(-1)
        marks = torch.zeros(num_images * (height + 1) * (width + 1), dtype=torch.int32, device=image.device)
        base = image * (height + 1) * (width + 1)
        for row, column, sign in ((y0, x0, 1), (y0, x1, -1), (y1, x0, -1), (y1, x1, 1)):
            index = base + row.clamp(max=height) * (width + 1) + column.clamp(max=width)
            marks.index_add_(0, index, torch.full_like(index, sign, dtype=torch.int32))
        summed = marks.view(num_images, height + 1, width + 1).cumsum(1, dtype=torch.int32).cumsum(2, dtype=torch.int32)
        maps.append(summed[:, :height, :width].reshape(num_images, -1))
    return torch.cat(maps, dim=1)
