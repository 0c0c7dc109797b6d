"""OTA: optimal transport assignment (Ge et al., "OTA: Optimal Transport Assignment for Object Detection", CVPR 2021).

The boxes of an image supply positive labels, its background negative ones, and every location takes one label. A box
supplies as many as the overlaps of its best predictions add up to (dynamic k estimation). What a label costs is the
detector's own loss there; Sinkhorn's iteration (algorithm 1) finds the plan of least total cost:

    cost(box, location)        = focal loss for the box's class + alpha * -ln IoU, infinite beyond the box's centre
    cost(background, location) = focal loss for no class

A plan spreads a box's labels over candidates that cost about the same, so thinly that the background would win them
all. As in the authors' code each supplier's row is divided by its largest entry first: each box then has its best
candidate, unless another box has it, and the number of its positives is not its supply.

Departures from the authors' code, each deliberate:
* locations beyond a box's candidates never learn it (the authors: they cost 1e6 more, so that a box without any
  candidate takes what it can get outside, where the head cannot regress it);
* the background supplies one label at least, also where the boxes outnumber the locations (the authors': negative);
* a location that is equally good for two boxes goes to the smaller one (the authors': to the first in the list).

The paper's centre prior, the r² locations nearest to the centre on each level with r = 5, is in the authors' code, and
here, a square of as many cells. Their regression loss, weighted by IoU in some configurations, is the protocol's here.
"""

from __future__ import annotations

import torch
from torch import Tensor

from assigners.contract import Assigner, Assignment, HeadInfo, Needs, Predictions, Samples, Step, Targets
from assigners.grid import Grid
from assigners.ops.segments import at
from assigners.parts.bounds import above_zero, at_least
from assigners.parts.candidates import near_center
from assigners.parts.class_cost import focal_negative, focal_positive
from assigners.parts.conflicts import box_rank, one_box_each
from assigners.parts.dynamic_k import dynamic_k
from assigners.parts.negatives import negatives_outside_ignore as negatives
from assigners.parts.prediction_fit import predicted_overlap
from assigners.parts.sinkhorn import transport

LEAST_IOU = torch.finfo(torch.float32).eps  # bounds -ln IoU (the authors' code)
WORST = 1e4  # a cost beyond it, or none at all (a diverging detector), counts as this


class OTA(Assigner):
    """OTA (registry name ``ota``).

    Args:
        radius: half side of the centre square in strides; the paper's r is twice that.
        topk: overlaps that sum to a box's supply, the paper's q.
        iou_weight: of -ln IoU in the cost, the paper's alpha.
        regularisation: of the plan's entropy, in units of the cost, the paper's gamma.
        iterations: of Sinkhorn, the paper's T.
    """

    needs = Needs(predictions=True)

    def __init__(
        self,
        head: HeadInfo,
        *,
        radius: float = 2.5,
        topk: int = 20,
        iou_weight: float = 1.5,
        regularisation: float = 0.1,
        iterations: int = 50,
    ) -> None:
        super().__init__()
        above_zero(radius=radius, regularisation=regularisation)
        at_least(1, topk=topk, iterations=iterations)
        at_least(0, iou_weight=iou_weight)
        self.radius, self.topk, self.iou_weight = radius, topk, iou_weight
        self.regularisation, self.iterations = regularisation, iterations

    def forward(self, grid: Grid, targets: Targets, predictions: Predictions | None, step: Step) -> Assignment:
        """Assign by the plan of least cost."""
        predictions = self.required(grid, predictions)
        location, ok = near_center(grid, targets.boxes, self.radius)
        cell = grid.cell(targets.image[:, None], location)
        extra, iou = self._costs(targets, predictions, cell)
        plan = transport(
            -extra / self.regularisation, cell, ok, dynamic_k(iou, ok, self.topk), targets.image,
            (targets.num_images, grid.num_locations), self.iterations,
        )  # fmt: skip
        largest = plan.boxes.amax(dim=1, keepdim=True)
        # In float32: what differs by the rounding of a long sum alone is equal, whatever the order of the boxes.
        share = (plan.boxes / torch.where(largest > 0, largest, 1)).float()
        background = (plan.background / plan.background.amax(dim=1, keepdim=True)).float().flatten()
        ok, cells = ok & (share >= at(background, cell)), targets.num_images * grid.num_locations
        keep = one_box_each(cell, -share, box_rank(targets)[:, None], ok, cells)
        return Assignment(Samples.at_locations(grid, location, targets.index[:, None], keep), negatives(grid, targets))

    def _costs(self, targets: Targets, predictions: Predictions, cell: Tensor) -> tuple[Tensor, Tensor]:
        """What a candidate costs a box more than it costs the background, and its IoU, both ``[G, n]``.

        The two costs share the losses of all classes but the box's own.
        """
        own = at(predictions.logits.flatten(), cell * predictions.logits.shape[-1] + targets.labels[:, None]).float()
        iou = predicted_overlap(targets, predictions, targets.index[:, None], cell)
        extra = focal_positive(own) - focal_negative(own) - self.iou_weight * iou.clamp(min=LEAST_IOU).log()
        return extra.nan_to_num(nan=WORST).clamp(-WORST, WORST), iou
