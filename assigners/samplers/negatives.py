"""Negative sampling beside any rule: the class loss sees the positives and a few of the negatives.

* ``random``: a uniform draw, the usual sampling of two-stage detectors (Ren et al., "Faster R-CNN", NeurIPS 2015).
* ``ohem``: those of the largest class loss under the predictions of this step (Shrivastava et al., "Training
  Region-based Object Detectors with Online Hard Example Mining", CVPR 2016), as many for each positive as SSD takes
  (Liu et al., ECCV 2016: three).

A sampler decides what is learnt, so it is part of the assignment and an option of the assigner: under one protocol
``atss[negatives=ohem]`` stands beside ``atss``, on one board. A key of the protocol would part the two.

Departures: focal loss already weighs negatives by how hard they are, and a sampler comes on top of it; OHEM's loss is
binary cross-entropy summed over the classes, whatever form the protocol's has; boxes are not suppressed among the hard
ones, as a location is no region.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from assigners.contract import Assigner, Assignment, HeadInfo, Predictions, Step, Targets
from assigners.grid import Grid
from assigners.ops import noise
from assigners.ops.segments import marked
from assigners.parts.map_reader import MapReader

_STREAM = 7001  # of the noise that orders random negatives


class NegativeSampler(Assigner):
    """An assigner whose negatives are sampled, image by image.

    Args:
        rule: the assigner.
        negatives: how.
        negative_ratio: negatives for each positive of the image.
        negative_count: negatives of an image at least, which those without a positive have too.

    Raises:
        ValueError: for a rule whose own losses stand for the class loss, or counts that leave nothing.
    """

    def __init__(
        self,
        head: HeadInfo,
        rule: Assigner,
        *,
        negatives: Literal["random", "ohem"],
        negative_ratio: float = 3.0,
        negative_count: int = 16,
    ) -> None:
        super().__init__()
        if "class" in rule.declares.replaces:
            raise ValueError("negatives cannot be sampled: the assigner's own losses stand for the class loss")
        if negative_ratio < 0 or negative_count < 0 or negative_ratio + negative_count == 0:
            raise ValueError(
                f"negative_ratio is {negative_ratio} and negative_count {negative_count}; neither may be negative, and "
                "one must be above 0"
            )
        self.rule, self.negatives, self.ratio, self.count = rule, negatives, negative_ratio, negative_count
        self.declares = rule.declares
        # An attribute of the class for every rule; here it follows the one that is wrapped.
        self.needs = replace(rule.needs, predictions=rule.needs.predictions or negatives == "ohem")  # type: ignore[misc]

    def forward(self, grid: Grid, targets: Targets, predictions: Predictions | None, step: Step) -> Assignment:
        """The rule's assignment with the weight of all other negatives at 0."""
        answer: Assignment = self.rule(grid, targets, predictions, step)
        taken, positives = _taken(grid, targets, answer)
        open_to_draw = (answer.negative_weight > 0) & ~taken
        key = torch.where(open_to_draw, self._order(grid, targets, predictions, step), -torch.inf)
        # The rank of each location of an image, without a loop: the position within the order that sorts its keys.
        order = key.argsort(dim=1, descending=True, stable=True)
        rank = torch.empty_like(order).scatter_(
            1, order, torch.arange(key.shape[1], device=key.device).expand_as(order)
        )
        wanted = (self.ratio * positives).clamp(min=self.count)
        drawn = open_to_draw & (rank < wanted[:, None])
        statistics = {**answer.statistics, "negatives_per_positive": (drawn.sum(), positives.sum())}
        weight = torch.where(drawn | taken, answer.negative_weight, 0)
        return replace(answer, negative_weight=weight, statistics=statistics)

    def _order(self, grid: Grid, targets: Targets, predictions: Predictions | None, step: Step) -> Tensor:
        """What negatives are taken by, largest first, ``[B, R]``."""
        if self.negatives == "ohem":
            return F.softplus(self.required(grid, predictions).logits.detach().float()).sum(dim=-1)
        column, row = grid.uv.long().unbind(-1)
        # Named by image and cell, so that neither padding nor the share of a process moves a draw.
        return noise.uniform(
            step.seed, step.index, _STREAM, targets.image_id[:, None], grid.level[None], row[None], column[None]
        ).to(grid.points.dtype)


def _taken(grid: Grid, targets: Targets, answer: Assignment) -> tuple[Tensor, Tensor]:
    """Locations that a sample reads ``[B, R]`` bool, and positives of each image ``[B]``."""
    samples = answer.samples
    image = targets.image[samples.gt]
    reader = MapReader.build(grid, image, samples.level, samples.uv, samples.location)
    reads = reader.reads(samples.ok).expand_as(reader.cell)
    taken = marked(reader.cell, reads, targets.num_images * grid.num_locations)
    positives = torch.zeros(targets.num_images, device=image.device).index_add(0, image, samples.positive.float())
    return taken.view(targets.num_images, -1), positives


def unsampled(assigner: Assigner | None) -> Assigner | None:
    """The rule itself, for whoever looks into one."""
    return assigner.rule if isinstance(assigner, NegativeSampler) else assigner
