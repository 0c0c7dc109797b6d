"""One reader of dense maps for every assigner: bilinear at float coordinates, plain indexing at integer ones."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

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
    limit = grid.level_size[level] - 1
    uv = torch.minimum(uv.clamp(min=0), limit.to(uv.dtype))
    low = uv.floor()
    fraction = uv - low
    low = low.long()
    high = torch.minimum(low + 1, limit)
    u0, v0 = low.unbind(-1)
    u1, v1 = high.unbind(-1)
    fu, fv = fraction.unbind(-1)
    row0, row1 = (grid.level_start[level] + v * grid.level_width[level] for v in (v0, v1))
    location = torch.stack((row0 + u0, row0 + u1, row1 + u0, row1 + u1), dim=-1)
    weight = torch.stack(((1 - fu) * (1 - fv), fu * (1 - fv), (1 - fu) * fv, fu * fv), dim=-1)
    return location, weight


@dataclass(frozen=True)
class MapReader:
    """Reads the dense maps of a batch at S points. Build it with `MapReader.build`, once for all maps.

    Attributes:
        cell: ``[S, K]`` flat index into ``[B * R]`` of the cells that a point reads: itself, or the four around it.
        weight: ``[S, K]`` bilinear weights summing to 1; None on the grid.
    """

    cell: Tensor
    weight: Tensor | None

    @staticmethod
    def build(grid: Grid, image: Tensor, level: Tensor, uv: Tensor, location: Tensor | None = None) -> MapReader:
        """Find the cells.

        Args:
            image, level: ``[S]`` int64.
            uv: ``[S, 2]`` map coordinates.
            location: ``[S]`` flat index within the image of points that all lie on the grid; `level` and `uv` are not
                read then. The interpolation would give the same bits at four times the cost.
        """
        if location is not None:
            return MapReader(grid.cell(image, location)[:, None], None)
        location, weight = corners(grid, level, uv)
        return MapReader(grid.cell(image[:, None], location), weight)

    def read(self, maps: Tensor) -> Tensor:
        """Values ``[S]`` or ``[S, D]`` of maps ``[B, R]`` or ``[B, R, D]``."""
        return self._weighted(maps.flatten(0, 1), self.cell)

    def read_channel(self, logits: Tensor, channel: Tensor) -> Tensor:
        """Values ``[S]`` of ``[B, R, C]`` at channels ``[S]``, without a gather over classes."""
        return self._weighted(logits.flatten(), self.cell * logits.shape[-1] + channel[:, None])

    def reads(self, ok: Tensor) -> Tensor:
        """Which of the cells ``[S, K]`` bool the points that exist, ``[S]``, read with weight > 0."""
        return ok[:, None] if self.weight is None else ok[:, None] & (self.weight > 0)

    def _weighted(self, flat: Tensor, index: Tensor) -> Tensor:
        values = flat.index_select(0, index.flatten())
        if self.weight is None:
            return values
        values = values.unflatten(0, index.shape)
        weight = self.weight.view(*self.weight.shape, *(1,) * (values.ndim - 2))
        # A corner without weight must not leak a non-finite value: 0 * inf is NaN.
        return torch.where(weight > 0, values * weight, 0).sum(dim=1)
