"""One reader of dense maps for every assigner: bilinear at float coordinates, plain indexing at integer ones."""

from __future__ import annotations

import torch
from torch import Tensor

from assigners.contract import Samples
from assigners.grid import Grid


def corners(grid: Grid, level: Tensor, uv: Tensor) -> tuple[Tensor, Tensor]:
    """The four cells around each point and their bilinear weights (IQDet fig. 3b).

    Coordinates are clamped to the map; where a neighbour would lie beyond its edge the weight is 0 and the cell
    itself stands in.

    Args:
        level: ``[S]`` int64.
        uv: ``[S, 2]`` (column, row) in cells.

    Returns:
        location: ``[S, 4]`` flat index within the image; weight: ``[S, 4]`` summing to 1.
    """
    limit = torch.stack((grid.level_width[level], grid.level_height[level]), dim=-1) - 1
    uv = torch.minimum(uv.clamp(min=0), limit.to(uv.dtype))
    low = uv.floor()
    fraction = uv - low
    low = low.long()
    high = torch.minimum(low + 1, limit)
    u0, v0 = low.unbind(-1)
    u1, v1 = high.unbind(-1)
    fu, fv = fraction.unbind(-1)
    start, width = grid.level_start[level], grid.level_width[level]
    location = start[:, None] + torch.stack(
        (v0 * width + u0, v0 * width + u1, v1 * width + u0, v1 * width + u1), dim=-1
    )
    weight = torch.stack(((1 - fu) * (1 - fv), fu * (1 - fv), (1 - fu) * fv, fu * fv), dim=-1)
    return location, weight


def flat_location(grid: Grid, level: Tensor, uv: Tensor) -> Tensor:
    """Flat index ``[S]`` of integer map coordinates ``[S, 2]``."""
    column, row = uv.long().unbind(-1)
    return grid.level_start[level] + row * grid.level_width[level] + column


def read(maps: Tensor, grid: Grid, image: Tensor, level: Tensor, uv: Tensor, *, on_grid: bool = False) -> Tensor:
    """Values of dense maps at points.

    Args:
        maps: ``[B, R]`` or ``[B, R, D]``.
        image, level: ``[S]`` int64.
        uv: ``[S, 2]`` map coordinates.
        on_grid: all coordinates are integers: index. The interpolation would give the same bits at four times the
            cost.

    Returns:
        ``[S]`` or ``[S, D]``.
    """
    flat = maps.flatten(0, 1)
    base = image * grid.num_locations
    if on_grid:
        return flat.index_select(0, base + flat_location(grid, level, uv))
    location, weight = corners(grid, level, uv)
    values = flat.index_select(0, (base[:, None] + location).flatten()).unflatten(0, location.shape)
    weight = weight.view(*weight.shape, *(1,) * (values.ndim - 2))
    # A corner without weight must not leak a non-finite value: 0 * inf is NaN.
    return torch.where(weight > 0, values * weight, 0).sum(dim=1)


def read_channel(logits: Tensor, channel: Tensor, grid: Grid, image: Tensor, samples: Samples) -> Tensor:
    """Each sample's own class logit: ``[B, R, C]`` at channels ``[S]`` -> ``[S]``, without a gather over classes."""
    num_classes = logits.shape[-1]
    flat = logits.flatten()
    base = image * grid.num_locations
    if samples.on_grid:
        location = base + flat_location(grid, samples.level, samples.uv)
        return flat.index_select(0, location * num_classes + channel)
    location, weight = corners(grid, samples.level, samples.uv)
    index = (base[:, None] + location) * num_classes + channel[:, None]
    values = flat.index_select(0, index.flatten()).view_as(weight)
    return torch.where(weight > 0, values * weight, 0).sum(dim=1)
