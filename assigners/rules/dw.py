"""DW: dual weighting (Li et al., "A Dual Weighting Label Assignment Scheme for Object Detection", CVPR 2022, arXiv
2203.09730).

Every location near a box's centre, on every level, is a positive and a negative of the box's class at once, with two
weights of their own. The positive weight grows with ``t = s p``, s the score and p the fit of the box there; the
negative weight falls with the IoU alone, from 1 at 0.5 to 0 at the box's best, so that among locations of equal score
the worse placed ones are pushed down. All other classes and locations are plain negatives.

    w_pos = exp(mu t) t G / sum over the bag of exp(3 t) t G,     G = exp(-|offset in strides|^2 / 2 sigma^2)
    w_neg = (f(IoU) - f(best)) / (1 - f(best)), 1 below IoU 0.5,   f(u) = (1 - u^gamma) / (1 - 0.5^gamma)

Both weights are rows of the samples: a positive with label 1 and a negative with label 0 of the same class. The further
factor s^2 of the paper's negative weight is the focusing of the shared focal loss.

Departures from the authors' code, each deliberate:
* nothing of the detector is replaced: s is the class score, not its product with an objectness branch that has no
  target; positives go through the shared loss, focusing included (the code: plain cross-entropy times 0.25, positives
  divided by the number of boxes, negatives by the sum of 1 - w_neg), and there is no refinement of boxes;
* the bag ends where G falls to `floor`, the cut of the code's hard prior; beyond are the plain negatives of the paper's
  eq. 8, where the code lets the prior fade out and weighs the negatives of the whole box;
* positive weights of a box are scaled by the size of its bag, to a mean of 1 as training begins: the shared class loss
  is divided by the number of positives;
* t counts relative to the box's best where it multiplies, so that a box that nothing predicts yet is weighted by the
  prior instead of by 0 / 0;
* the negative weight of the best location is 0 also where it is the only one (the code: 0 / 0 made 1), and the range
  always begins at IoU 0.5 (the code stretches it where even the worst location is above);
* of boxes of one class that meet at a location the smallest negative weight counts (the code: any).
"""

from __future__ import annotations

from math import log, sqrt

import torch
from torch import Tensor

from assigners.contract import Assigner, Assignment, HeadInfo, Needs, Predictions, Step, Targets
from assigners.grid import Grid
from assigners.ops.boxes import aligned_iou, giou_loss, ltrb
from assigners.ops.segments import at, consecutive
from assigners.parts.bounds import above_zero, at_least, within
from assigners.parts.candidates import centers, window_within
from assigners.parts.conflicts import box_rank, one_box_each
from assigners.parts.dual_samples import dual_samples
from assigners.parts.negatives import negatives_outside_ignore

DIVISOR_RATE = 3.0  # of t in the sum that divides positive weights: with mu = 5 it lets a box count up to e^2 times
LEAST_IOU = 0.5  # at which a location begins to be less of a negative
WORST = 2.0  # of 1 - GIoU, and what it is where the detector predicts no number
TINY = 1e-9


class DualWeighting(Assigner):
    """DW (registry name ``dw``).

    Args:
        mu: the paper's mu, rate of the positive weight in t.
        beta: the paper's beta: p = exp(-beta * (1 - GIoU)), as the code has it (the paper: IoU^beta).
        gamma: the paper's gamma_1, power of the IoU in the negative weight.
        sigma: width of the centre prior G in strides.
        floor: smallest G within the bag.
    """

    needs = Needs(predictions=True)

    def __init__(
        self,
        head: HeadInfo,
        *,
        mu: float = 5.0,
        beta: float = 5.0,
        gamma: float = 2.0,
        sigma: float = 1.11,
        floor: float = 0.3,
    ) -> None:
        super().__init__()
        within("[0, 20]", mu=mu)
        at_least(0, beta=beta)
        above_zero(gamma=gamma, sigma=sigma)
        within("(0, 1)", floor=floor)
        self.mu, self.beta, self.gamma, self.sigma, self.floor = mu, beta, gamma, sigma, floor
        self.radius = sigma * sqrt(-2 * log(floor))  # strides

    def forward(self, grid: Grid, targets: Targets, predictions: Predictions | None, step: Step) -> Assignment:
        """Assign by the centre prior and the detector's score and box at each location."""
        predictions = self.required(grid, predictions)
        boxes, num_classes = targets.boxes, predictions.logits.shape[-1]
        window = window_within(grid, boxes, self.radius)
        location = window.location.flatten(1)  # [G, K]
        points = grid.points[location]
        offset = (points - centers(boxes)[:, None]) / grid.stride[location].unsqueeze(-1)
        prior = torch.exp(-offset.square().sum(dim=-1) / (2 * self.sigma**2))
        inside = ltrb(points, boxes[:, None]).amin(dim=-1) > 0
        ok = window.ok.flatten(1) & inside & (prior > self.floor)

        cell = grid.cell(targets.image[:, None], location)
        channel = cell * num_classes + targets.labels[:, None]
        score = at(predictions.logits.flatten(), channel).float().sigmoid()
        predicted = at(predictions.boxes.flatten(0, 1), cell).float()
        misfit = giou_loss(predicted, boxes[:, None]).nan_to_num(WORST, WORST, WORST).clamp(0, WORST)
        iou = aligned_iou(predicted, boxes[:, None]).nan_to_num(0.0)
        t = score.nan_to_num(0.0) * torch.exp(-self.beta * misfit)
        pull = self._positive(torch.where(ok, t, 0), torch.where(ok, prior, 0))
        push = self._negative(torch.where(ok, iou, 0))

        place = consecutive(channel.flatten()).view_as(channel)
        once = one_box_each(place, push, box_rank(targets)[:, None], ok, place.numel())
        samples = dual_samples(grid, location, targets.index[:, None], (ok, pull), (once, push))
        return Assignment(samples, negatives_outside_ignore(grid, targets))

    def _positive(self, t: Tensor, prior: Tensor) -> Tensor:
        """Weights ``[G, K]`` from t and the prior, both 0 outside the bag."""
        best = t.amax(dim=1, keepdim=True)
        share = prior * torch.where(best > 0, t / best.clamp(min=torch.finfo(t.dtype).tiny), 1)
        divisor = (torch.exp(DIVISOR_RATE * t) * share).sum(dim=1, keepdim=True).clamp(min=TINY)
        return (prior > 0).sum(dim=1, keepdim=True) * torch.exp(self.mu * t) * share / divisor

    def _negative(self, iou: Tensor) -> Tensor:
        """Weights ``[G, K]`` from the IoU, 0 outside the bag."""
        fall = (1 - iou.pow(self.gamma)) / (1 - LEAST_IOU**self.gamma)
        best = fall.amin(dim=1, keepdim=True)
        return torch.where(iou < LEAST_IOU, 1, ((fall - best) / (1 - best).clamp(min=TINY)).clamp(0, 1))
