"""MDOD: the boxes of an image as a mixture density, without matching (Yoo et al., "Training Multi-Object Detector by
Estimating Bounding Box Distribution for Input Image", ICCV 2021; first as arXiv 1911.12721, with Gaussians).

Every location k of an image is a component: it predicts a box mu_k, has a share pi_k of the whole, the softmax of the
quality branch over all locations of all levels, and class probabilities p_k. What the image shows is to be likely:

    F(b; k) = product over sides d of 1 / (PI gamma_kd (1 + ((b_d - mu_kd) / gamma_kd)^2))    four Cauchy densities
    L_box   = -mean over boxes b of log(sum over k of pi_k F(b; k))                         teaches boxes and shares
    L_class = -mean over draws r of log(sum over k of pi_k F(r; k) P(c_r; p_k))                teaches classes alone

Draws r are boxes of components that are picked by pi; c_r is the class of the box that r overlaps most, if by more than
half, or background. So background is learnt where the mixture itself sees objects, and there are no negatives to list.
The two terms, L_class with the weight 2 of the authors' configuration, replace all shared ones. (Formulas as in the
authors' code, github.com/yoojy31/MDOD, which calls the terms mog_nll and mod_nll.)

What the method asks of a head that the shared one lacks:
* scales. Here gamma_kd = max(softplus(t_d) * stride / 4, 0.05 * side of mu_k) as in the code, but the four t_d are
  parameters of the assigner, where theirs are a map: what is left of its last convolution is the bias;
* boxes centred within a stride of their location: the head's merely hold it;
* classes that exclude each other, background among them. The head has a sigmoid for each: P is a product over classes,
  of the presence of the shown one, if any, and of the absence of all others;
* a score that is the class probability alone, of components with pi above 0.001 of the largest. Here the sigmoid of the
  quality branch is a factor of the score; where it is small it is pi, up to a constant of the image.

Departures from the authors' code, each deliberate:
* only locations inside a box are components for it, and for draws that show it (theirs: all of the image): from outside
  the head cannot predict it. Shares are still of the whole image. A box that holds no location is left out, and so are
  draws that show it;
* gamma is at least 1 / PI px, so that no density exceeds 1 and no loss falls below 0: for boxes of a few px alone;
* sums are taken by their logarithms: a hopeless box has a gradient, where an added 1e-12 drowns it;
* pi is not multiplied by the number of boxes, a constant of each logarithm. In theirs it makes both terms of an image
  without boxes constant; here such an image draws once and learns background there;
* in an ignore region no share is taught to be smaller, and no class to be absent.
As in their configuration gamma adds no noise to the draws.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from assigners.contract import Assigner, Assignment, Declares, HeadInfo, Needs, Predictions, Step, Targets
from assigners.grid import Grid
from assigners.ops.segments import at, group_sum, marked
from assigners.parts.bounds import at_least, within
from assigners.parts.candidates import Pairs, inside_pairs
from assigners.parts.likelihood import by_chunks, group_logsumexp, likeliest_samples
from assigners.parts.mixture import class_likelihood, draw, log_cauchy
from assigners.parts.negatives import negatives_outside_ignore as negatives

UNIT = 0.25  # strides: gamma where softplus(t) is 1 (the authors': 1/16 of 32 px on the finest level)
LEAST_SCALE = 1 / torch.pi  # px: the density of a Cauchy distribution of this scale is at most 1


class MDOD(Assigner):
    """Mixture density of boxes (registry name ``mdod``).

    Args:
        draws: components drawn for L_class, for every box of an image.
        most: draws of an image, at most.
        overlap: IoU above which a drawn box shows an object.
        least: smallest gamma, as a share of the predicted side.
        class_weight: of L_class.
    """

    needs = Needs(predictions=True, grads=True)
    declares = Declares(replaces=frozenset({"class", "box", "quality"}), quality="objectness", score="product")

    def __init__(
        self, head: HeadInfo, *, draws: int = 5, most: int = 150, overlap: float = 0.5, least: float = 0.05,
        class_weight: float = 2.0,
    ) -> None:  # fmt: skip
        super().__init__()
        at_least(1, draws=draws, most=most)
        within("[0, 1)", overlap=overlap)
        at_least(0, least=least, class_weight=class_weight)
        self.draws, self.most, self.overlap = draws, most, overlap
        self.least, self.class_weight = least, class_weight
        self.spread = nn.Parameter(torch.zeros(4))  # t of left, top, right, bottom

    def forward(self, grid: Grid, targets: Targets, predictions: Predictions | None, step: Step) -> Assignment:
        """Both terms, with gradient."""
        predictions = self.required(grid, predictions)
        pairs, boxes = inside_pairs(grid, targets), targets.num_boxes
        weight, quality = negatives(grid, targets), predictions.quality.float()
        joint = quality.flatten().index_select(0, pairs.cell) + self._log_density(grid, targets, predictions, pairs)
        bag = group_logsumexp(joint, pairs.gt, boxes)
        whole = torch.where(weight > 0, quality, quality.detach()).logsumexp(dim=1)
        held = marked(pairs.gt, torch.ones_like(pairs.gt), boxes)
        count = held.sum().to(bag.dtype)
        likelihood = torch.where(held, bag - whole.index_select(0, targets.image), 0).sum()
        drawn = draw(targets, predictions, step, each=self.draws, most=self.most, overlap=self.overlap)
        ok = at(torch.cat((held, held.new_ones(1))), drawn.gt)
        scales = self._scales(predictions.boxes.float(), grid.stride).detach()
        classes = class_likelihood(grid, targets, predictions, scales, drawn, ok, weight)
        counted = ok.sum().to(bag.dtype)
        spread = group_sum((2 * (joint - bag.index_select(0, pairs.gt)).detach()).exp(), pairs.gt, boxes)
        return Assignment(
            likeliest_samples(grid, targets, pairs, joint.detach(), held),
            weight,
            losses={
                "box_density": (0 * self.spread.sum() - likelihood, count),  # a batch without boxes still reaches it
                "class_density": (self.class_weight * classes, counted),
            },
            statistics={
                "locations_per_box": (torch.where(held, 1 / spread, 0).sum(), count),
                "draws_on_boxes": ((ok & (drawn.gt < boxes)).sum().to(bag.dtype), counted),
            },
        )

    def _scales(self, predicted: Tensor, stride: Tensor) -> Tensor:
        """gamma of predicted boxes ``[..., 4]`` at strides ``[...]``, ``[..., 4]`` px."""
        side = (predicted[..., 2:] - predicted[..., :2]).detach()
        learnt = F.softplus(self.spread) * (UNIT * stride)[..., None]
        return torch.maximum(learnt, (self.least * torch.cat((side, side), dim=-1)).clamp(min=LEAST_SCALE))

    def _log_density(self, grid: Grid, targets: Targets, predictions: Predictions, pairs: Pairs) -> Tensor:
        """log F of every pair, ``[P]``."""
        boxes = predictions.boxes.float().flatten(0, 1)

        def of(gt: Tensor, location: Tensor, cell: Tensor) -> tuple[Tensor]:
            mine = boxes.index_select(0, cell)
            return (log_cauchy(at(targets.boxes, gt), mine, self._scales(mine, at(grid.stride, location))),)

        return by_chunks(of, pairs.gt, pairs.location, pairs.cell)[0]
