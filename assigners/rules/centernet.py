"""CenterNet: one positive per box and level, its centre, in a Gaussian of weakened negatives (Zhou et al., "Objects as
Points", arXiv 2019; over a feature pyramid as in Zhou et al., "Probabilistic two-stage detection", arXiv 2021, the
CenterNet* of its section 4).

The cell that holds a box's centre is positive on the levels of the box's size. Around it the box draws the Gaussian
Y = exp(-d² / r²) on every level, also where it has no positive; a location is a negative of the box's own class with
the weight (1 - Y)^beta, with the largest Y among boxes of that class, and of every other class with weight 1 (Objects
as Points, equation 1). The box is regressed from the 3 x 3 cells around the centre; of several boxes a location
regresses the one whose centre is nearest in radii r.

The Gaussian is written as samples: rows that are not positive, have the label 0 and that weight, and speak in place of
the grid in the box's own class. Boxes of different classes may so share a location, as channels of a heatmap do.

Departures from the authors' code, each deliberate:
* positives, regression and Gaussian stay strictly inside the box. A square box's Gaussian ends there by itself; a flat
  one's would reach beyond, where there is only background. A box that does not hold its centre cell's point has no
  positive;
* boxes of one class with one centre cell count once (the authors': as often as there are boxes);
* where a location learns the class it is no negative of it (the authors' adds the weakened negative besides);
* the auxiliary branch, which CenterNet does not have, learns at the positives alone.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from assigners.contract import Assigner, Assignment, HeadInfo, Predictions, Samples, Step, Targets
from assigners.grid import Grid
from assigners.ops.segments import at, consecutive
from assigners.parts.bounds import above_zero, at_least, within
from assigners.parts.candidates import centers, inside_pairs
from assigners.parts.conflicts import box_rank, one_box_each
from assigners.parts.negatives import negatives_outside_ignore as negatives

SMALLEST, LARGEST = 4.0, 10.0  # half diagonal of a level's boxes in strides: 64 to 160 px on P4; neighbours overlap
FAINTEST = 1e-4  # Gaussians below count as 0


class CenterNet(Assigner):
    """CenterNet over a feature pyramid (registry name ``centernet``).

    Args:
        beta: how much the Gaussian weakens negatives, the paper's beta; 0 for negatives of weight 1.
        min_overlap: IoU that a box shifted by the radius keeps about with itself; r² is 2 (1 - o)² / (1 + o)² areas.
        min_radius: least r in pixels, above 0.
    """

    def __init__(self, head: HeadInfo, *, beta: float = 4.0, min_overlap: float = 0.8, min_radius: float = 4.0) -> None:
        super().__init__()
        at_least(0, beta=beta)
        within("[0, 1)", min_overlap=min_overlap)
        above_zero(min_radius=min_radius)
        self.num_classes, self.beta, self.min_radius = head.num_classes, beta, min_radius
        self.delta = (1 - min_overlap) / (1 + min_overlap)
        low, high = ([ends * stride for stride in head.strides] for ends in (SMALLEST, LARGEST))
        self.low = nn.Buffer(torch.tensor([0.0, *low[1:]]), persistent=False)
        self.high = nn.Buffer(torch.tensor([*high[:-1], torch.inf]), persistent=False)

    def forward(self, grid: Grid, targets: Targets, predictions: Predictions | None, step: Step) -> Assignment:
        """Assign by geometry alone; `predictions` are not read."""
        pairs = inside_pairs(grid, targets)
        gt, location = pairs.gt, pairs.location
        distance = self._distance(grid, targets, gt, location)
        steps = self._steps_from_center(grid, targets, gt, location)
        center, near = steps == 0, steps <= 1

        heat = torch.exp(-distance)
        rank = at(box_rank(targets), gt)
        learns = one_box_each(pairs.cell, distance, rank, near, targets.num_images * grid.num_locations)
        # One row speaks for each class of a location: a centre, or else the brightest Gaussian.
        channel = consecutive(pairs.cell * self.num_classes + at(targets.labels, gt))
        key = torch.where(center, -1.0, distance)
        speaks = one_box_each(channel, key, rank, near | (heat >= FAINTEST), channel.shape[0])
        positive = speaks & center
        weight = torch.where(positive, 1.0, (1 - heat) ** self.beta)

        level, uv = grid.map_coordinates(location)
        samples = Samples(
            gt=gt, level=level, uv=uv, ok=speaks | learns, positive=positive, label=positive.to(uv.dtype),
            class_weight=torch.where(speaks, weight, 0), box_weight=learns.to(uv.dtype),
            quality_weight=positive.to(uv.dtype), location=location,
        )  # fmt: skip
        return Assignment(samples, negatives(grid, targets))

    def _distance(self, grid: Grid, targets: Targets, gt: Tensor, location: Tensor) -> Tensor:
        """Squared distance of each pair from the box centre in squared radii, ``[P]``."""
        area = (targets.boxes[:, 2:] - targets.boxes[:, :2]).prod(dim=1)
        radius2 = (2 * self.delta**2 * area).clamp(min=self.min_radius**2)
        return (at(grid.points, location) - at(centers(targets.boxes), gt)).square().sum(dim=1) / at(radius2, gt)

    def _steps_from_center(self, grid: Grid, targets: Targets, gt: Tensor, location: Tensor) -> Tensor:
        """Cells from the one that holds the box centre, the farther axis, ``[P]``; infinite off the box's levels."""
        half_diagonal = (targets.boxes[:, 2:] - targets.boxes[:, :2]).square().sum(dim=1, keepdim=True).sqrt() / 2
        in_scale = (half_diagonal >= self.low) & (half_diagonal <= self.high)  # [G, L]
        center = (centers(targets.boxes)[:, None] / grid.level_stride[:, None] - grid.offset + 0.5).floor()
        center = torch.where(
            in_scale[..., None], grid.pixels(torch.arange(grid.num_levels, device=gt.device), center), torch.inf
        )
        row = gt * grid.num_levels + at(grid.level, location)
        away = (at(grid.points, location) - at(center.flatten(0, 1), row)).abs().amax(dim=1)
        return away / at(grid.stride, location)
