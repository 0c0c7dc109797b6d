"""UOT: unbalanced optimal transport (De Plaen et al., "Unbalanced Optimal Transport: A Unified Framework for Object
Detection", CVPR 2023, arXiv 2307.02402).

Matching to the nearest box, matching every box to its nearest prediction and one-to-one matching are limits of one
problem. Every location has one label to take; every box has one to give and the background, which costs c anywhere, the
others of the image. With N locations, G boxes and the plan P in labels (the paper: in parts of 1 / N),

    min over P  eps KL(P | N exp(-C / eps))  +  reg_pred KL(sum of P over boxes and background | 1)
                                             +  reg_target KL(sum of P over locations | b)

    C(box, location) = (class_weight (1 - p) + iou_weight (1 - IoU)) / (class_weight + iou_weight),  C(background) = c
    b(box) = 1,  b(background) = N - G,  eps = regularisation / (1 + ln 2N)

p is the score of the box's class and IoU that of the predicted box. Generalised Sinkhorn steps solve it, a fixed number
(`assigners.parts.sinkhorn.unbalanced`). Its limits, with a large value of the other penalty:

    reg_target -> 0     a location learns the cheapest of all boxes and the background: c is a threshold
    reg_pred -> 0       a box is learnt by its cheapest locations
    both large          one to one, as the Hungarian algorithm matches, softened by eps

In between, a box with m labels pays reg_target ln m on top of each cost, and takes what is cheaper than the background
at that price: about one location where its predictions are poor, up to exp((c - C) / reg_target) where they are good.

Losses are weighted by the plan: a location learns each box with its part of the label, P, in the losses of class and
box, and that it is background with the background's part. In the contract's terms a pair has two rows: a positive of
label 1 and weight P, and a negative of the box's class with what the location gives the background and other classes.
So the sum is the paper's with any class loss, where a row with a soft label would be so with cross-entropy alone, and
negatives are the mass on the background. A location may learn several boxes.

Confirmed, by the authors' documentation and code (github.com/hdeplaen/uotod): the problem, b, eps and its 0.12, the
order of the steps and their 70, a background of constant cost, costs of class plus box, losses as sums over the plan.
The plan equals that of the code (tests). Of the paper itself only the beginning could be read, with c = 0.8 in its
first figure.

Departures, each deliberate:
* locations inside a box and near its centre alone may learn it, as in OTA: others cannot regress it. A box without any
  gives nothing, and neither counts against the background, which has one label at least;
* costs are divided by the largest that there can be, not by the largest of the batch: images do not see each other;
* the class is scored by a sigmoid, 1 - p being the code's -p up to a constant, and the IoU stands for GIoU and L1:
  near its centre a predicted box always meets its target;
* `reg_target` is ours, between the code's 1 and 0.001 of its SSD: there costs are of anchors, which do not move, and
  a threshold finds positives from the first step on, which predictions at first would hardly reach;
* candidates of a mass below `least` are the background's, so that the protocol, which divides the class loss by the
  number of positives, does not count hundreds of nothing; `normaliser=weights` divides by their mass, as the code does
  for focal loss;
* negatives of classes that a location does not learn weigh 1, its whole label (the code: up to a soft sum).
"""

from __future__ import annotations

from math import log
from typing import Literal

import torch
from torch import Tensor

from assigners.contract import Assigner, Assignment, Declares, HeadInfo, Needs, Predictions, Step, Targets
from assigners.grid import Grid
from assigners.ops.segments import at, consecutive, group_sum
from assigners.parts.bounds import above_zero, at_least, within
from assigners.parts.candidates import near_center
from assigners.parts.dual_samples import dual_samples
from assigners.parts.negatives import negatives_outside_ignore
from assigners.parts.prediction_fit import score_and_overlap
from assigners.parts.sinkhorn import Plan, unbalanced


