"""MaxIoU: thresholds on the overlap of one anchor per location (Lin et al., "Focal Loss for Dense Object Detection",
ICCV 2017, section 4.1; the matcher is that of Ren et al., "Faster R-CNN", NeurIPS 2015).

A location whose anchor overlaps a box by `pos_iou` or more is positive, one whose anchor overlaps every box by less
than `neg_iou` is negative, those between are ignored. Besides, every anchor that overlaps a box as much as any anchor
does is claimed by that box, however little that is. The anchor, one square of 8 strides per location, is private to
this rule: the head regresses from points, so a location learns only a box that it lies in, and is ignored where it lies
in none of those that ask for it.

Departures from the authors' code, each deliberate:
* one square anchor instead of nine, as in the comparison of Zhang et al. (ATSS, CVPR 2020, section 3);
* a positive lies strictly inside its box. A location outside is ignored, as in the IoU mode of the ATSS code, but
  another box that holds it may still have it;
* a location that several boxes ask for goes to the one it overlaps most, and a claim beats any other overlap (in the
  authors' it goes to the box it overlaps most, claimed or not; in mmdetection to the last one that claims it).
"""

from __future__ import annotations

from math import ceil

import torch
from torch import Tensor

from assigners.contract import Assigner, Assignment, HeadInfo, Predictions, Samples, Step, Targets
from assigners.grid import Grid, cells_covered
from assigners.ops.boxes import aligned_iou, square_anchors
from assigners.ops.segments import at, marked
from assigners.parts.candidates import cells_between, inside_pairs, map_centers, rectangle_cells, window_nearest
from assigners.parts.conflicts import box_rank, one_box_each
from assigners.parts.negatives import negatives_outside_ignore as negatives

SIDE = 8.0  # strides, of an anchor
SLACK = 1e-3  # strides; a window may be too large by rounding, never too small
LEAST_NEGATIVE = 0.1  # smaller thresholds ignore most of the map, and need windows as large as that


