"""MuSu: mutual supervision (Gao, Wang and Wu, "Mutual Supervision for Dense Object Detection", ICCV 2021, arXiv
2109.05986).

Where a detector classifies best it need not locate best, and training both branches on the same samples leaves it so.
In MuSu each branch is taught where the other one is good. With p the score of a location for the class of a box and u
the IoU of its predicted box:

    bag of the box: the topk locations inside it, of all levels, with the largest P = p u, if P >= share * max P   (1)
    s_class = p^(1 - mutual) u^mutual,    s_box = p^mutual u^(1 - mutual)                                          (2)
    w_class = exp(-r_class / temperature),    w_box = exp(-r_box / temperature)                                    (3)

where r_class and r_box are the ranks, from 0, of a location by s_class and by s_box among those of the bag. With
`mutual` above a half the class branch's samples are chosen mostly by localisation and those of the box branch mostly by
classification, a half ranks both alike, and 0 lets each choose for itself. Weights go by ranks, so that they ask
neither for calibrated scores nor for good boxes: the best location of each kind has 1 from the first step on.

w_class is the label of the location (cross-entropy with the label w is w times that of a positive plus 1 - w times that
of a negative) and w_box its weight in the box loss; the quality branch learns the IoU in all of the bag alike. A
location in the bags of several boxes stays with the one of the largest P; ranks are of what is left to each.

The statistic `agreement` is the share of boxes whose best locations for both branches are the same one.

Confirmed, by the abstract, the caption of Figure 2 and readers' notes, are the order of the steps (a bag that adapts by
both branches together, a ranking from the view of each, weights from ranks on the losses of each location) and what
mostly decides either weight. Open, since neither the paper's equations nor public code could be read: the form of P and
of the scores, exponential weights that are the same for boxes of all sizes, labels in the class loss, and all defaults:
they are ours.

Departures, each deliberate:
* one prediction a location: the paper also tiles several anchors on each, for which the shared head has no room;
* labels go through the protocol's class loss, which is divided by its own count;
* a box of which every P is 0 has the `topk` locations nearest to its centre.
"""

from __future__ import annotations

import torch
from torch import Tensor

from assigners.contract import Assigner, Assignment, HeadInfo, Needs, Predictions, Samples, Step, Targets
from assigners.grid import Grid
from assigners.ops.segments import at, smallest, take
from assigners.parts.bounds import above_zero, at_least, within
from assigners.parts.candidates import centers, inside_pairs
from assigners.parts.dynamic_k import settle
from assigners.parts.negatives import negatives_outside_ignore as negatives
from assigners.parts.prediction_fit import score_and_overlap


class MuSu(Assigner):
    """MuSu (registry name ``musu``).

    Args:
        topk: most locations in the bag of a box.
        share: of the box's largest P that a location of the bag reaches, 0 to 1.
        mutual: share of the other branch in what a branch's samples are ranked by, 0 to 1.
        temperature: ranks, above 0, over which a weight falls to 1 / e.
    """

    needs = Needs(predictions=True)

    def __init__(
        self, head: HeadInfo, *, topk: int = 16, share: float = 0.1, mutual: float = 0.8, temperature: float = 4.0
    ) -> None:
        super().__init__()
        at_least(1, topk=topk)
        within("[0, 1]", share=share, mutual=mutual)
        above_zero(temperature=temperature)
        self.topk, self.share, self.mutual, self.temperature = topk, share, mutual, temperature

    def forward(self, grid: Grid, targets: Targets, predictions: Predictions | None, step: Step) -> Assignment:
        """Assign by the detector's predictions inside each box."""
        predictions = self.required(grid, predictions)
        location, score, overlap, ok = self._bags(grid, targets, predictions)
        class_rank = ranks(score.pow(1 - self.mutual) * overlap.pow(self.mutual), ok)
        box_rank = ranks(score.pow(self.mutual) * overlap.pow(1 - self.mutual), ok)
        label, box_weight = (torch.where(ok, torch.exp(-rank / self.temperature), 0) for rank in (class_rank, box_rank))
        both = (ok & (class_rank == 0) & (box_rank == 0)).sum()
        return Assignment(
            Samples.at_locations(grid, location, targets.index[:, None], ok, label=label, box_weight=box_weight),
            negatives(grid, targets),
            statistics={"agreement": (both, ok.any(dim=1).sum())},
        )

    def _bags(self, grid: Grid, targets: Targets, predictions: Predictions) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Locations, scores, overlaps and existence ``[G, topk]`` of the bags, without those that others keep."""
        pairs = inside_pairs(grid, targets)
        score, overlap = score_and_overlap(targets, predictions, pairs.gt, pairs.cell)
        joint = (score * overlap).float()
        offset = at(grid.points, pairs.location) - at(centers(targets.boxes), pairs.gt)
        key = torch.where(joint > 0, -joint, offset.square().sum(dim=-1))  # without any P the distance is the key
        index, ok = smallest(key, pairs.gt, targets.num_boxes, self.topk)
        location, key, joint = take(pairs.location, index), take(key, index), take(joint, index)
        ok = ok & (joint >= self.share * joint.amax(dim=1, keepdim=True))
        ok = settle(key, location, ok, self.topk, grid, targets)
        return location, take(score, index), take(overlap, index), ok


def ranks(score: Tensor, ok: Tensor) -> Tensor:
    """Ranks ``[G, K]`` of each row's scores among its existing ones, from 0 at the largest, ties in their order."""
    # float32: the last bit of a float64 power may depend on where in a list the number stands.
    order = torch.sort(torch.where(ok, -score.float(), torch.inf), dim=1, stable=True).indices
    place = torch.arange(order.shape[1], device=order.device).expand_as(order)
    return torch.empty_like(order).scatter_(1, order, place)
