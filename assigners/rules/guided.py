"""Guided anchoring's targets of locations (Wang et al., "Region Proposal by Guided Anchoring", CVPR 2019, section 3,
anchor location targets).

Where may an anchor stand? The paper teaches it to a branch of its own by three kinds of cells; here they are the
assignment. With R(c, w, h) the rectangle of w x h around c, a box of centre c and sides w, h has on the one level of
its size

    CR = R(c, sigma1 w, sigma1 h)              the centre region: positive
    IR = R(c, sigma2 w, sigma2 h) without CR   the ignore region: neither positive nor negative
    OR = all the rest                          negative

(without numbers in the paper). On the two neighbouring levels all of R(c, sigma2 w, sigma2 h) is ignored. Positive goes
before ignored, ignored before negative, whichever boxes they come from; of several boxes that have a cell in their
centre regions the smallest gets it. A box belongs to the level whose anchor, 4 strides wide (32 px on P3), is nearest
to the root of its area by ratio, as in the authors' RetinaNet; the finest level takes all smaller boxes, the coarsest
all larger ones.

A region of 0.2 sides is 0.6 to 1.1 cells across where a box fits its level, and often holds no cell's point. Along an
axis where it holds none it has the nearest column or row instead, or both of two that are equally near. A positive must
still lie strictly inside its box: a box that holds no location of its level learns nothing, and its nearest cell is
ignored.

Departures from the authors' code, each deliberate:
* a cell is in a region if its point is, ends included. Theirs rounds the region's ends to whole cells and takes both
  in, which gives each axis a cell more and moves regions by half a cell to the lower right;
* a positive stays positive beside every other box (as the paper says). In theirs the ignore region of a later box of
  the list wipes out what an earlier one had taught there;
* negatives weigh 1 against a positive's 1 (theirs: 0.1 in the loss of the location branch). Class loss, its
  normaliser and the box loss are the shared detector's.
What the shared head cannot give: the location and shape branches, features adapted to the predicted shape, and the
location threshold at inference. The class branch learns the location targets, and a positive regresses its box.
"""

from __future__ import annotations

from itertools import pairwise
from math import ceil

import torch
from torch import Tensor, nn

from assigners.contract import Assigner, Assignment, HeadInfo, Predictions, Samples, Step, Targets
from assigners.grid import Grid, cells_covered, inside_range
from assigners.ops.segments import at, marked
from assigners.parts.candidates import cells_between, rectangle_cells, shrunk
from assigners.parts.conflicts import box_rank, keep_smallest
from assigners.parts.negatives import negatives_outside_ignore as negatives

ANCHOR = 4.0  # strides, side of a level's anchor (the authors' RetinaNet; in their RPN, on P2 to P6, it is 8)


class Guided(Assigner):
    """Guided anchoring's location targets (registry name ``guided``).

    Args:
        center: side of the centre region in sides of the box, the paper's sigma1.
        ignore: side of the ignore region in sides of the box, the paper's sigma2; equal to `center` for no band.
        neighbours: ignore that region on the two neighbouring levels, too.

    Raises:
        ValueError: unless 0 < `center` <= `ignore` <= 1.
    """

    def __init__(self, head: HeadInfo, *, center: float = 0.2, ignore: float = 0.5, neighbours: bool = True) -> None:
        super().__init__()
        if not 0 < center <= ignore <= 1:
            raise ValueError(f"center is {center} and ignore is {ignore}; needed: 0 < center <= ignore <= 1")
        self.center, self.ignore, self.neighbours = center, ignore, neighbours
        # Halfway between two anchors by ratio: the area is the product of their sides.
        ends = [ANCHOR**2 * fine * coarse for fine, coarse in pairwise(head.strides)]
        self.ends = nn.Buffer(torch.tensor(ends), persistent=False)

    def forward(self, grid: Grid, targets: Targets, predictions: Predictions | None, step: Step) -> Assignment:
        """Assign by geometry alone; `predictions` are not read."""
        apart = self._levels_apart(grid, targets.boxes)
        first, last = cells_between(grid, targets.boxes, *shrunk(grid, targets.boxes, self.center))
        inside = inside_range(grid, targets.boxes)
        first, last = torch.maximum(first, inside[0]), torch.minimum(last, inside[1])
        length = min(targets.num_pairs, targets.num_boxes * self._most_cells(grid))
        gt, location, ok = rectangle_cells(grid, first, torch.where(apart == 0, last, first), length)
        cell, cells = grid.cell(at(targets.image, gt), location), targets.num_images * grid.num_locations
        ok = keep_smallest(cell, at(box_rank(targets), gt), ok, cells)  # by area first: the smallest box wins

        first, last = cells_between(grid, targets.boxes, *shrunk(grid, targets.boxes, self.ignore))
        last = torch.where(apart <= int(self.neighbours), last, first)
        near = cells_covered(grid, first, last, targets.image, targets.num_images) > 0
        weight = negatives(grid, targets).masked_fill(near & ~marked(cell, ok, cells).view_as(near), 0)
        return Assignment(Samples.at_locations(grid, location, gt, ok), weight)

    def _levels_apart(self, grid: Grid, boxes: Tensor) -> Tensor:
        """How many levels each level is away from each box's own ``[G, L, 1]``."""
        area = (boxes[:, 2:] - boxes[:, :2]).prod(dim=1, keepdim=True)
        own = (area >= self.ends).sum(dim=1, keepdim=True)
        return (torch.arange(grid.num_levels, device=boxes.device) - own).abs()[..., None]

    def _most_cells(self, grid: Grid) -> int:
        """At most so many cells lie in the centre region of one box: of one as flat as map and level allow.

        A region of a x b cells holds at most (a + 2)(b + 2), with the nearest ones where it has none, and its area is
        bounded by the level's largest box.
        """
        most = 0
        for level, (stride, shape) in enumerate(zip(grid.strides, grid.shapes, strict=True)):
            long, short = (self.center * side for side in (max(shape), min(shape)))
            if level + 1 < grid.num_levels:
                short = min(short, (self.center * ANCHOR) ** 2 * grid.strides[level + 1] / stride / long)
            most = max(most, ceil((long + 2) * (short + 2)))
        return most
