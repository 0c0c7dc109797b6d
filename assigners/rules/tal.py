"""TAL: task alignment learning (Feng et al., "TOOD: Task-aligned One-stage Object Detection", ICCV 2021).

Positive are the locations inside a box where class score s and overlap u of the prediction are high together, the
best few of all levels by ``t = s^alpha * u^beta``. They learn a soft label: t, scaled so that the best positive of a
box has the box's largest overlap, ``t / max t * max u``; their box loss has the same weight. The first third of
training assigns by ATSS, as a detector that predicts nothing yet aligns with nothing.

Departures from the authors' code, each deliberate:
* they take the best few of the whole image and then drop those outside the box, so that a box may keep none although
  it holds locations that fit. Here only locations inside compete (`mask_first`);
* a location strictly inside its box may be positive (the authors ask for 0.01 px);
* score and overlap are multiplied in float64: with beta 6, small ones underflow in float32.
Their class loss, divided by the sum of the labels instead of the number of positives, is the option `normalise_labels`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from assigners.contract import Assigner, Assignment, Declares, HeadInfo, Needs, Predictions, Samples, Step, Targets
from assigners.grid import Grid
from assigners.ops.boxes import ltrb
from assigners.ops.segments import at, smallest, take
from assigners.parts.bounds import at_least, within
from assigners.parts.candidates import inside_pairs
from assigners.parts.conflicts import box_rank, one_box_each
from assigners.parts.negatives import negatives_outside_ignore as negatives
from assigners.parts.prediction_fit import score_and_overlap
from assigners.rules.atss import ATSS

GUARD = 1e-7  # added to a box's largest t before it divides (the authors' code)
PAIRS = 2**20  # (box, location) pairs compared at a time where locations outside of boxes compete too


class TAL(Assigner):
    """TAL (registry name ``tal``).

    Args:
        topk: positives per box at most, the paper's m.
        alpha: exponent of the class score, the paper's alpha.
        beta: exponent of the overlap, the paper's beta.
        warmup: share of training that ATSS assigns first, 0 to 1; the authors' 4 of 12 epochs.
        mask_first: only locations inside a box compete for it; false as in the authors' code.
        relative_guard: let the best positive's label be exactly its box's largest overlap. The authors add 1e-7 to
            what t is divided by, which shrinks the labels of boxes whose t are as small.
        normalise_labels: divide the class loss by the sum of the labels, as the authors do.
    """

    needs = Needs(predictions=True)

    def __init__(
        self,
        head: HeadInfo,
        *,
        topk: int = 13,
        alpha: float = 1.0,
        beta: float = 6.0,
        warmup: float = 1 / 3,
        mask_first: bool = True,
        relative_guard: bool = False,
        normalise_labels: bool = False,
    ) -> None:
        super().__init__()
        at_least(1, topk=topk)
        at_least(0, alpha=alpha, beta=beta)
        within("[0, 1]", warmup=warmup)
        self.topk, self.alpha, self.beta = topk, alpha, beta
        self.warmup, self.mask_first, self.relative_guard = warmup, mask_first, relative_guard
        self.warmup_assigner = ATSS(head)
        self.declares = Declares(normaliser="labels" if normalise_labels else None)

    def forward(self, grid: Grid, targets: Targets, predictions: Predictions | None, step: Step) -> Assignment:
        """Assign by ATSS first, then by the detector's predictions."""
        predictions = self.required(grid, predictions)
        if step.progress < self.warmup:
            return self.warmup_assigner.forward(grid, targets, predictions, step)
        location, ok = (self._inside if self.mask_first else self._anywhere)(grid, targets, predictions)  # [G, K]
        gt, cell = targets.index[:, None], grid.cell(targets.image[:, None], location)
        t, overlap = self._alignment(targets, predictions, gt, cell)
        ok = one_box_each(cell, -overlap, box_rank(targets)[:, None], ok, targets.num_images * grid.num_locations)

        largest = torch.where(ok, t, 0).amax(dim=1, keepdim=True)
        share = t / largest.clamp(min=torch.finfo(t.dtype).tiny) if self.relative_guard else t / (largest + GUARD)
        label = torch.where(ok, share * torch.where(ok, overlap, 0).amax(dim=1, keepdim=True), 0).float()
        samples = Samples.at_locations(grid, location, gt, ok, label=label, box_weight=label)
        return Assignment(samples, negatives(grid, targets))

    def _alignment(self, targets: Targets, predictions: Predictions, gt: Tensor, cell: Tensor) -> tuple[Tensor, Tensor]:
        """t and overlap of pairs, in float64."""
        score, overlap = score_and_overlap(targets, predictions, gt, cell)
        return score.pow(self.alpha) * overlap.pow(self.beta), overlap

    def _inside(self, grid: Grid, targets: Targets, predictions: Predictions) -> tuple[Tensor, Tensor]:
        """The best locations inside each box, and whether it has so many: ``[G, topk]``."""
        pairs = inside_pairs(grid, targets)
        t, _ = self._alignment(targets, predictions, pairs.gt, pairs.cell)
        index, ok = smallest(-t.float(), pairs.gt, targets.num_boxes, self.topk, ok=t > 0)
        return take(pairs.location, index), ok

    def _anywhere(self, grid: Grid, targets: Targets, predictions: Predictions) -> tuple[Tensor, Tensor]:
        """The best locations of the image for each box, and which of them lie inside it: ``[G, topk]``."""
        everywhere = torch.arange(grid.num_locations, device=grid.points.device)
        parts = []
        for boxes in targets.index.split(-(-PAIRS // len(everywhere))):
            gt, location = boxes.repeat_interleave(len(everywhere)), everywhere.repeat(len(boxes))
            t, _ = self._alignment(targets, predictions, gt, grid.cell(at(targets.image, gt), location))
            group = torch.arange(len(boxes), device=gt.device).repeat_interleave(len(everywhere))
            index, ok = smallest(-t.float(), group, len(boxes), self.topk, ok=t > 0)
            best = take(location, index)
            parts.append((best, ok & (ltrb(grid.points[best], targets.boxes[boxes, None]).amin(dim=-1) > 0)))
        return torch.cat([location for location, _ in parts]), torch.cat([ok for _, ok in parts])