class MaxIoU(Assigner):
    """MaxIoU (registry name ``max_iou``).

    Args:
        pos_iou: smallest overlap of a positive, the paper's 0.5.
        neg_iou: overlap below which a location is negative, the paper's 0.4; those between are ignored.
        low_quality: let each box claim the anchors that overlap it most, below `pos_iou` too.

    Raises:
        ValueError: unless 0.1 <= `neg_iou` <= `pos_iou` <= 1.
    """

    def __init__(self, head: HeadInfo, *, pos_iou: float = 0.5, neg_iou: float = 0.4, low_quality: bool = True) -> None:
        super().__init__()
        if not LEAST_NEGATIVE <= neg_iou <= pos_iou <= 1:
            raise ValueError(
                f"neg_iou is {neg_iou} and pos_iou is {pos_iou}; needed: {LEAST_NEGATIVE} <= neg_iou <= pos_iou <= 1"
            )
        self.pos_iou, self.neg_iou, self.low_quality = pos_iou, neg_iou, low_quality

    def forward(self, grid: Grid, targets: Targets, predictions: Predictions | None, step: Step) -> Assignment:
        """Assign by geometry alone; `predictions` are not read."""
        anchors = square_anchors(grid.points, grid.stride, SIDE)
        window = window_nearest(grid, targets.boxes, 1)
        nearest = aligned_iou(at(anchors, window.location), targets.boxes[:, None, None])
        best = torch.where(window.ok, nearest, 0).amax(dim=-1)  # [G, L]: overlap falls with the distance
        most = best.amax(dim=1)

        pairs = inside_pairs(grid, targets)
        iou = aligned_iou(at(anchors, pairs.location), at(targets.boxes, pairs.gt))
        claimed = (iou == at(most, pairs.gt)) & (iou > 0) & self.low_quality
        cells = targets.num_images * grid.num_locations
        key = -(iou.double() + 2 * claimed)  # a claim beats any overlap
        keep = one_box_each(pairs.cell, key, at(box_rank(targets), pairs.gt), claimed | (iou >= self.pos_iou), cells)

        asked = self._overlapping(grid, targets, anchors)
        if self.low_quality:
            asked = asked | self._claims(grid, targets, (best == most[:, None]) & (best > 0))
        ignored = asked & ~marked(pairs.cell, keep, cells).view_as(asked)
        return Assignment(
            Samples.at_locations(grid, pairs.location, pairs.gt, keep), negatives(grid, targets).masked_fill(ignored, 0)
        )

    def _overlapping(self, grid: Grid, targets: Targets, anchors: Tensor) -> Tensor:
        """Locations that overlap a box by `neg_iou` or more, inside the box or not: ``[B, R]`` bool."""
        most = min(most_overlapping(self.neg_iou, grid.strides), grid.num_locations)
        first, last = overlapping_range(grid, targets.boxes, self.neg_iou)
        gt, location, ok = rectangle_cells(grid, first, last, most * targets.num_boxes)
        near = ok & (aligned_iou(at(anchors, location), at(targets.boxes, gt)) >= self.neg_iou)
        marks = marked(grid.cell(at(targets.image, gt), location), near, targets.num_images * grid.num_locations)
        return marks.view(targets.num_images, -1)

    def _claims(self, grid: Grid, targets: Targets, here: Tensor) -> Tensor:
        """Locations that overlap a box as much as any does, on its levels `here` ``[G, L]``: ``[B, R]`` bool.

        Where one side of a box or anchor holds the other's, the overlap is the same along it: these locations form a
        rectangle, large for a tiny or flat box.
        """
        boxes, step = targets.boxes[:, None], grid.level_stride[:, None]
        ends = torch.stack((boxes[..., :2] + SIDE / 2 * step, boxes[..., 2:] - SIDE / 2 * step))
        low, high = (ends.amin(dim=0) / step - grid.offset), (ends.amax(dim=0) / step - grid.offset)
        first, last = cells_between(grid, targets.boxes, low, high)
        last = torch.where(here[..., None], last, first)
        return cells_covered(grid, first, last, targets.image, targets.num_images) > 0


def overlapping_range(grid: Grid, boxes: Tensor, iou: float) -> tuple[Tensor, Tensor]:
    """Rectangles of cells that hold every anchor with an overlap of `iou` or more, ``[G, L, 2]`` half-open.

    ``intersection / union >= iou`` asks for an intersection of ``iou / (1 + iou)`` times both areas; divided by the
    most that one side can share it bounds what the other must share, and so how far the centres are apart.
    """
    step = grid.level_stride[:, None]
    side = (boxes[:, None, 2:] - boxes[:, None, :2]) / step  # [G, L, 2] in cells
    shared = side.clamp(max=SIDE)
    needed = iou / (1 + iou) * (side.prod(dim=-1, keepdim=True) + SIDE**2)
    reach = (side + SIDE) / 2 - needed / shared.flip(-1) + SLACK
    possible = shared.prod(dim=-1, keepdim=True) * (1 + SLACK) >= needed
    center = map_centers(grid, boxes)
    first = torch.minimum((center - reach).ceil().long().clamp(min=0), grid.level_size)
    last = torch.minimum((center + reach).floor().long() + 1, grid.level_size)
    return first, torch.where(possible, torch.maximum(last, first), first)


def most_overlapping(iou: float, strides: tuple[int, ...]) -> int:
    """At most so many cells lie in the rectangles of one box in `overlapping_range`.

    Along both axes together the rectangle spans most where the box is as high as the anchor, and as wide (or, for small
    overlaps, as wide as can be); and areas that overlap so much differ by no more than `iou`.
    """
    share = iou / (1 + iou)
    span = max(2 * SIDE * (1 - 2 * share), SIDE / 2 / share - SIDE) + 1 + 4 * SLACK * SIDE
    levels = max(sum(low <= other <= low / iou * (1 + SLACK) for other in strides) for low in strides)
    return ceil(span**2) * levels
