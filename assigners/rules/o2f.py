"""O2F: one-to-few label assignment (Li et al., "One-to-Few Label Assignment for End-to-End Dense Detection", CVPR 2023,
arXiv 2303.11567).

One-to-one rules such as POTO call everything but one location of a box background, the neighbours too, which look the
same. O2F makes the best of those neighbours ambiguous: positive and negative at once, more of a positive as training
begins, when features are learnt, and more of a negative as it ends, when doubles are unlearnt.

Of the locations that center sampling allows a box, the `topk` that fit it best are its own,

    Q = p^(1 - alpha) * IoU^alpha              p: score of the box's class, IoU: of the predicted box              (1)

a location that several boxes take goes to the one with the highest Q, and the best that is left to a box is its certain
positive, of label 1. Each other one, j, is ambiguous, with the positive degree

    t_j = T * p_j / max p,  max over the ambiguous ones of the box,                                                (2)
    T = start + (end - start) * progress                                                                           (3)

as its class label: cross-entropy with the label t is t times that of a positive plus 1 - t times that of a negative.
Ambiguous locations weigh `weight` in the class loss and learn box and quality like any positive.

The authors evaluate without NMS (`nms=false`, which is declared). The shared head helps less to silence doubles: its
quality branch learns the IoU, which is as high beside the certain location, where theirs learns through the class loss.

Departures from the authors' code, each deliberate:
* p is the class score, not its product with the sigmoid of a branch that has no target of its own (three more
  convolutions there); the shared head's quality branch learns the IoU;
* labels go through the protocol's class loss, focusing included; the code takes plain cross-entropy for all that has a
  label and focal loss, 0.75 s^2, for negatives;
* positives weigh the same in the box loss (the code: by centerness, as in its FCOS);
* T falls at every step, not at every epoch: the same line between the same ends;
* a box that no prediction overlaps still has its certain positive, the location nearest to its centre, where the code
  leaves it without; ties of Q go by the distance to the centre (the code: as its sort has them). As there, nothing is
  ambiguous without overlap, and a box whose `topk` all fit others better learns nothing.
Open: which of these numbers the paper states was not checked: `weight` is the code's, whose `topk` of 7 counts the
certain positive.
"""

from __future__ import annotations

import torch
from torch import Tensor

from assigners.contract import Assigner, Assignment, Declares, HeadInfo, Needs, Predictions, Samples, Step, Targets
from assigners.grid import Grid
from assigners.ops.segments import at
from assigners.parts.bounds import above_zero, at_least, within
from assigners.parts.candidates import centers, near_center
from assigners.parts.dynamic_k import cheapest, settle
from assigners.parts.negatives import negatives_outside_ignore as negatives
from assigners.parts.prediction_fit import score_and_overlap


class O2F(Assigner):
    """O2F (registry name ``o2f``).

    Args:
        topk: most locations of a box, its certain positive among them; 1 has none that are ambiguous.
        start, end: the paper's T as training begins and ends, the largest positive degree of an ambiguous location.
        weight: of ambiguous locations in the class loss.
        alpha: weight of the overlap against the class score in Q, as in POTO.
        radius: half side of the sampling square in strides.
        nms: evaluate with the protocol's NMS. The paper's detector does without.
    """

    needs = Needs(predictions=True)

    def __init__(
        self,
        head: HeadInfo,
        *,
        topk: int = 7,
        start: float = 0.6,
        end: float = 0.2,
        weight: float = 0.4,
        alpha: float = 0.8,
        radius: float = 1.5,
        nms: bool = True,
    ) -> None:
        super().__init__()
        at_least(1, topk=topk)
        if not 0 <= end <= start <= 1:
            raise ValueError(f"start is {start} and end {end}; degrees lie in 0 to 1 and never rise")
        at_least(0, weight=weight)
        within("[0, 1]", alpha=alpha)
        above_zero(radius=radius)
        self.topk, self.start, self.end, self.weight = topk, start, end, weight
        self.alpha, self.radius = alpha, radius
        self.declares = Declares(nms=nms)

    def forward(self, grid: Grid, targets: Targets, predictions: Predictions | None, step: Step) -> Assignment:
        """Assign by the detector's predictions near the centre of each box."""
        predictions = self.required(grid, predictions)
        location, ok = near_center(grid, targets.boxes, self.radius)
        offset = (at(grid.points, location) - centers(targets.boxes)[:, None]).square().sum(dim=-1)
        nearest = torch.sort(offset, dim=1, stable=True).indices  # an order in which equal Q stay
        location, ok = location.gather(1, nearest), ok.gather(1, nearest)
        # Of a window of 80 cells few lie in the box: let the others read one and the same place, which is cheap.
        cell = torch.where(ok, grid.cell(targets.image[:, None], location), 0)
        score, overlap = score_and_overlap(targets, predictions, targets.index[:, None], cell)
        quality = (score.pow(1 - self.alpha) * overlap.pow(self.alpha)).float()

        index, found = cheapest(-quality, ok, self.topk)
        location, score, quality = (each.gather(1, index) for each in (location, score, quality))
        first = torch.arange(index.shape[1], device=index.device) == 0
        own = settle(-quality, location, found & (first | (quality > 0)), self.topk, grid, targets)
        certain = own & (own.cumsum(dim=1) == 1)
        ambiguous = own & ~certain
        degree = self.degree(step.progress) * relative(score, ambiguous)
        label = torch.where(certain, 1.0, degree).float()
        weight = certain.to(label.dtype) + self.weight * ambiguous.to(label.dtype)
        return Assignment(
            Samples.at_locations(grid, location, targets.index[:, None], own, label=label, class_weight=weight),
            negatives(grid, targets),
            statistics={
                "ambiguous_per_box": (ambiguous.sum(), label.new_full((), float(targets.num_boxes))),
                "degree": (torch.where(ambiguous, label, 0).sum(), ambiguous.sum()),
            },
        )

    def degree(self, progress: float) -> float:
        """The largest positive degree of an ambiguous location at this share of training, the paper's T."""
        return self.start + (self.end - self.start) * progress


def relative(score: Tensor, among: Tensor) -> Tensor:
    """Scores ``[G, K]`` over the largest of each row's `among`; 0 elsewhere, and where all of them are 0."""
    score = torch.where(among, score, 0)
    return score / score.amax(dim=1, keepdim=True).clamp(min=torch.finfo(score.dtype).tiny)
