"""Center sampling: the FCOS rule (Tian et al., "FCOS: Fully Convolutional One-Stage Object Detection", ICCV 2019).

A location learns a box if it lies inside the box and near its centre, and if the box's reach from there fits the
level. A location claimed by several boxes goes to the one of smallest area. `radius` 0 is plain FCOS.

Departures from the authors' code, each deliberate:
* the ranges are half-open, so that a reach of exactly 64 px belongs to one level (the authors': to two;
  torchvision's: to none);
* areas are compared as they are (torchvision compares ``1e8 - area`` in float32, blind to differences under 8 px²).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from assigners.contract import Assigner, Assignment, HeadInfo, Predictions, Samples, Step, Targets
from assigners.grid import Grid
from assigners.ops.boxes import ltrb
from assigners.ops.segments import at
from assigners.parts.bounds import at_least
from assigners.parts.candidates import centers, inside_pairs, window_within
from assigners.parts.conflicts import box_rank, keep_smallest
from assigners.parts.negatives import negatives_outside_ignore as negatives

FIRST_END = 64.0  # px, largest reach of the first level; each further one has twice that, the last all (FCOS sec. 3.2)


class CenterSampling(Assigner):
    """FCOS with center sampling (registry name ``center``).

    Args:
        radius: half side of the sampling square in strides, 0 for the whole box (FCOS first version).
    """

    def __init__(self, head: HeadInfo, *, radius: float = 1.5) -> None:
        super().__init__()
        at_least(0, radius=radius)
        self.radius = radius
        low = [-1.0, *(FIRST_END * 2**level for level in range(len(head.strides) - 1))]
        self.low = nn.Buffer(torch.tensor(low), persistent=False)
        self.high = nn.Buffer(torch.tensor([*low[1:], torch.inf]), persistent=False)

    def forward(self, grid: Grid, targets: Targets, predictions: Predictions | None, step: Step) -> Assignment:
        """Assign by geometry alone; `predictions` are not read."""
        gt, location, ok = self.candidates(grid, targets)
        cell = grid.cell(at(targets.image, gt), location)
        rank = at(box_rank(targets), gt)  # by area first: the smallest box wins
        ok = keep_smallest(cell, rank, ok, targets.num_images * grid.num_locations)
        return Assignment(Samples.at_locations(grid, location, gt, ok), negatives(grid, targets))

    def candidates(self, grid: Grid, targets: Targets) -> tuple[Tensor, Tensor, Tensor]:
        """Where each box may learn, other boxes aside: box, location and whether it may, each ``[K]``."""
        gt, location, ok = self._windows(grid, targets)
        points, boxes, level = at(grid.points, location), at(targets.boxes, gt), at(grid.level, location)
        distances = ltrb(points, boxes)
        reach = distances.amax(dim=-1)
        ok = ok & (distances.amin(dim=-1) > 0) & (reach > at(self.low, level)) & (reach <= at(self.high, level))
        if self.radius > 0:
            offset = (points - at(centers(targets.boxes), gt)).abs().amax(dim=-1)
            ok = ok & (offset < self.radius * at(grid.stride, location))
        return gt, location, ok

    def _windows(self, grid: Grid, targets: Targets) -> tuple[Tensor, Tensor, Tensor]:
        """Box, location and existence of all that could be candidates, each ``[K]``."""
        if self.radius == 0:
            pairs = inside_pairs(grid, targets)
            return pairs.gt, pairs.location, torch.ones_like(pairs.gt, dtype=torch.bool)
        window = window_within(grid, targets.boxes, self.radius)
        gt = targets.index[:, None, None].expand_as(window.location)
        return gt.flatten(), window.location.flatten(), window.ok.flatten()
