"""A dense version of PAA: tables for its first stage, then one mixture per box, as the published code has it."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.ops import box_iou, generalized_box_iou_loss, sigmoid_focal_loss

from harness.bench.dense.picture import NEGATIVE, Answer, Picture
from harness.verify.published.oracles.geometry import Array
from harness.verify.published.oracles.paa import fit

MOST_ITERATIONS = 100  # of expectation maximisation, scikit-learn's own bound


def paa(picture: Picture, topk: int = 9, threshold: float = 0.1) -> Answer:
    """PAA: a mixture of two Gaussians over the losses of each box's candidates."""
    own = _first_stage(picture, threshold)
    candidates = own.ge(0).nonzero().squeeze(1)
    box = own[candidates]
    one_hot = F.one_hot(picture.labels[box], picture.logits.shape[1]).float()
    score = sigmoid_focal_loss(picture.logits[candidates], one_hot).sum(dim=1)
    score = score + generalized_box_iou_loss(picture.predicted[candidates], picture.boxes[box])
    level = picture.grid.level[candidates]
    assigned = torch.full_like(own, NEGATIVE)
    for index in range(len(picture.boxes)):
        chosen = []
        for number in range(picture.grid.num_levels):
            here = ((box == index) & (level == number)).nonzero().squeeze(1)
            chosen.append(here[score[here].topk(min(topk, len(here)), largest=False).indices])
        members = torch.cat(chosen)
        if len(members):
            order = members[score[members].argsort()]
            kept = positives(score[order].double().numpy())
            assigned[candidates[order[:kept]]] = index
    return Answer(assigned)


def _first_stage(picture: Picture, threshold: float) -> Tensor:
    """Box of each location: those whose best overlap it is come first."""
    iou = torch.where(picture.inside(), box_iou(picture.anchors, picture.boxes), -1)
    best_of_box = iou.amax(dim=0)
    claims = (iou == best_of_box) & (iou > 0)
    # Of equal overlaps the smaller box has the larger claim.
    order = picture.areas.argsort(stable=True)
    best, place = (iou.double() + 2 * claims)[:, order].max(dim=1)
    able = claims.any(dim=1) | (iou.amax(dim=1) >= threshold)
    return torch.where(able & (best >= 0), order[place], NEGATIVE)


def positives(x: Array) -> int:
    """How many of a box's candidates, by ascending score, are positive."""
    if len(x) < 2:
        return len(x)
    fitted = fit(x, MOST_ITERATIONS)
    front = fitted.labels == 0
    return int(np.where(front, fitted.log_density, -np.inf).argmax()) + 1 if front.any() else len(x)
