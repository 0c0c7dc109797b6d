"""LLA: loss-aware label assignment (Ge et al., "LLA: Loss-aware Label Assignment for Dense Pedestrian Detection",
Neurocomputing 462, 2021).

Each box takes the `topk` locations inside it where the detector would lose least: the focal loss for the box's class
plus `iou_weight` times -ln IoU of the predicted box. A location that several boxes take goes to the one that it costs
least. No prior of place or scale, no number that depends on the predictions: against SimOTA and OTA it is the control.

Departures from the authors' code, each deliberate:
* locations outside a box never learn it (the authors: they cost 1e3 more, so that a box of fewer than `topk` locations
  fills up outside, where the head cannot regress it);
* a contested location goes to the cheapest of the boxes that take it. The authors give it to the cheapest box of the
  image, which may have refused it and then has more than `topk`;
* the losses, IoU branch included, are the protocol's.
"""

from __future__ import annotations

import torch
from torch import Tensor

from assigners.contract import Assigner, Assignment, HeadInfo, Needs, Predictions, Samples, Step, Targets
from assigners.grid import Grid
from assigners.ops.segments import at, smallest, take
from assigners.parts.bounds import at_least
from assigners.parts.candidates import inside_pairs
from assigners.parts.class_cost import background_and_own, focal_negative, focal_positive
from assigners.parts.dynamic_k import finite, settle
from assigners.parts.negatives import negatives_outside_ignore as negatives
from assigners.parts.prediction_fit import predicted_overlap

LEAST_IOU = torch.finfo(torch.float32).eps  # bounds -ln IoU (the authors' code)


class LLA(Assigner):
    """LLA (registry name ``lla``).

    Args:
        topk: locations per box, the paper's K.
        iou_weight: of -ln IoU, the paper's lambda.
    """

    needs = Needs(predictions=True)

    def __init__(self, head: HeadInfo, *, topk: int = 10, iou_weight: float = 1.5) -> None:
        super().__init__()
        at_least(1, topk=topk)
        at_least(0, iou_weight=iou_weight)
        self.topk, self.iou_weight = topk, iou_weight

    def forward(self, grid: Grid, targets: Targets, predictions: Predictions | None, step: Step) -> Assignment:
        """Assign by the detector's losses at its candidates."""
        predictions = self.required(grid, predictions)
        pairs = inside_pairs(grid, targets)
        cost = self._cost(targets, predictions, pairs.gt, pairs.cell)
        index, found = smallest(cost, pairs.gt, targets.num_boxes, self.topk)  # [G, topk], ties by location
        location = take(pairs.location, index)
        keep = settle(take(cost, index), location, found, self.topk, grid, targets)
        return Assignment(Samples.at_locations(grid, location, targets.index[:, None], keep), negatives(grid, targets))

    def _cost(self, targets: Targets, predictions: Predictions, gt: Tensor, cell: Tensor) -> Tensor:
        """What the detector would lose at cells ``[P]`` as positives of boxes ``[P]``: ``[P]``, finite."""
        background, own = background_and_own(predictions.logits, cell, at(targets.labels, gt), focal_negative)
        iou = predicted_overlap(targets, predictions, gt, cell)
        positive = focal_positive(own) - focal_negative(own)
        return finite(background + positive - self.iou_weight * iou.clamp(min=LEAST_IOU).log())
