"""POTO: prediction-aware one-to-one assignment (Wang et al., "End-to-End Object Detection with Fully Convolutional
Network", CVPR 2021).

Every box gets one location: of those that center sampling allows, the one whose prediction fits it best by

    Q = p(class)^(1 - alpha) * IoU^alpha

A detector trained so gives one detection per object and is evaluated without NMS.

Departures from the authors' code, each deliberate:
* they maximise the sum of Q over all boxes with the Hungarian algorithm on the CPU. Here each box takes its best
  location, a contested one goes to the highest Q, and who loses tries again on what is left, a few times over: three
  rounds reach 98 % of the largest sum or more among 30 random boxes in 256 x 256 px. The authors report the same AP
  for a single such round (their ``argmax`` variant, which leaves the losers without a location);
* they give a box without any allowed location an arbitrary one, even far outside of it, where no distance to its
  sides can be learnt. Here it gets none;
* equal Q (no overlap yet, at the very start) go to the location nearest to the box's centre, not to the first one.
"""

from __future__ import annotations

import torch
from torch import Tensor

from assigners.contract import Assigner, Assignment, Declares, HeadInfo, Needs, Predictions, Samples, Step, Targets
from assigners.grid import Grid
from assigners.ops.segments import at, marked
from assigners.parts.bounds import above_zero, at_least, within
from assigners.parts.candidates import centers, near_center
from assigners.parts.conflicts import box_rank, one_box_each
from assigners.parts.negatives import negatives_outside_ignore as negatives
from assigners.parts.prediction_fit import score_and_overlap


class POTO(Assigner):
    """POTO (registry name ``poto``).

    Args:
        alpha: weight of the overlap against the class score, the paper's alpha, 0 to 1.
        radius: half side of the sampling square in strides.
        rounds: how often a box that lost its location to another box tries again, the first time included.
        nms: evaluate with the protocol's NMS. The paper's detector does without.
    """

    needs = Needs(predictions=True)

    def __init__(
        self, head: HeadInfo, *, alpha: float = 0.8, radius: float = 1.5, rounds: int = 3, nms: bool = True
    ) -> None:
        super().__init__()
        within("[0, 1]", alpha=alpha)
        above_zero(radius=radius)
        at_least(1, rounds=rounds)
        self.alpha, self.radius, self.rounds = alpha, radius, rounds
        self.declares = Declares(nms=nms)

    def forward(self, grid: Grid, targets: Targets, predictions: Predictions | None, step: Step) -> Assignment:
        """Match boxes and locations by the detector's predictions."""
        predictions = self.required(grid, predictions)
        boxes = targets.boxes
        location, ok = near_center(grid, boxes, self.radius)
        offset = at(grid.points, location) - centers(boxes)[:, None]
        gt = targets.index
        # Of a window of 80 cells few lie in the box: let the others read one and the same place, which is cheap.
        cell = torch.where(ok, grid.cell(targets.image[:, None], location), 0)
        score, overlap = score_and_overlap(targets, predictions, gt[:, None], cell)
        quality = (score.pow(1 - self.alpha) * overlap.pow(self.alpha)).float()
        cells = targets.num_images * grid.num_locations
        chosen, found = match(quality, offset.square().sum(dim=-1), ok, cell, box_rank(targets), cells, self.rounds)
        location = location.gather(1, chosen[:, None]).squeeze(1)
        return Assignment(Samples.at_locations(grid, location, gt, found), negatives(grid, targets))


def match(
    quality: Tensor, distance: Tensor, ok: Tensor, cell: Tensor, rank: Tensor, num_cells: int, rounds: int
) -> tuple[Tensor, Tensor]:
    """One candidate for each box and at most one box for each cell.

    Args:
        quality: ``[G, K]`` >= 0 of each box's candidates; equal ones go by distance, then by position.
        distance: ``[G, K]`` of the candidate from the box's centre.
        ok: ``[G, K]`` bool, the candidate exists.
        cell: ``[G, K]`` cell of the batch, below `num_cells`.
        rank: ``[G]`` who gets a cell that several boxes want alike.
        rounds: after each, boxes without a cell look among those that are left.

    Returns:
        Position ``[G]`` among the candidates, and whether the box has one ``[G]``.
    """
    chosen = torch.zeros_like(rank)
    found = torch.zeros_like(rank, dtype=torch.bool)
    free = ok
    for _ in range(rounds):
        best = torch.where(free, quality, -1).amax(dim=1, keepdim=True)
        nearest = torch.where(free & (quality == best), distance, torch.inf).argmin(dim=1, keepdim=True)
        wanted = cell.gather(1, nearest).squeeze(1)
        asks = free.any(dim=1) & ~found
        won = one_box_each(wanted, -best.squeeze(1), rank, asks, num_cells)
        chosen = torch.where(won, nearest.squeeze(1), chosen)
        found = found | won
        # A box keeps what it won: it asks no more, so that its cell may leave its own list too.
        free = free & ~at(marked(wanted, won, num_cells), cell)
    return chosen, found
