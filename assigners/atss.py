"""ATSS: adaptive training sample selection (Zhang et al., "Bridging the Gap Between Anchor-based and Anchor-free
Detection via Adaptive Training Sample Selection", CVPR 2020, algorithm 1).

Of each box's nearest locations per level, those are positive whose anchor overlaps the box by more than the mean
plus the standard deviation over all its candidates. The anchor, one square of 8 strides per location, is private
to this rule: the head regresses from points.
"""

from __future__ import annotations

import torch

from assigners.candidates import centers, window_nearest
from assigners.conflicts import box_rank, one_box_each
from assigners.contract import Assigner, Assignment, Grid, HeadInfo, Predictions, Samples, Step, Targets
from assigners.contract import negatives_outside_ignore as negatives
from assigners.geometry import aligned_iou, ltrb, square_anchors

INSIDE = 0.01  # px; a positive's point lies at least this far inside its box (the authors' code)


class ATSS(Assigner):
    """ATSS (registry name ``atss``).

    Args:
        head: of the detector.
        topk: candidates per box and level, the paper's k.
        fallback_max: give a box whose candidates all miss the threshold the best of those inside it. The paper
            leaves such a box without positives.

    Raises:
        ValueError: for a `topk` below 1.
    """

    def __init__(self, head: HeadInfo, *, topk: int = 9, fallback_max: bool = False) -> None:
        super().__init__()
        if topk < 1:
            raise ValueError(f"topk is {topk}; it must be >= 1")
        self.topk = topk
        self.fallback_max = fallback_max

    def forward(self, grid: Grid, targets: Targets, predictions: Predictions | None, step: Step) -> Assignment:
        """Assign by geometry alone; `predictions` are not read."""
        boxes = targets.boxes
        window = window_nearest(grid, boxes, self.topk)
        offset = grid.points[window.location] - centers(boxes)[:, None, None]
        distance = torch.where(window.ok, offset.square().sum(dim=-1), torch.inf)
        # Equidistant cells are the rule, not the exception: a stable sort gives them to the smaller location index.
        nearest = torch.sort(distance, dim=-1, stable=True).indices[..., : self.topk]
        location = window.location.gather(-1, nearest).flatten(1)  # [G, K]
        ok = window.ok.gather(-1, nearest).flatten(1)

        points = grid.points[location]
        iou = aligned_iou(square_anchors(points, grid.stride[location]), boxes[:, None])
        count = ok.sum(dim=1, keepdim=True)
        mean = torch.where(ok, iou, 0).sum(dim=1, keepdim=True) / count.clamp(min=1)
        variance = torch.where(ok, iou - mean, 0).square().sum(dim=1, keepdim=True) / (count - 1).clamp(min=1)
        inside = ok & (ltrb(points, boxes[:, None]).amin(dim=-1) > INSIDE)
        positive = inside & (iou >= mean + variance.sqrt())
        if self.fallback_max:
            best = torch.where(inside, iou, -1.0).argmax(dim=1, keepdim=True)
            first = torch.zeros_like(inside).scatter_(1, best, True) & inside
            positive = torch.where(positive.any(dim=1, keepdim=True), positive, first)

        gt = torch.arange(targets.num_boxes, device=boxes.device)[:, None].expand_as(location).flatten()
        cell = targets.image[gt] * grid.num_locations + location.flatten()
        keep = one_box_each(
            cell, -iou.flatten(), box_rank(targets)[gt], positive.flatten(), targets.num_images * grid.num_locations
        )
        return Assignment(Samples.at_locations(grid, location.flatten(), gt, keep), negatives(grid, targets))
