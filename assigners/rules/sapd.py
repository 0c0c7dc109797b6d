"""SAPD: soft anchor points and soft-selected pyramid levels (Zhu et al., "Soft Anchor-Point Object Detection", ECCV
2020, arXiv 1911.12448).

On every level the cells that the shrunk box covers learn the box, each weighted by how central it is and by how well
its level suits the box (eq. 5: both at once). A network predicts the levels' weights from RoI features; it learns to
name the level on which the detector's own loss for the box is smallest. Early in training that level alone counts.
No code of the authors is public; a Keras port of others was read for what the text leaves open.

Departures, each deliberate:
* a cell counts if its point lies inside the box, and the box's cell nearest to the centre always does then (the paper:
  points inside the shrunk box, often none; the port: every covered cell, with weight 0 where the point lies outside);
* a level without such a cell cannot be selected: it is masked before the softmax and needs no learning;
* a location's box is the smallest that covers it there, selected level or not, as in the port: where the level has
  weight 0 for that box, the location is ignored;
* the target of the network is the zoo's box loss, GIoU (the paper: -log IoU), and a loss that is not a number counts as
  a large one;
* the class loss is divided by what the protocol says, as everybody's. In the paper one divisor serves class and box,
  the sum of the weights of the positives (the port: the same, at least 1), as the box loss has it here in any case;
  ``normaliser=weights`` divides the class loss by it too. As weights are at most 1, the class loss is larger by it;
* the quality branch, which the paper does not have, carries the same weights; the number of positives divides it.

The network's gradient comes from its cross-entropy alone, and reaches the FPN through RoIAlign: nothing is detached on
that side. The weights themselves are detached: the detector's loss cannot lower itself by muting levels.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from assigners.contract import Assigner, Assignment, Declares, HeadInfo, Needs, Predictions, Samples, Step, Targets
from assigners.grid import Grid, inside_range
from assigners.ops.boxes import giou_loss, ltrb
from assigners.ops.segments import at, group_sum
from assigners.parts.bounds import at_least, within
from assigners.parts.candidates import centers, inside_pairs
from assigners.parts.class_cost import background_and_own, focal_negative, focal_positive
from assigners.parts.conflicts import box_rank, keep_smallest
from assigners.parts.level_selection import FeatureSelection
from assigners.parts.negatives import negatives_outside_ignore

WORST = 1e4  # what a loss that is no number counts as (a diverging detector), like any loss beyond it


class SAPD(Assigner):
    """SAPD (registry name ``sapd``).

    Args:
        shrink: the paper's epsilon, side of the positive region in sides of the box.
        eta: the paper's eta, power of the centrality within a level.
        levels: the paper's k, how many levels keep their weight.
        select_weight: the paper's lambda, weight of the network's cross-entropy.
        warmup: share of training, 0 to 1, in which the level of least loss alone counts (the paper's 6 of 12 epochs).
        hidden: channels of the network (256 in the paper). None: as many as an FPN map has.
        normaliser: what divides the class loss: the ``protocol``'s choice, or the sum of the positives' ``weights`` as
            in the paper.
    """

    needs = Needs(predictions=True, features=True)

    def __init__(
        self,
        head: HeadInfo,
        *,
        shrink: float = 0.2,
        eta: float = 1.0,
        levels: int = 3,
        select_weight: float = 0.1,
        warmup: float = 0.5,
        hidden: int | None = None,
        normaliser: Literal["protocol", "weights"] = "protocol",
    ) -> None:
        super().__init__()
        within("(0, 1]", shrink=shrink)
        at_least(0, eta=eta, select_weight=select_weight)
        at_least(1, levels=levels, hidden=hidden)
        within("[0, 1]", warmup=warmup)
        self.declares = Declares(normaliser="weights" if normaliser == "weights" else None)
        self.shrink, self.eta, self.levels = shrink, eta, levels
        self.select_weight, self.warmup = select_weight, warmup
        self.network = FeatureSelection(head.channels, len(head.strides), hidden or head.channels)

    def forward(self, grid: Grid, targets: Targets, predictions: Predictions | None, step: Step) -> Assignment:
        """Assign by geometry, weighted by the network's choice of levels."""
        predictions = self.required(grid, predictions)
        gt, location, ok = self._covered(grid, targets)
        loss = _level_loss(grid, targets, predictions, gt, location, ok)
        usable = loss.isfinite()
        # A box between the points of all levels has no cell anywhere: the softmax over nothing must stay finite.
        held = usable.any(dim=1)
        with torch.autocast(grid.points.device.type, enabled=False):
            logits = self.network(predictions.features, grid, targets)
        log_share = F.log_softmax(logits.masked_fill(~usable & held[:, None], -torch.inf), dim=1)
        target = loss.argmin(dim=1, keepdim=True)
        entropy = torch.where(held, -log_share.gather(1, target).squeeze(1), 0).sum()
        hit = (log_share.detach().argmax(dim=1) == target.squeeze(1)) & held

        chosen = self._chosen(log_share.detach().exp(), target, step)
        row = gt * grid.num_levels + at(grid.level, location)
        centrality = _centrality(ltrb(at(grid.points, location), at(targets.boxes, gt))).pow(self.eta)
        weight = torch.where(ok, centrality * at(chosen.flatten(), row), 0)
        cell = grid.cell(at(targets.image, gt), location)
        cells = targets.num_images * grid.num_locations
        owner = keep_smallest(cell, at(box_rank(targets), gt), ok, cells)
        # A positive location weighs as much in all class channels.
        scale = weight.new_ones(cells).scatter_reduce(0, cell, torch.where(owner, weight, 1), "amin")
        samples = Samples.at_locations(grid, location, gt, owner & (weight > 0))
        weight = torch.where(samples.ok, weight, 0)
        count = held.sum().to(weight.dtype)
        return Assignment(
            replace(samples, class_weight=weight, box_weight=weight, quality_weight=weight),
            negatives_outside_ignore(grid, targets) * scale.view(targets.num_images, -1),
            losses={"select": (self.select_weight * entropy, count)},
            statistics={"level_found": (hit.sum().to(weight.dtype), count)},
        )

    def _covered(self, grid: Grid, targets: Targets) -> tuple[Tensor, Tensor, Tensor]:
        """Box, location and membership of the pairs inside boxes ``[P]``: cells that the shrunk box covers."""
        first, last = inside_range(grid, targets.boxes)
        # The cell of a point reaches half a stride around it. Edges are taken from the centre's cell, in float64, so
        # that they come out alike wherever the box lies.
        middle = centers(targets.boxes)[:, None].double() / grid.level_stride[:, None] - grid.offset + 0.5
        base = middle.floor()
        side = (targets.boxes[:, 2:] - targets.boxes[:, :2])[:, None].double() / grid.level_stride[:, None]
        low = (base + ((middle - base) - self.shrink / 2 * side).floor()).long()
        high = (base + ((middle - base) + self.shrink / 2 * side).ceil()).long()
        low = torch.minimum(low, last - 1)  # within the map: its border cell stands in
        high = torch.maximum(high, first + 1)
        pairs = inside_pairs(grid, targets)
        level, uv = grid.map_coordinates(pairs.location)
        row = pairs.gt * grid.num_levels + level
        ok = ((uv >= at(low.flatten(0, 1), row)) & (uv < at(high.flatten(0, 1), row))).all(dim=-1)
        return pairs.gt, pairs.location, ok

    def _chosen(self, share: Tensor, target: Tensor, step: Step) -> Tensor:
        """Weight ``[G, L]`` of the levels: the target alone at first, then the largest shares, not scaled up to 1."""
        if step.progress < self.warmup:
            return torch.zeros_like(share).scatter_(1, target, 1.0)
        kept = torch.sort(share, dim=1, descending=True, stable=True).indices[:, : self.levels]
        return torch.zeros_like(share).scatter_(1, kept, share.gather(1, kept))


def _centrality(distances: Tensor) -> Tensor:
    """Generalised centerness without its root (eq. 3): 1 at the centre, towards 0 at the sides; ``[..., 4]`` px."""
    left, top, right, bottom = distances.unbind(-1)
    x = torch.minimum(left, right) / torch.maximum(left, right)
    return x * torch.minimum(top, bottom) / torch.maximum(top, bottom)


def _level_loss(
    grid: Grid, targets: Targets, predictions: Predictions, gt: Tensor, location: Tensor, ok: Tensor
) -> Tensor:
    """Mean focal and box loss ``[G, L]`` over the cells of each box and level, infinite where it has none."""
    cell = grid.cell(at(targets.image, gt), location)
    background, own = background_and_own(predictions.logits, cell, at(targets.labels, gt), focal_negative)
    overlap = giou_loss(at(predictions.boxes.float().flatten(0, 1), cell), at(targets.boxes, gt))
    loss = background - focal_negative(own) + focal_positive(own) + overlap
    loss = torch.where(ok, loss.nan_to_num(WORST).clamp(0, WORST), 0)
    group, groups = gt * grid.num_levels + at(grid.level, location), targets.num_boxes * grid.num_levels
    count = group_sum(ok.to(loss.dtype), group, groups)
    mean = torch.where(count > 0, group_sum(loss, group, groups) / count.clamp(min=1), torch.inf)
    return mean.view(targets.num_boxes, grid.num_levels)
