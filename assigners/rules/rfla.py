"""RFLA: Gaussian receptive fields (Xu et al., "RFLA: Gaussian Receptive Field Based Label Assignment for Tiny Object
Detection", ECCV 2022, arXiv 2208.08738).

A location sees a Gaussian around its point whose width is a share of its level's receptive field; a box is a Gaussian
as well. The distance between the two, a Kullback-Leibler divergence, ranks the locations of all levels for each box,
however small: its nearest `topk` learn it. A second round with narrower fields gives each box the nearest `supplement`
of these, where the first round left them free (the paper's hierarchical assignment).

    KL = (tr(S_g^-1 S_r) + d^T S_g^-1 d - 2 + ln(|S_g| / |S_r|)) / 2,     S = diag(w^2, h^2) / 4

Departures from the authors' code, each deliberate:
* only locations inside a box are ranked, since the head regresses distances >= 0 (the code's negative targets are left
  to the loss); a box between the points of all levels has no positive;
* a location that several boxes rank goes to the one of smallest divergence (the code: the last in the list), in the
  first round and among what is free in the second;
* exactly `topk` locations: equal divergences go by location (the code takes all that tie);
* receptive fields are those of a ResNet-50 with FPN whatever the backbone, as in the code, and go on beyond P7 by the
  same step.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from assigners.contract import Assigner, Assignment, HeadInfo, Predictions, Samples, Step, Targets
from assigners.grid import Grid, inside_range
from assigners.ops.segments import at, marked
from assigners.parts.bounds import above_zero, at_least, within
from assigners.parts.candidates import centers, map_centers
from assigners.parts.conflicts import box_rank, one_box_each
from assigners.parts.negatives import negatives_outside_ignore

FIELDS = {4: 35, 8: 91, 16: 267, 32: 427, 64: 555}  # px, theoretical, of a stride; then 2 strides a level


class RFLA(Assigner):
    """RFLA (registry name ``rfla``).

    Args:
        topk: the paper's k, locations per box of the first round.
        supplement: locations per box of the second round.
        decay: the paper's beta, width of a field in the second round.
        fraction: width of the effective receptive field in theoretical ones.

    Raises:
        ValueError: for a stride that is no power of two from 4 on.
    """

    def __init__(
        self, head: HeadInfo, *, topk: int = 3, supplement: int = 1, decay: float = 0.9, fraction: float = 0.5
    ) -> None:
        super().__init__()
        at_least(1, topk=topk)
        at_least(0, supplement=supplement)
        within("(0, 1]", decay=decay)
        above_zero(fraction=fraction)
        self.topk, self.supplement, self.decay = topk, supplement, decay
        widths = [fraction * receptive_field(stride) for stride in head.strides]
        self.widths = nn.Buffer(torch.tensor(widths), persistent=False)

    def forward(self, grid: Grid, targets: Targets, predictions: Predictions | None, step: Step) -> Assignment:
        """Assign by geometry alone; `predictions` are not read."""
        location, ok = self._candidates(grid, targets)
        cell, cells = grid.cell(targets.image[:, None], location), targets.num_images * grid.num_locations
        rank, keep = box_rank(targets)[:, None], torch.zeros_like(ok)
        for count, scale in ((self.topk, 1.0), (self.supplement, self.decay)):
            divergence = torch.where(ok, self._divergence(grid, targets, location, scale), torch.inf)
            # Candidates ascend by level and within it by location, so a stable sort settles ties.
            nearest = torch.sort(divergence, dim=1, stable=True).indices[:, :count]
            free = ~at(marked(cell, keep, cells), cell)
            chosen = torch.zeros_like(ok).scatter_(1, nearest, True) & ok & free
            keep = keep | one_box_each(cell, divergence, rank, chosen, cells)
        samples = Samples.at_locations(grid, location, targets.index[:, None], keep)
        return Assignment(samples, negatives_outside_ignore(grid, targets))

    def _candidates(self, grid: Grid, targets: Targets) -> tuple[Tensor, Tensor]:
        """Location and existence ``[G, L * k * k]`` of cells that surely hold the k nearest inside each box.

        On a level the divergence grows with a weighted sum of dx^2 and dy^2, so that the k nearest locations lie in the
        k nearest columns and the k nearest rows, whatever the shape of the box.
        """
        side = max(self.topk, self.supplement)
        first, last = inside_range(grid, targets.boxes)  # [G, L, 2]
        start = torch.minimum((map_centers(grid, targets.boxes) - side / 2).ceil().long(), last - side).clamp(min=0)
        start = torch.maximum(start, first)
        step = torch.arange(side, device=start.device)
        column, row = (start.unsqueeze(-1) + step).unbind(2)  # [G, L, k] each
        end = last.unsqueeze(-1)
        ok = (row < end[:, :, 1]).unsqueeze(-1) & (column < end[:, :, 0]).unsqueeze(-2)
        location = (grid.level_start[:, None] + row * grid.level_width[:, None]).unsqueeze(-1) + column.unsqueeze(-2)
        return torch.where(ok, location, 0).flatten(1), ok.flatten(1)

    def _divergence(self, grid: Grid, targets: Targets, location: Tensor, scale: float) -> Tensor:
        """KL divergence ``[G, K]`` of the field at each location, `scale` times as wide, from the box."""
        size = (targets.boxes[:, 2:] - targets.boxes[:, :2])[:, None]
        offset = at(grid.points, location) - centers(targets.boxes)[:, None]
        width = (scale * at(self.widths, at(grid.level, location))).unsqueeze(-1)
        ratio = (width / size).square()
        return ((ratio + (2 * offset / size).square() - ratio.log() - 1) / 2).sum(dim=-1)


def receptive_field(stride: int) -> int:
    """Theoretical receptive field in px of the level of a stride, in ResNet-50 with FPN.

    Raises:
        ValueError: for a stride that is no power of two from 4 on.
    """
    if stride in FIELDS:
        return FIELDS[stride]
    if stride < 4 or stride & (stride - 1):
        raise ValueError(f"a level has stride {stride}; receptive fields are known of powers of two from 4 on")
    return receptive_field(stride // 2) + 2 * stride