class UOT(Assigner):
    """Unbalanced optimal transport (registry name ``uot``).

    Args:
        head: of the detector.
        reg_target: penalty on what boxes and background give, in units of the cost, which is 0 to 1.
        reg_pred: penalty on what locations take.
        background_cost: of the background, the paper's c.
        regularisation: of the plan's entropy, the code's `reg_dimless`.
        iterations: of Sinkhorn.
        class_weight, iou_weight: of the score and of the IoU in the cost.
        radius: half side of the centre square in strides.
        least: smallest mass of a positive.
        normaliser: what divides the class loss: the ``protocol``'s choice, or the sum of the positives' ``weights``.

    Raises:
        ValueError: for an option out of its range.
    """

    needs = Needs(predictions=True)

    def __init__(
        self,
        head: HeadInfo,
        *,
        reg_target: float = 0.25,
        reg_pred: float = 1000.0,
        background_cost: float = 0.8,
        regularisation: float = 0.12,
        iterations: int = 70,
        class_weight: float = 1.0,
        iou_weight: float = 2.0,
        radius: float = 2.5,
        least: float = 0.05,
        normaliser: Literal["protocol", "weights"] = "protocol",
    ) -> None:
        super().__init__()
        at_least(0, reg_target=reg_target, reg_pred=reg_pred, background_cost=background_cost)
        at_least(0, class_weight=class_weight, iou_weight=iou_weight)
        at_least(1, iterations=iterations)
        above_zero(regularisation=regularisation, radius=radius)
        if not class_weight + iou_weight > 0:
            raise ValueError(f"class_weight is {class_weight} and iou_weight {iou_weight}; one of them must be > 0")
        within("(0, 1]", least=least)
        self.reg_target, self.reg_pred, self.background_cost = reg_target, reg_pred, background_cost
        self.regularisation, self.iterations, self.radius, self.least = regularisation, iterations, radius, least
        self.class_weight, self.iou_weight = class_weight, iou_weight
        self.declares = Declares(normaliser="weights" if normaliser == "weights" else None)

    def forward(self, grid: Grid, targets: Targets, predictions: Predictions | None, step: Step) -> Assignment:
        """Assign by the plan of least cost.

        Raises:
            ValueError: without predictions.
        """
        predictions = self.required(grid, predictions)
        location, ok = near_center(grid, targets.boxes, self.radius)
        cell = grid.cell(targets.image[:, None], location)
        plan = self._plan(grid, targets, predictions, cell, ok)
        # In float32: what differs by the rounding of a long sum alone is equal, whatever the order of the boxes.
        mass = plan.boxes.float().clamp(max=1)  # above 1 where both penalties are small
        kept = ok & (mass >= self.least)
        whole = plan.background.float().flatten().index_add(0, cell.flatten(), mass.flatten())
        mass = torch.where(kept, mass, 0)
        channel = cell * predictions.logits.shape[-1] + targets.labels[:, None]
        negative = negatives_outside_ignore(grid, targets)
        push = other_classes(mass, at(whole, cell), channel) * at(negative.flatten(), cell)
        samples = dual_samples(grid, location, targets.index[:, None], (kept, mass), (kept, push))
        return Assignment(
            samples, negative, statistics={"mass_per_box": (mass.sum(), mass.new_tensor(float(targets.num_boxes)))}
        )

    def _plan(self, grid: Grid, targets: Targets, predictions: Predictions, cell: Tensor, ok: Tensor) -> Plan:
        score, overlap = score_and_overlap(targets, predictions, targets.index[:, None], cell)
        cost = self.class_weight * (1 - score) + self.iou_weight * (1 - overlap)
        cost = cost / (self.class_weight + self.iou_weight)
        locations = grid.num_locations
        eps = self.regularisation / (1 + log(2 * locations))
        return unbalanced(
            (self.background_cost - cost) / eps, cell, ok, targets.image, (targets.num_images, locations),
            self.iterations, background_cost=self.background_cost / eps,
            location_penalty=self.reg_pred / eps, supplier_penalty=self.reg_target / eps,
        )  # fmt: skip


def other_classes(mass: Tensor, whole: Tensor, channel: Tensor) -> Tensor:
    """What locations give to others than the class of each pair; pairs of one class share it by their mass.

    Args:
        mass: ``[G, K]`` that a location gives a box; whole: ``[G, K]`` that it gives in all.
        channel: ``[G, K]`` place of the location and the class, equal where both are.

    Returns:
        ``[G, K]`` in 0 to 1; 0 where there is no mass.
    """
    place = consecutive(channel.flatten())
    of_class = at(group_sum(mass.flatten(), place, place.numel()), place).view_as(mass)
    return (whole - of_class).clamp(0, 1) * mass / of_class.clamp(min=torch.finfo(mass.dtype).tiny)
