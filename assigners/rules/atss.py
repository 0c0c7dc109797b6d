"""ATSS: adaptive training sample selection (Zhang et al., "Bridging the Gap Between Anchor-based and Anchor-free
Detection via Adaptive Training Sample Selection", CVPR 2020, algorithm 1).

Of each box's nearest locations per level, those are positive whose anchor overlaps the box by more than the mean
plus the standard deviation over all its candidates. The anchor, one square of 8 strides per location, is private
to this rule: the head regresses from points.
"""

from __future__ import annotations

import torch
from torch import Tensor

from assigners.contract import Assigner, Assignment, HeadInfo, Predictions, Samples, Step, Targets
from assigners.grid import Grid
from assigners.ops.boxes import ltrb
from assigners.ops.segments import at
from assigners.parts.bounds import at_least
from assigners.parts.candidates import anchor_overlap, centers, window_nearest
from assigners.parts.conflicts import box_rank, one_box_each
from assigners.parts.negatives import negatives_outside_ignore as negatives

INSIDE = 0.01  # px; a positive's point lies at least this far inside its box (the authors' code)


class ATSS(Assigner):
    """ATSS (registry name ``atss``).

    Args:
        topk: candidates per box and level, the paper's k.
        fallback_max: give a box whose candidates all miss the threshold the best of those inside it. The paper
            leaves such a box without positives.
    """

    def __init__(self, head: HeadInfo, *, topk: int = 9, fallback_max: bool = False) -> None:
        super().__init__()
        at_least(1, topk=topk)
        self.topk = topk
        self.fallback_max = fallback_max

    def forward(self, grid: Grid, targets: Targets, predictions: Predictions | None, step: Step) -> Assignment:
        """Assign by geometry alone; `predictions` are not read."""
        location, ok = nearest(grid, targets.boxes, self.topk)
        iou = anchor_overlap(grid, location, targets.boxes[:, None])
        return above_the_spread(grid, targets, location, ok, iou, self.fallback_max)


def nearest(grid: Grid, boxes: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The `count` locations of each level nearest to each box's centre, and whether they exist: ``[G, L * count]``."""
    window = window_nearest(grid, boxes, count)
    # The points of a window by arithmetic: several times cheaper than reading them from the grid.
    x, y = centers(boxes)[:, None, None].unbind(-1)
    x = (window.column + grid.offset) * grid.level_stride[:, None] - x
    y = (window.row + grid.offset) * grid.level_stride[:, None] - y
    distance = torch.where(window.ok, x.square() + y.square(), torch.inf)
    # Equidistant cells are the rule, not the exception: a stable sort gives them to the smaller location index.
    order = torch.sort(distance, dim=-1, stable=True).indices[..., :count]
    return window.location.gather(-1, order).flatten(1), window.ok.gather(-1, order).flatten(1)


def above_the_spread(
    grid: Grid, targets: Targets, location: Tensor, ok: Tensor, fit: Tensor, fallback_max: bool
) -> Assignment:
    """Positives: candidates inside their box that fit it by at least the mean plus the deviation over all of its own.

    Args:
        location: ``[G, K]`` candidates; those with `ok` ``[G, K]`` exist.
        fit: ``[G, K]`` >= 0, how well each fits its box; a location that several boxes claim goes to the largest.
        fallback_max: the best candidate inside the box stands in where none passes.
    """
    count = ok.sum(dim=1, keepdim=True)
    mean = torch.where(ok, fit, 0).sum(dim=1, keepdim=True) / count.clamp(min=1)
    variance = torch.where(ok, fit - mean, 0).square().sum(dim=1, keepdim=True) / (count - 1).clamp(min=1)
    inside = ok & (ltrb(at(grid.points, location), targets.boxes[:, None]).amin(dim=-1) > INSIDE)
    positive = inside & (fit >= mean + variance.sqrt())
    if fallback_max:
        best = torch.where(inside, fit, -1.0).argmax(dim=1, keepdim=True)
        first = torch.zeros_like(inside).scatter_(1, best, True) & inside
        positive = torch.where(positive.any(dim=1, keepdim=True), positive, first)

    cell, cells = grid.cell(targets.image[:, None], location), targets.num_images * grid.num_locations
    keep = one_box_each(cell, -fit, box_rank(targets)[:, None], positive, cells)
    return Assignment(Samples.at_locations(grid, location, targets.index[:, None], keep), negatives(grid, targets))
