"""PAA: probabilistic anchor assignment (Kim and Lee, "Probabilistic Anchor Assignment with IoU Prediction for Object
Detection", ECCV 2020).

The candidates of a box are the locations whose anchor overlaps it most, the best few of each level by the
detector's own loss there; a mixture of two Gaussians over these losses splits them into positives and negatives.

Departures from the authors' code, each deliberate:
* the anchor, one square of 8 strides per location, is private to this rule and the head regresses from points, so a
  location must lie inside its box;
* a location that is the best a box can get is that box's, even where another box overlaps its anchor more (the
  authors' matcher hands it to the other box, which leaves small boxes inside large ones without candidates);
* boxes are continuous, without the authors' +1 px.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from assigners.contract import Assigner, Assignment, Declares, HeadInfo, Needs, Predictions, Samples, Step, Targets
from assigners.grid import Grid
from assigners.ops.boxes import giou_loss
from assigners.ops.host_shortcuts import worth_keeping
from assigners.ops.segments import at, smallest, take
from assigners.parts.bounds import at_least, within
from assigners.parts.candidates import anchor_overlap, inside_pairs
from assigners.parts.class_cost import block_rows, focal_positive
from assigners.parts.conflicts import box_rank, one_box_each
from assigners.parts.gaussian_split import split
from assigners.parts.negatives import negatives_outside_ignore as negatives

ALPHA, GAMMA = 0.25, 2.0  # of the focal loss within the score
WORST = 1e4  # a score beyond it, or none at all (a diverging detector), counts as this: EM needs finite numbers


class PAA(Assigner):
    """PAA (registry name ``paa``).

    Args:
        topk: candidates per box and level, the paper's K.
        iou: smallest overlap of an anchor with its box, but for the best ones of each box.
        score_voting: at inference, replace each detection's box by the mean of its neighbours, weighted by score and
            overlap. An extra of the authors, besides assignment.
    """

    needs = Needs(predictions=True)

    def __init__(self, head: HeadInfo, *, topk: int = 9, iou: float = 0.1, score_voting: bool = False) -> None:
        super().__init__()
        at_least(1, topk=topk)
        within("[0, 1]", iou=iou)
        self.topk, self.iou = topk, iou
        self.declares = Declares(score_voting=score_voting)

    def forward(self, grid: Grid, targets: Targets, predictions: Predictions | None, step: Step) -> Assignment:
        """Assign by the detector's losses at its candidates."""
        predictions = self.required(grid, predictions)
        gt, cell, ok = self._first_stage(grid, targets)
        score = anchor_score(targets, predictions, gt, cell)
        location, score, ok = self._candidates(grid, targets, gt, cell, score, ok)
        positive = split(score, ok)
        samples = Samples.at_locations(grid, location, targets.index[:, None], positive)
        return Assignment(samples, negatives(grid, targets))

    def _first_stage(self, grid: Grid, targets: Targets) -> tuple[Tensor, Tensor, Tensor]:
        """The box of each location, by overlap of its anchor: box, cell of the batch (image * R + location) and
        existence, each ``[P]``, at most one existing row per cell; rows of a (box, level) in the order of cells."""
        pairs = inside_pairs(grid, targets)
        gt, cell = pairs.gt, pairs.cell
        iou = anchor_overlap(grid, pairs.location, at(targets.boxes, gt))
        best = iou.new_zeros(targets.num_boxes).scatter_reduce(0, gt, iou, reduce="amax")
        # Ties are the rule: all anchors that hold a small box overlap it alike.
        claimed = (iou == at(best, gt)) & (iou > 0)
        cells = targets.num_images * grid.num_locations
        key = -(iou.double() + 2 * claimed)  # a claim beats any overlap
        owner = one_box_each(cell, key, at(box_rank(targets), gt), claimed | (iou >= self.iou), cells)
        kept = worth_keeping(owner)
        gt, cell, owner = gt[kept], cell[kept], owner[kept]
        if gt.shape[0] <= cells:
            return gt, cell, owner
        # Boxes cover the map several times over: from here on one row per cell is less work.
        box_of = torch.full((cells,), -1, device=gt.device).scatter_reduce(0, cell, torch.where(owner, gt, -1), "amax")
        return box_of.clamp(min=0), torch.arange(cells, device=gt.device), box_of >= 0

    def _candidates(
        self, grid: Grid, targets: Targets, gt: Tensor, cell: Tensor, score: Tensor, ok: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The `topk` smallest scores of each box and level: location, score and existence, each ``[G, L * topk]``."""
        groups = targets.num_boxes * grid.num_levels
        location = cell % grid.num_locations
        index, found = smallest(score, gt * grid.num_levels + at(grid.level, location), groups, self.topk, ok=ok)
        per_box = (targets.num_boxes, grid.num_levels * self.topk)
        return take(location, index).view(per_box), take(score, index).view(per_box), found.view(per_box)


def anchor_score(targets: Targets, predictions: Predictions, gt: Tensor, cell: Tensor) -> Tensor:
    """The detector's loss at locations as if they were positives, without loss weights, ``[P]`` in [0, WORST].

    Args:
        gt, cell: ``[P]`` box and cell of the batch.
    """
    logits = predictions.logits.float().flatten(0, 1)
    channel = at(targets.labels, gt)
    own = at(logits.flatten(), cell * logits.shape[1] + channel)
    rows = block_rows(logits)
    blocks = zip(cell.split(rows), channel[:, None].split(rows), strict=True)
    others = [_others(at(logits, place), own_channel) for place, own_channel in blocks]
    background = (1 - ALPHA) * torch.cat(others)
    overlap = giou_loss(at(predictions.boxes.float().flatten(0, 1), cell), at(targets.boxes, gt))
    return torch.nan_to_num(background + focal_positive(own, ALPHA, GAMMA) + overlap, nan=WORST).clamp(0, WORST)


def _others(logits: Tensor, channel: Tensor) -> Tensor:
    """Focal loss of the classes other than the own one as negatives, not weighted ``[n]``."""
    entropy = F.softplus(logits)
    return logits.sigmoid().pow_(GAMMA).mul_(entropy).scatter_(1, channel, 0).sum(dim=1)
