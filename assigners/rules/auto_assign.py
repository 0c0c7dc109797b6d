"""AutoAssign (Zhu et al., "AutoAssign: Differentiable Label Assignment for Dense Object Detection", arXiv 2020).

Every location inside a box, on all levels, is a positive of the box with a weight that is learnt:

    P = sigmoid(class) * sigmoid(objectness) * exp(-beta * (1 - GIoU))             what the location promises
    G = exp(-(d - mu)^2 / (2 sigma^2)), d = (location - box centre) / stride       centre prior, mu and sigma per class
    w+ = exp(3 P) * G, normalised over the box                                     confidence weight times centre prior
    L+ = -log(sum of w+ * P)

Every class at every location is a negative with the weight w- = 1, but for the class of a box that holds the location:
there f = 1 / (1 - IoU) is scaled to [0, 1] over the box and w- = 1 - f, so that the best prediction of each box is no
negative. A third term asks the centre prior to be large on average, which keeps sigma from collapsing. The three
replace all shared terms; the quality branch becomes the objectness, and a detection's score is the plain product.

Departures from the authors' code, each deliberate:
* sigma is learnt by its logarithm, which cannot reach 0, and which weight decay pulls to the prior of sigma = 1 (the
  authors': sigma itself, which it pulls to 0);
* the IoU within w- is the largest with the boxes that hold the location (the authors': with any box, also one that the
  location lies outside of and never is a positive of). The cost then grows with what the boxes cover;
* a class at a location that several boxes of it hold gets the smallest of their w- (the authors': that of whichever is
  written last);
* a box that holds no location is left out (the authors': a constant of 100 without gradient in L+, and a centre term
  of up to 1e12 in an image with nothing else);
* bag likelihoods are computed by their logarithms: a box without hope has a gradient, where a clamp has none.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from assigners.contract import Assigner, Assignment, Declares, HeadInfo, Needs, Predictions, Step, Targets
from assigners.grid import Grid
from assigners.ops.boxes import aligned_iou, giou_loss
from assigners.ops.segments import at, group_max, group_min, group_sum, marked
from assigners.parts.bounds import at_least, within
from assigners.parts.candidates import Pairs, centers, inside_pairs
from assigners.parts.likelihood import by_chunks, group_logsumexp, likeliest_samples, match_map, own_and_negative
from assigners.parts.negatives import negatives_outside_ignore as negatives

SHARPNESS = 3.0  # of the confidence weight exp(3 P); a constant of the paper
EPS = 1e-12  # an IoU counts as at most 1 - this; the mass of a centre prior is at least this


class AutoAssign(Assigner):
    """AutoAssign (registry name ``auto_assign``).

    Args:
        alpha: weight of the positive term, the paper's alpha, 0 to 1; the negative term has 1 - alpha.
        gamma: focal exponent of the negative term, the paper's gamma.
        beta: weight of the box loss within P, the paper's lambda.
        center: weight of the term that keeps the centre prior large, as in the authors' code.
    """

    needs = Needs(predictions=True, grads=True)
    declares = Declares(replaces=frozenset({"class", "box", "quality"}), quality="objectness", score="product")

    def __init__(
        self, head: HeadInfo, *, alpha: float = 0.25, gamma: float = 2.0, beta: float = 5.0, center: float = 0.75
    ) -> None:
        super().__init__()
        within("[0, 1]", alpha=alpha)
        at_least(0, gamma=gamma, beta=beta, center=center)
        self.alpha, self.gamma, self.beta, self.center = alpha, gamma, beta, center
        self.mu = nn.Parameter(torch.zeros(head.num_classes, 2))
        self.log_sigma = nn.Parameter(torch.zeros(head.num_classes, 2))

    def forward(self, grid: Grid, targets: Targets, predictions: Predictions | None, step: Step) -> Assignment:
        """The three terms, with gradient."""
        predictions = self.required(grid, predictions)
        pairs, boxes = inside_pairs(grid, targets), targets.num_boxes
        weight = negatives(grid, targets)
        channel = pairs.cell * predictions.logits.shape[-1] + at(targets.labels, pairs.gt)
        own, negative = own_and_negative(
            predictions.logits.float().flatten(0, 1), predictions.quality.float().flatten(),
            self._match(targets, predictions, pairs, channel), weight.flatten(), channel, self.gamma,
        )  # fmt: skip
        log_p, log_g = self._promises(grid, targets, predictions, pairs, own)
        confidence = SHARPNESS * log_p.exp() + log_g
        share = group_logsumexp(confidence, pairs.gt, boxes)
        log_bag = group_logsumexp(confidence + log_p, pairs.gt, boxes) - share
        held = marked(pairs.gt, torch.ones_like(pairs.gt), boxes)
        count = held.sum().to(log_bag.dtype)
        prior = group_sum(log_g.exp(), at(targets.image, pairs.gt), targets.num_images)
        boxes_of = group_sum(held.to(prior.dtype), targets.image, targets.num_images)
        unreached = 0 * (self.mu.sum() + self.log_sigma.sum())  # a batch without boxes still reaches them
        spread = group_sum((2 * (confidence.detach() - at(share.detach(), pairs.gt))).exp(), pairs.gt, boxes)
        return Assignment(
            likeliest_samples(grid, targets, pairs, confidence.detach(), held),
            weight,
            losses={
                "positive": (-self.alpha * torch.where(held, log_bag, 0).sum(), count),
                "negative": ((1 - self.alpha) * negative, prior.detach().sum()),
                "center": (
                    self.center * (boxes_of / prior.clamp(min=EPS)).sum() + unreached,
                    prior.new_full((), float(targets.num_images)),
                ),
            },
            statistics={"locations_per_box": (torch.where(held, 1 / spread, 0).sum(), count)},
        )

    def _promises(
        self, grid: Grid, targets: Targets, predictions: Predictions, pairs: Pairs, own: Tensor
    ) -> tuple[Tensor, Tensor]:
        """log P and log G of every pair, each ``[P]``, whose logit of the class is `own`."""
        objectness, boxes = predictions.quality.flatten().float(), predictions.boxes.flatten(0, 1).float()

        def of(gt: Tensor, location: Tensor, cell: Tensor, own: Tensor) -> tuple[Tensor, Tensor]:
            label, truth = at(targets.labels, gt), at(targets.boxes, gt)
            overlap = giou_loss(boxes.index_select(0, cell), truth)
            log_p = F.logsigmoid(own) + F.logsigmoid(objectness.index_select(0, cell)) - self.beta * overlap
            offset = (at(grid.points, location) - centers(truth)) / at(grid.stride, location)[:, None]
            scaled = (offset - self.mu.index_select(0, label)) * torch.exp(-self.log_sigma).index_select(0, label)
            return log_p, -0.5 * scaled.square().sum(dim=-1)

        log_p, log_g = by_chunks(of, pairs.gt, pairs.location, pairs.cell, own)
        return log_p, log_g

    @torch.no_grad()
    def _match(self, targets: Targets, predictions: Predictions, pairs: Pairs, channel: Tensor) -> Tensor:
        """``1 - w-`` of each class at each location, ``[B * R, C]`` in [0, 1], from all pairs ``[P]``."""
        gt, cell, boxes = pairs.gt, pairs.cell, predictions.boxes.flatten(0, 1).float()
        (iou,) = by_chunks(lambda where, box: (aligned_iou(at(boxes, where), at(targets.boxes, box)),), cell, gt)
        best = at(group_max(iou, cell, boxes.shape[0], empty=0.0), cell)
        f = 1 / (1 - best).clamp(min=EPS)
        low = at(group_min(f, gt, targets.num_boxes, empty=float("inf")), gt)
        high = at(group_max(f, gt, targets.num_boxes, empty=0.0), gt)
        scaled = torch.where(high > low, (f - low) / (high - low).clamp(min=EPS), 1)
        return match_map(scaled, channel, predictions.logits)
