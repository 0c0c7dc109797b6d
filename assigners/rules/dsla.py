"""DSLA: dynamic soft label assignment (Lyu et al., "RTMDet: An Empirical Study of Designing Real-Time Object
Detectors", arXiv:2212.07784, 2022; not the dynamic smooth label assignment of Su et al., 2022).

Candidates of a box are all locations inside it. Each costs a class loss whose target is the overlap of its predicted
box with the box, `iou_weight` times -ln of that overlap, and a price that grows tenfold with every stride of distance
from the centre. A box asks for as many locations as its best overlaps add up to, and takes its cheapest ones; a
location that several boxes take goes to the one that it costs least. The overlap is also what the class score learns.

Departures from the authors' code, each deliberate:
* a candidate lies inside the box itself (the authors': inside any box of the image): from outside there is no distance
  to its four sides to regress. Hence a box's k comes from its own candidates, and a box without one learns nothing;
* a contested location goes to the cheapest of the boxes that take it. The authors give it to the cheapest box of the
  image, which may have refused it, and so ends up with more than the k that it asks for;
* the loss is the shared one. RTMDet's weight of the box loss and its divisor of the class loss are options, off by
  default: they change what a positive is worth, not which location is one.
"""

from __future__ import annotations

from functools import partial
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from assigners.contract import Assigner, Assignment, Declares, HeadInfo, Needs, Predictions, Samples, Step, Targets
from assigners.grid import Grid
from assigners.ops.segments import at, smallest, take
from assigners.parts.bounds import at_least
from assigners.parts.candidates import Pairs, centers, inside_pairs
from assigners.parts.class_cost import background_and_own, focal_negative
from assigners.parts.dynamic_k import dynamic_k, finite, settle
from assigners.parts.negatives import negatives_outside_ignore as negatives
from assigners.parts.prediction_fit import predicted_overlap

EPS = 1e-7  # added to an overlap before its logarithm


class DSLA(Assigner):
    """Dynamic soft label assignment (registry name ``dsla``).

    Args:
        topk: how many of a box's largest overlaps add up to its k; no box gets more.
        radius: distance from the centre in strides at which the price of distance is 1, the paper's beta; its base,
            the paper's alpha, is 10.
        iou_weight: of -ln IoU, the paper's lambda_2 (the others are 1).
        box_weight: of a positive in the box loss: ``one``, or its ``iou`` as in RTMDet.
        normaliser: what divides the class loss: the ``protocol``'s choice, or the sum of ``labels`` as in RTMDet.
    """

    needs = Needs(predictions=True)

    def __init__(
        self,
        head: HeadInfo,
        *,
        topk: int = 13,
        radius: float = 3.0,
        iou_weight: float = 3.0,
        box_weight: Literal["one", "iou"] = "one",
        normaliser: Literal["protocol", "labels"] = "protocol",
    ) -> None:
        super().__init__()
        at_least(1, topk=topk)
        at_least(0, radius=radius, iou_weight=iou_weight)
        self.topk, self.radius, self.iou_weight, self.box_weight = topk, radius, iou_weight, box_weight
        self.declares = Declares(normaliser="labels" if normaliser == "labels" else None)

    def forward(self, grid: Grid, targets: Targets, predictions: Predictions | None, step: Step) -> Assignment:
        """Assign by the detector's losses at its candidates."""
        predictions = self.required(grid, predictions)
        pairs = inside_pairs(grid, targets)
        cost, overlap = self._cost(grid, targets, predictions, pairs)
        best, exists = smallest(-overlap, pairs.gt, targets.num_boxes, self.topk)
        k = dynamic_k(take(overlap, best), exists, self.topk)
        index, found = smallest(cost, pairs.gt, targets.num_boxes, self.topk)
        location = take(pairs.location, index)
        keep = settle(take(cost, index), location, found, k, grid, targets)
        label = torch.where(keep, take(overlap, index), 0)
        weights = {"box_weight": label} if self.box_weight == "iou" else {}
        samples = Samples.at_locations(grid, location, targets.index[:, None], keep, label=label, **weights)
        return Assignment(samples, negatives(grid, targets))

    def _cost(self, grid: Grid, targets: Targets, predictions: Predictions, pairs: Pairs) -> tuple[Tensor, Tensor]:
        """Cost and overlap of the predicted box of every pair, each ``[P]``."""
        gt, location, cell = pairs.gt, pairs.location, pairs.cell
        overlap = predicted_overlap(targets, predictions, gt, cell).clamp(max=1)
        offset = at(grid.points, location) - at(centers(targets.boxes), gt)
        strides_away = offset.square().sum(dim=-1).sqrt() / at(grid.stride, location)
        classes = soft_class_cost(predictions.logits, cell, at(targets.labels, gt), overlap)
        price = torch.pow(10.0, strides_away - self.radius)
        return finite(classes - self.iou_weight * (overlap + EPS).log() + price), overlap


def soft_class_cost(logits: Tensor, cell: Tensor, channel: Tensor, overlap: Tensor) -> Tensor:
    """``sum_c |y_c - s_c|^2 BCE(z_c, y_c)`` with y the overlap for the own class and 0 for the others ``[P]``.

    Args:
        logits: ``[B, R, C]``; cell: ``[P]`` cell of the batch; channel: ``[P]`` own class; overlap: ``[P]``.
    """
    negative = partial(focal_negative, alpha=0.0)
    background, own = background_and_own(logits, cell, channel, negative)
    entropy = F.softplus(own) - overlap * own
    return background - negative(own) + (overlap - own.sigmoid()).square() * entropy
