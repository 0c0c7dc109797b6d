"""DDOD-style ATSS (Chen et al., "Disentangle Your Dense Object Detector", ACM Multimedia 2021): ATSS whose overlap of
a fixed anchor is replaced by how well the detector's own prediction fits the box,

    p(class)^(1 - alpha) * IoU^alpha

Candidates, threshold and conflicts are those of ATSS: beside it, it shows what a prediction-aware threshold is worth.

Departures from the authors' code, each deliberate:
* they assign twice, with alpha 0.8 for the class and 0.5 for the box branch. Here one assignment serves all branches,
  as in every other assigner of the zoo;
* their deformable head and their reweighting of the pyramid's levels belong to the detector and the loss, not here.
"""

from __future__ import annotations

import torch

from assigners.contract import Assigner, Assignment, HeadInfo, Needs, Predictions, Step, Targets
from assigners.grid import Grid
from assigners.parts.prediction_fit import score_and_overlap
from assigners.rules.atss import above_the_spread, nearest


class DDOD(Assigner):
    """ATSS by predictions (registry name ``ddod``).

    Args:
        head: of the detector.
        topk: candidates per box and level, the paper's k.
        alpha: weight of the overlap against the class score, the paper's alpha, 0 to 1.

    Raises:
        ValueError: for a `topk` below 1 or an `alpha` outside [0, 1].
    """

    needs = Needs(predictions=True)

    def __init__(self, head: HeadInfo, *, topk: int = 9, alpha: float = 0.8) -> None:
        super().__init__()
        if topk < 1:
            raise ValueError(f"topk is {topk}; it must be >= 1")
        if not 0 <= alpha <= 1:
            raise ValueError(f"alpha is {alpha}; it must be 0 (class score alone) to 1 (overlap alone)")
        self.topk, self.alpha = topk, alpha

    def forward(self, grid: Grid, targets: Targets, predictions: Predictions | None, step: Step) -> Assignment:
        """Assign by the detector's predictions at the locations nearest to each box.

        Raises:
            ValueError: without predictions.
        """
        predictions = self.required(grid, predictions)
        location, ok = nearest(grid, targets.boxes, self.topk)
        gt = torch.arange(targets.num_boxes, device=location.device)[:, None]
        cell = grid.cell(targets.image[:, None], location)
        score, overlap = score_and_overlap(targets, predictions, gt, cell)
        fit = (score.pow(1 - self.alpha) * overlap.pow(self.alpha)).float()
        return above_the_spread(grid, targets, location, ok, fit, fallback_max=False)
