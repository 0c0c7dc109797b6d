"""Points inside boxes, on every level: the lattice that L_IQ is taken over and the draws that become samples.

Shape letters: N boxes, L levels, P points per box and level.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from assigners.contract import Step, Targets
from assigners.grid import Grid, inside_range
from assigners.ops import noise

LevelGate = Literal["contains_grid", "contains_cell", "none", "fcos_range"]
DRAW_STREAM, PHASE_STREAM, TIE_STREAM, RESAMPLE_STREAM = 1, 2, 3, 4  # independent uses of the noise


@dataclass(frozen=True)
class BoxPoints:
    """Points of every box on every level.

    Attributes:
        uv: ``[N, L, P, 2]`` map coordinates on the point's level.
        d: ``[N, L, P, 2]`` offset from the box centre in half sides.
        ok: ``[N, L, P]`` the point exists.
        location: ``[N, L, P]`` flat index within the image where every point lies on the grid, else None.
    """

    uv: Tensor
    d: Tensor
    ok: Tensor
    location: Tensor | None = None

    @property
    def level(self) -> Tensor:
        """``[N, L, P]`` int64."""
        levels = torch.arange(self.ok.shape[1], device=self.ok.device)
        return levels[:, None].expand(self.ok.shape)

    def gather(self, index: Tensor, ok: Tensor) -> tuple[Tensor, Tensor, Tensor | None, Tensor]:
        """Level ``[N, K]``, uv ``[N, K, 2]``, location and existence of the points at ``[N, K]`` indices into L * P."""
        uv = self.uv.flatten(1, 2).gather(1, index.unsqueeze(-1).expand(*index.shape, 2))
        location = None if self.location is None else self.location.flatten(1).gather(1, index)
        return self.level.flatten(1).gather(1, index), uv, location, ok & self.ok.flatten(1).gather(1, index)


def box_noise(step: Step, stream: int, targets: Targets, *shape: int) -> Tensor:
    """Uniform float64 ``[N, *shape]``, a function of the run, the image, the box and the position alone."""
    device = targets.boxes.device
    last = len(shape)
    axes = [
        torch.arange(n, device=device).view(*(1,) * (i + 1), n, *(1,) * (last - i - 1)) for i, n in enumerate(shape)
    ]
    lead = (-1, *(1,) * last)
    return noise.uniform(
        step.seed, step.index, stream, targets.image_id[targets.image].view(lead), targets.slot.view(lead), *axes
    )


def at_offsets(grid: Grid, targets: Targets, d: Tensor) -> BoxPoints:
    """Points at offsets ``[N, L, P, 2]`` in half sides, strictly inside (-1, 1)."""
    low, high = targets.boxes[:, None, None, :2], targets.boxes[:, None, None, 2:]
    xy = (low + high) / 2 + d * (high - low) / 2
    # Far from the origin float32 may round a draw next to a side onto it.
    xy = torch.maximum(torch.minimum(xy, torch.nextafter(high, low)), torch.nextafter(low, high))
    uv = xy / grid.level_stride[:, None, None] - grid.offset
    # Within half a cell of the map's border there is nothing to interpolate with: the border cell stands in, and is
    # decoded from where it is.
    uv = torch.minimum(uv.clamp(min=0), (grid.level_size[:, None] - 1).to(uv.dtype))
    return BoxPoints(uv, d, torch.ones_like(d[..., 0], dtype=torch.bool))


def quantise(grid: Grid, targets: Targets, points: BoxPoints) -> BoxPoints:
    """Each point moved to the nearest grid point of its level (A22); those that leave their box cease to exist.

    Several points of a box may meet in one cell: the multiplicity is part of the sample.
    """
    uv = torch.minimum((points.uv + 0.5).floor(), (grid.level_size[:, None] - 1).to(points.uv.dtype))
    xy = (uv + grid.offset) * grid.level_stride[:, None, None]
    inside = ((xy > targets.boxes[:, None, None, :2]) & (xy < targets.boxes[:, None, None, 2:])).all(dim=-1)
    d = offset_in_half_sides(xy, targets.boxes[:, None, None])
    return BoxPoints(uv, d, points.ok & inside, _locations(grid, uv))


def lattice(grid: Grid, targets: Targets, side: int, step: Step) -> BoxPoints:
    """The grid points strictly inside each box, thinned to at most ``side * side`` per level.

    Where a box holds more columns (rows) than `side`, a regular subset with a random phase stands for them, so that
    every point is equally likely and the shape stays fixed.
    """
    first, last = inside_range(grid, targets.boxes)
    size = (last - first)[:, :, None]  # [N, L, 1, 2] (columns, rows)
    tick = torch.arange(side, device=size.device)[:, None]  # [side, 1]
    phase = box_noise(step, PHASE_STREAM, targets, grid.num_levels, 1, 2)
    thinned = ((tick + phase) * size / side).floor().long()
    position = first[:, :, None] + torch.where(size > side, torch.minimum(thinned, size - 1), tick)  # [N, L, side, 2]
    exists = tick < size
    column, row = position[..., 0], position[..., 1]
    shape = (*column.shape, side)  # rows x columns
    uv = torch.stack((column[:, :, None, :].expand(shape), row[:, :, :, None].expand(shape)), dim=-1)
    ok = exists[..., 0][:, :, None, :] & exists[..., 1][:, :, :, None]
    uv = torch.where(ok.unsqueeze(-1), uv, 0).flatten(2, 3).to(grid.points.dtype)
    xy = (uv + grid.offset) * grid.level_stride[:, None, None]
    d = offset_in_half_sides(xy, targets.boxes[:, None, None])
    return BoxPoints(uv, d, ok.flatten(2), _locations(grid, uv))


def _locations(grid: Grid, uv: Tensor) -> Tensor:
    """Flat locations ``[N, L, P]`` of whole map coordinates ``[N, L, P, 2]``."""
    return grid.location(torch.arange(grid.num_levels, device=uv.device)[:, None], uv)


def offset_in_half_sides(xy: Tensor, boxes: Tensor) -> Tensor:
    """``d = (p - c) / (size / 2)``: [-1, 1]^2 inside the box (A1)."""
    return (xy - (boxes[..., :2] + boxes[..., 2:]) / 2) / ((boxes[..., 2:] - boxes[..., :2]) / 2)


def usable_levels(grid: Grid, targets: Targets, gate: LevelGate) -> Tensor:
    """The levels ``[N, L]`` on which a box may have samples; at least one, P3 where no level qualifies.

    ``contains_cell``: the box holds 2 x 2 grid points of the level, so that some place inside is interpolated from the
    inside alone; on coarser levels neighbouring objects share the cells that their samples read. Where no level
    does, as ``contains_grid``: it holds one. Elsewhere L_IQ has no target: an unsupervised Q could win the selection.
    ``fcos_range``: half the longer side lies in the level's FCOS range. ``none``: all levels, the letter of the paper.
    """
    boxes = targets.boxes
    if gate == "none":
        return torch.ones(boxes.shape[0], grid.num_levels, dtype=torch.bool, device=boxes.device)
    if gate in ("contains_grid", "contains_cell"):
        first, last = inside_range(grid, boxes)
        held = (last - first).amin(dim=-1)  # [N, L] grid points along the shorter side
        usable = held >= 1
        if gate == "contains_cell":
            cell = held >= 2
            usable &= cell | ~cell.any(dim=1, keepdim=True)
    else:
        reach = (boxes[:, None, 2:] - boxes[:, None, :2]).amax(dim=-1) / 2
        high = grid.level_stride * 8  # 64, 128, 256, 512 and open
        index = torch.arange(grid.num_levels, device=boxes.device)
        usable = ((reach > high / 2) | (index == 0)) & ((reach <= high) | (index == grid.num_levels - 1))
        # A narrow box at the border may lie beyond the level's last locations: a draw could only be read outside it.
        ends = grid.offset, grid.level_size - 1 + grid.offset
        first, last = (end * grid.level_stride[:, None] for end in ends)
        usable &= ((boxes[:, None, :2] < last) & (boxes[:, None, 2:] > first)).all(dim=-1)
    none = ~usable.any(dim=1, keepdim=True)
    return usable | (none & (torch.arange(grid.num_levels, device=boxes.device) == 0))


def select_top(score: Tensor, ok: Tensor, priority: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The `count` largest scores of each row, ties going to the larger random priority.

    Without the priority equal scores (an untrained encoder) would always favour the first level.

    Args:
        score, ok, priority: ``[N, P]``.

    Returns:
        index ``[N, min(count, P)]`` and whether each chosen point exists.
    """
    shuffled = torch.sort(priority, dim=1, descending=True).indices
    masked = torch.where(ok, score, -torch.inf).gather(1, shuffled)
    order = torch.sort(masked, dim=1, descending=True, stable=True).indices[:, :count]
    index = shuffled.gather(1, order)
    return index, ok.gather(1, index)
