"""SimOTA: optimal transport assignment without the transport (Ge et al., "YOLOX: Exceeding YOLO Series in 2021",
arXiv:2107.08430, section 2.1, equation 1; k is that of Ge et al., "OTA", CVPR 2021).

Candidates of a box are the locations inside it and near its centre. Each costs what the detector would lose there: the
class loss plus `iou_weight` times -ln IoU of its predicted box. A box asks for as many locations as its best overlaps
add up to, and takes its cheapest ones; a location that several boxes take goes to the one that it costs least.

Departures from the authors' code, each deliberate:
* a candidate lies inside its box and within `radius` of the centre (the authors': one of the two, at a penalty; YOLOX
  itself later drops the first): from outside a box there is no distance to its four sides to regress;
* hence a box's k comes from the overlaps of its own candidates, not of every box's, and a box without a candidate
  learns nothing;
* a contested location goes to the cheapest of the boxes that take it. The authors give it to the cheapest box of the
  image, which may have refused it, and so end up with more than the k that it asks for;
* the class probability alone is scored by default: the shared detector has no objectness. `score` brings the product
  back, with the quality branch in its place.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from assigners.contract import Assigner, Assignment, HeadInfo, Needs, Predictions, Samples, Step, Targets
from assigners.grid import Grid
from assigners.parts.bounds import above_zero, at_least
from assigners.parts.candidates import near_center
from assigners.parts.class_cost import background_and_own
from assigners.parts.dynamic_k import cheapest, dynamic_k, finite, settle
from assigners.parts.negatives import negatives_outside_ignore as negatives
from assigners.parts.prediction_fit import predicted_overlap

EPS = 1e-7  # added to an overlap before its logarithm
MOST_LOGIT = 100.0  # of a product of probabilities, at which binary cross-entropy is cut, too


class SimOTA(Assigner):
    """SimOTA (registry name ``sim_ota``).

    Args:
        topk: how many of a box's largest overlaps add up to its k, the paper's q; no box gets more.
        radius: half side of the centre square in strides, the paper's r (5 cells across).
        iou_weight: of -ln IoU, the paper's lambda.
        class_weight: of the class cost.
        score: the probability in the class cost: ``class`` alone, or the root of its product with the quality branch,
            as the detector scores at inference.
        label: class target of a positive: ``hard`` 1, or the ``iou`` of its predicted box (YOLOX).
    """

    needs = Needs(predictions=True)

    def __init__(
        self,
        head: HeadInfo,
        *,
        topk: int = 10,
        radius: float = 2.5,
        iou_weight: float = 3.0,
        class_weight: float = 1.0,
        score: Literal["class", "sqrt_product"] = "class",
        label: Literal["hard", "iou"] = "hard",
    ) -> None:
        super().__init__()
        at_least(1, topk=topk)
        above_zero(radius=radius)
        at_least(0, iou_weight=iou_weight, class_weight=class_weight)
        self.topk, self.radius = topk, radius
        self.iou_weight, self.class_weight = iou_weight, class_weight
        self.score, self.label = score, label

    def forward(self, grid: Grid, targets: Targets, predictions: Predictions | None, step: Step) -> Assignment:
        """Assign by the detector's losses at its candidates."""
        predictions = self.required(grid, predictions)
        gt = targets.index[:, None]
        location, ok = near_center(grid, targets.boxes, self.radius)
        cell = grid.cell(targets.image[:, None], location)
        overlap = predicted_overlap(targets, predictions, gt, cell).clamp(max=1)
        cost = finite(
            self.class_weight * self._class_cost(predictions, cell, targets.labels)
            - self.iou_weight * (overlap + EPS).log()
        )
        index, found = cheapest(cost, ok, self.topk)
        location = location.gather(1, index)
        keep = settle(cost.gather(1, index), location, found, dynamic_k(overlap, ok, self.topk), grid, targets)
        soft = {"label": torch.where(keep, overlap.gather(1, index), 0)} if self.label == "iou" else {}
        return Assignment(Samples.at_locations(grid, location, gt, keep, **soft), negatives(grid, targets))

    def _class_cost(self, predictions: Predictions, cell: Tensor, labels: Tensor) -> Tensor:
        """Binary cross-entropy of all classes at cells ``[G, K]`` with the box's own as target ``[G, K]``."""
        logits = predictions.logits.float()
        if self.score == "sqrt_product":
            logits = sqrt_product(logits, predictions.quality.float().unsqueeze(-1))
        channel = labels[:, None].expand_as(cell).flatten()
        background, own = background_and_own(logits, cell.flatten(), channel, F.softplus)
        return (background - own).view_as(cell)  # BCE(z, 1) - BCE(z, 0) = -z


def sqrt_product(a: Tensor, b: Tensor) -> Tensor:
    """The logit of ``sqrt(sigmoid(a) * sigmoid(b))``, cut at +-100."""
    log_p = (F.logsigmoid(a) + F.logsigmoid(b)) / 2
    return (log_p - (-torch.expm1(log_p)).log()).clamp(-MOST_LOGIT, MOST_LOGIT)
