"""FoveaBox: the middle of a box, on the levels of its size (Kong et al., "FoveaBox: Beyound Anchor-Based Object
Detection", IEEE Transactions on Image Processing 29, 2020, section III).

A level of stride s answers for boxes whose side (the root of the area) lies within a factor `eta` of its basic edge,
4 s: 32 px on P3, 512 px on P7. With `eta` 2 a box belongs to two levels. There the locations within the fovea, the box
shrunk by `sigma` around its centre, are positive, and all others negative. The smallest box wins a contested location.

Departures from the authors' code, each deliberate:
* the finest level takes all smaller boxes and the coarsest all larger ones (the authors': from 1 px, up to 2048 px);
* a fovea that reaches beyond the map is cut there (the authors' is moved onto the border cells, outside the box);
* regression target, focal loss parameters and normaliser are the shared detector's, for a comparison of assignments.
The first preprint left a band between a fovea and a larger one without labels; the final version has no such band.
"""

from __future__ import annotations

from itertools import compress
from math import ceil

import torch
from torch import Tensor, nn

from assigners.contract import Assigner, Assignment, HeadInfo, Predictions, Samples, Step, Targets
from assigners.grid import Grid, inside_range
from assigners.ops.segments import at
from assigners.parts.bounds import at_least, within
from assigners.parts.candidates import rectangle_cells, shrunk
from assigners.parts.conflicts import box_rank, keep_smallest
from assigners.parts.negatives import negatives_outside_ignore as negatives

BASIC_EDGE = 4.0  # strides; the paper's root of S_l: 32 px on P3 to 512 px on P7 (section III-B)


class FoveaBox(Assigner):
    """FoveaBox (registry name ``foveabox``).

    Args:
        sigma: side of the fovea in sides of the box, up to 1, the paper's sigma (equation 4).
        eta: largest ratio, at least 1, of a box's side to the basic edge of its level, either way, the paper's eta
            (equation 2).
    """

    def __init__(self, head: HeadInfo, *, sigma: float = 0.4, eta: float = 2.0) -> None:
        super().__init__()
        within("(0, 1]", sigma=sigma)
        at_least(1, eta=eta)
        self.sigma, self.eta = sigma, eta
        edges = [BASIC_EDGE * stride for stride in head.strides]
        self.low = nn.Buffer(torch.tensor([0.0, *(edge / eta for edge in edges[1:])]), persistent=False)
        self.high = nn.Buffer(torch.tensor([*(edge * eta for edge in edges[:-1]), torch.inf]), persistent=False)

    def forward(self, grid: Grid, targets: Targets, predictions: Predictions | None, step: Step) -> Assignment:
        """Assign by geometry alone; `predictions` are not read."""
        first, last = self._foveas(grid, targets.boxes)
        length = min(targets.num_pairs, targets.num_boxes * self._most_cells(grid))
        gt, location, ok = rectangle_cells(grid, first, last, length)
        cell = grid.cell(at(targets.image, gt), location)
        rank = at(box_rank(targets), gt)  # by area first: the smallest box wins
        ok = keep_smallest(cell, rank, ok, targets.num_images * grid.num_locations)
        return Assignment(Samples.at_locations(grid, location, gt, ok), negatives(grid, targets))

    def _foveas(self, grid: Grid, boxes: Tensor) -> tuple[Tensor, Tensor]:
        """Rectangles of the cells in each box's fovea, ends included, ``[G, L, 2]`` half-open; empty off its scale."""
        first, last = inside_range(grid, boxes)
        low, high = shrunk(grid, boxes, self.sigma)
        edge = (boxes[:, 2:] - boxes[:, :2]).prod(dim=1, keepdim=True).sqrt()
        in_scale = (edge >= self.low) & (edge <= self.high)
        first, last = torch.maximum(first, low.ceil().long()), torch.minimum(last, high.floor().long() + 1)
        return first, torch.where(in_scale[..., None], last, first)

    def _most_cells(self, grid: Grid) -> int:
        """At most so many cells lie in the foveas of one box on the map: those of a box as flat as the map allows.

        A fovea of a x b cells holds at most (a + 1)(b + 1) locations, and its area is bounded by the level's scale.
        """
        most = []
        for stride, (height, width) in zip(grid.strides, grid.shapes, strict=True):
            long, whole = self.sigma * max(height, width), (self.sigma * width + 1) * (self.sigma * height + 1)
            area = (self.sigma * BASIC_EDGE * self.eta) ** 2
            flat = (long + 1) * (area / long + 1)
            most.append(ceil(whole if stride == grid.strides[-1] or area > long**2 else min(flat, whole)))
        widest = self.eta**2 * (1 + 1e-6)  # ratio of the strides of levels whose scales hold one side
        near = [[fine <= stride <= fine * widest for stride in grid.strides] for fine in grid.strides]
        return max(sum(compress(most, here)) for here in near)
