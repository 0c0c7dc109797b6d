"""DDOD-style ATSS (Chen et al., "Disentangle Your Dense Object Detector", ACM Multimedia 2021): ATSS whose overlap of
a fixed anchor is replaced by how well the detector's own prediction fits the box,

    p(class)^(1 - alpha) * IoU^alpha

Candidates, threshold and conflicts are those of ATSS: beside it, it shows what a prediction-aware threshold is worth.

The paper assigns twice, as a location that names an object well need not be the one that bounds it well: alpha 0.8
finds the positives of the class branch and 0.5 those of the box branch, which the IoU branch follows (both values are
those of the authors' configuration). `box_alpha` asks for the second assignment. A place that the box branch alone
learns stays a negative of every class that no positive of the class branch claims there.

Departures from the authors' code, each deliberate:
* without `box_alpha`, as by default, one assignment serves all branches, as in every other assigner of the zoo: what
  stands beside ATSS then differs from it in the threshold alone. The method of the paper is ``box_alpha=0.5``;
* the quality loss is divided by the positives of the class branch, as everybody's (theirs: by those of the box branch);
  the box loss is divided by its own;
* their deformable head and their reweighting of the pyramid's levels belong to the detector and the loss, not here.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from assigners.contract import Assigner, Assignment, HeadInfo, Needs, Predictions, Samples, Step, Targets
from assigners.grid import Grid
from assigners.ops.segments import at
from assigners.parts.bounds import at_least, within
from assigners.parts.prediction_fit import score_and_overlap
from assigners.rules.atss import above_the_spread, nearest


class DDOD(Assigner):
    """ATSS by predictions (registry name ``ddod``).

    Args:
        topk: candidates per box and level, the paper's k.
        alpha: weight of the overlap against the class score, the paper's alpha, 0 to 1.
        box_alpha: the same of an assignment of its own for the box and the quality branch (0.5 in the paper). None: one
            assignment serves all branches.
    """

    needs = Needs(predictions=True)

    def __init__(self, head: HeadInfo, *, topk: int = 9, alpha: float = 0.8, box_alpha: float | None = None) -> None:
        super().__init__()
        at_least(1, topk=topk)
        within("[0, 1]", alpha=alpha, box_alpha=box_alpha)
        self.topk, self.alpha, self.box_alpha = topk, alpha, box_alpha

    def forward(self, grid: Grid, targets: Targets, predictions: Predictions | None, step: Step) -> Assignment:
        """Assign by the detector's predictions at the locations nearest to each box."""
        predictions = self.required(grid, predictions)
        location, ok = nearest(grid, targets.boxes, self.topk)
        cell = grid.cell(targets.image[:, None], location)
        score, overlap = score_and_overlap(targets, predictions, targets.index[:, None], cell)

        def assign(alpha: float) -> Assignment:
            fit = (score.pow(1 - alpha) * overlap.pow(alpha)).float()
            return above_the_spread(grid, targets, location, ok, fit, fallback_max=False)

        named = assign(self.alpha)
        if self.box_alpha is None:
            return named
        return _each_branch(grid, targets, location.flatten(), named, assign(self.box_alpha).samples.ok)


def _each_branch(grid: Grid, targets: Targets, location: Tensor, named: Assignment, bounds: Tensor) -> Assignment:
    """One answer of two assignments over the same candidates.

    Args:
        location: ``[S]`` of each candidate; named: what the class branch learns.
        bounds: ``[S]`` bool, which candidates the box branch learns.
    """
    gt, names = named.samples.gt, named.samples.ok
    samples = Samples.at_locations(grid, location, gt, names | bounds)
    cell, label = grid.cell(at(targets.image, gt), location), at(targets.labels, gt)
    # Where a sample lies, its own class channel is no longer the grid's: one of the box branch alone says for itself
    # that its class is absent there, unless a positive of that class, of another box, says otherwise.
    claimed = torch.full((targets.num_images * grid.num_locations,), -1, device=label.device)
    claimed = claimed.scatter_reduce(0, cell, torch.where(names, label, -1), "amax")
    absent = bounds & ~names & (at(claimed, cell) != label)
    weight = torch.where(absent, at(named.negative_weight.flatten(), cell), named.samples.class_weight)
    bounding = bounds.to(weight.dtype)
    samples = replace(
        samples, positive=names, label=named.samples.label, class_weight=weight,
        box_weight=bounding, quality_weight=bounding,
    )  # fmt: skip
    return Assignment(samples, named.negative_weight)
