"""FreeAnchor: learning to match anchors (Zhang et al., "FreeAnchor: Learning to Match Anchors for Visual Object
Detection", NeurIPS 2019).

No location is called positive. The candidates of a box form a bag, and what is learnt is the likelihood that a location
of the bag both names and covers the box (recall), while every class at every location is to be silent unless its
predicted box has matched a box of that class (precision).

* Bag likelihood: the mean-max of x = P_cls * P_loc, its mean over the bag with weights 1 / (1 - x): close to the plain
  mean while all x are small, close to the largest once one is near 1.
* Match: of the boxes of a class, the largest saturated linear function of the IoU of the predicted box, 0 up to
  `threshold` and 1 at the best IoU that the box meets.

Both replace the shared class and box terms; the quality branch learns from the likeliest location of each bag, and that
location is what the samples hold.

The bag is the paper's: the 50 anchors of largest IoU over all levels, a number found for RetinaNet's nine anchors at a
place. With one anchor at a place equal are the ranking by IoU, the mean-max, and the divisors: boxes for the positive
term, n times that for the negative one, however many members bags have. Not equal is what 50 anchors are. Nine share a
place, in three sizes and three shapes: theirs lie at few places, overlap the box well and choose a shape. Here they are
50 places, further from the centre and of less overlap; and a box may hold fewer (a square below some 50 px does), all
of which are its bag then. A smaller `bag` comes nearer to the number of their places.

Departures from the authors' code, each deliberate:
* the anchor, one square of 8 strides per location, only ranks the members of a bag, and P_loc = exp(-beta * (1 - GIoU))
  as the head regresses from points (the authors': a smooth L1 loss of anchor deltas);
* bags and matches know only the locations inside a box. The authors' bags reach outside, and any predicted box may
  match any box; a location outside never is a positive here, so there its class stays a negative. The cost then grows
  with what the boxes cover and not with boxes times locations;
* two boxes of one class that match one location: the larger match counts (advanced indexing, in one public version,
  leaves it open which);
* logarithms are taken of sums of logarithms: a bag without hope has a gradient, where a clamp has none;
* without any box in the batch the negative term is divided as with one box (the authors': by 1, a spike of n times).
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from assigners.contract import Assigner, Assignment, Declares, HeadInfo, Needs, Predictions, Samples, Step, Targets
from assigners.grid import Grid
from assigners.ops.boxes import aligned_iou, giou_loss
from assigners.ops.segments import at, group_max, smallest, take
from assigners.parts.bounds import at_least, within
from assigners.parts.candidates import Pairs, anchor_overlap, inside_pairs
from assigners.parts.likelihood import match_map, own_and_negative
from assigners.parts.negatives import negatives_outside_ignore as negatives

CERTAIN = 1e-12  # a likelihood counts as at most 1 - this: it is divided by
ABSENT = -1e9  # logarithm of the likelihood of a place of a bag that no location fills


class FreeAnchor(Assigner):
    """FreeAnchor (registry name ``free_anchor``).

    Args:
        bag: most locations in the bag of a box, the paper's n, tuned by the authors for 9 anchors per location. Boxes
            that hold fewer have them all in theirs; the negative term is divided by n all the same.
        threshold: IoU below 1 up to which a predicted box does not match at all, the paper's t.
        alpha: weight of the positive term, the paper's alpha, 0 to 1; the negative term has 1 - alpha.
        gamma: focal exponent of the negative term, the paper's gamma.
        beta: weight of the box loss within P_loc, the paper's beta.
    """

    needs = Needs(predictions=True, grads=True)
    declares = Declares(replaces=frozenset({"class", "box"}))

    def __init__(
        self, head: HeadInfo, *, bag: int = 50, threshold: float = 0.6, alpha: float = 0.5, gamma: float = 2.0,
        beta: float = 0.75,
    ) -> None:  # fmt: skip
        super().__init__()
        at_least(1, bag=bag)
        within("[0, 1)", threshold=threshold)
        within("[0, 1]", alpha=alpha)
        at_least(0, gamma=gamma, beta=beta)
        self.bag, self.threshold, self.alpha, self.gamma, self.beta = bag, threshold, alpha, gamma, beta

    def forward(self, grid: Grid, targets: Targets, predictions: Predictions | None, step: Step) -> Assignment:
        """Both likelihood terms, with gradient."""
        predictions = self.required(grid, predictions)
        pairs = inside_pairs(grid, targets)
        weight = negatives(grid, targets)
        location, ok = self._bags(grid, targets, pairs)
        gt = targets.index.repeat_interleave(location.shape[1])
        cell = grid.cell(at(targets.image, gt), location.flatten())
        own, negative = own_and_negative(
            predictions.logits.float().flatten(0, 1), None, self._match(grid, targets, predictions, pairs),
            weight.flatten(), cell * predictions.logits.shape[-1] + at(targets.labels, gt), self.gamma,
        )  # fmt: skip
        log_x, log_rest = self._likelihood(targets, predictions, gt, cell, own)
        log_x = torch.where(ok, log_x.view_as(ok), ABSENT)
        log_weight = torch.where(ok, -log_rest.view_as(ok), ABSENT)
        log_bag = torch.logsumexp(log_x + log_weight, dim=1) - torch.logsumexp(log_weight, dim=1)
        held = ok.any(dim=1)
        count = held.sum().to(log_bag.dtype)
        positive = -self.alpha * torch.where(held, log_bag, 0).sum()
        best = log_x.detach().argmax(dim=1, keepdim=True)
        silent = dict.fromkeys(("class_weight", "box_weight"), torch.zeros_like(log_bag))
        share = torch.where(ok, (log_weight.detach() - log_weight.detach().logsumexp(1, keepdim=True)).exp(), 0)
        spread = torch.where(held, 1 / share.square().sum(dim=1), 0).sum()
        return Assignment(
            Samples.at_locations(grid, location.gather(1, best).squeeze(1), targets.index, held, **silent),
            weight,
            losses={
                "positive_bag": (positive, count),
                "negative_bag": ((1 - self.alpha) / self.bag * negative, count),
            },
            statistics={"locations_per_bag": (spread, count)},
        )

    def _bags(self, grid: Grid, targets: Targets, pairs: Pairs) -> tuple[Tensor, Tensor]:
        """Location and existence of the `bag` best anchors of each box, ``[G, bag]``."""
        iou = anchor_overlap(grid, pairs.location, at(targets.boxes, pairs.gt))
        index, ok = smallest(-iou, pairs.gt, targets.num_boxes, self.bag)
        return take(pairs.location, index), ok

    def _likelihood(
        self, targets: Targets, predictions: Predictions, gt: Tensor, cell: Tensor, own: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Logarithms of x = P_cls * P_loc and of 1 - x, each ``[K]``, at cells whose logit of the class is `own`."""
        boxes = predictions.boxes.float().flatten(0, 1).index_select(0, cell)
        cost = self.beta * giou_loss(boxes, at(targets.boxes, gt))
        # 1 - x = (1 - P_cls) + P_cls * (1 - P_loc), without the digits that the difference would lose.
        rest = torch.sigmoid(-own) - torch.sigmoid(own) * torch.expm1(-cost)
        return F.logsigmoid(own) - cost, rest.clamp(min=CERTAIN).log()

    @torch.no_grad()
    def _match(self, grid: Grid, targets: Targets, predictions: Predictions, pairs: Pairs) -> Tensor:
        """How surely a location is taken by a box of each class, ``[B * R, C]`` in [0, 1]."""
        classes = predictions.logits.shape[-1]
        iou = aligned_iou(at(predictions.boxes.float().flatten(0, 1), pairs.cell), at(targets.boxes, pairs.gt))
        best = group_max(iou, pairs.gt, targets.num_boxes, empty=0.0)
        reach = (best - self.threshold).clamp(min=CERTAIN)
        match = ((iou - self.threshold) / at(reach, pairs.gt)).clamp(0, 1)
        return match_map(match, pairs.cell * classes + at(targets.labels, pairs.gt), predictions.logits)
