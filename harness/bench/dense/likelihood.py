"""Dense versions of rules that are likelihoods: they answer with losses, through which gradients flow."""

from __future__ import annotations

import torch
from torch import Tensor
from torchvision.ops import box_iou, generalized_box_iou_loss

from harness.bench.dense.picture import Picture

Losses = dict[str, Tensor]  # sums over the image


def largest_per_class(values: Tensor, picture: Picture) -> Tensor:
    """[R, C] from [n, R], 0 where a class has no box."""
    channel = picture.labels[:, None].expand_as(values)
    return torch.zeros_like(picture.logits.detach().T).scatter_reduce(0, channel, values, "amax").T


def negative_focal(probability: Tensor, gamma: float) -> Tensor:
    """Focal loss of negatives, summed."""
    return (probability.pow(gamma) * -torch.log1p(-probability.clamp(max=1 - 1e-7))).sum()


def free_anchor(
    picture: Picture, bag: int = 50, threshold: float = 0.6, alpha: float = 0.5, gamma: float = 2.0, beta: float = 0.75
) -> Losses:
    """FreeAnchor: bags of the locations whose anchors overlap a box most, and one probability to match per class."""
    scores = picture.logits.sigmoid()
    inside = picture.inside().T  # [n, R]
    overlap = torch.where(inside, box_iou(picture.boxes, picture.anchors), -1)
    best, chosen = overlap.topk(min(bag, len(scores)), dim=1)  # [n, bag]
    member = best >= 0
    boxes = picture.boxes[:, None].expand(*chosen.shape, 4)
    overlap_loss = generalized_box_iou_loss(picture.predicted[chosen], boxes)
    likelihood = scores[chosen, picture.labels[:, None]] * (-beta * overlap_loss).exp()
    weight = member / (1 - likelihood).clamp(min=1e-12)
    mean_max = (weight * likelihood).sum(dim=1) / weight.sum(dim=1).clamp(min=1e-12)
    positive = torch.where(member.any(dim=1), -mean_max.clamp(min=1e-12).log(), 0).sum()

    with torch.no_grad():
        overlap = box_iou(picture.boxes, picture.predicted) * inside  # [n, R]
        top = overlap.amax(dim=1, keepdim=True).clamp(min=threshold + 1e-12)
        match = ((overlap - threshold) / (top - threshold)).clamp(0, 1)
    negative = negative_focal(scores * (1 - largest_per_class(match, picture)), gamma)
    return {"positive_bag": alpha * positive, "negative_bag": (1 - alpha) / bag * negative}


def auto_assign(
    picture: Picture, mean: Tensor, deviation: Tensor, alpha: float = 0.25, gamma: float = 2.0, beta: float = 5.0
) -> Losses:
    """AutoAssign: every location inside a box is a little positive; mean, deviation: centre prior [C, 2]."""
    inside = picture.inside()  # [R, n]
    away = picture.strides_away()
    labels = picture.labels
    prior = (-(away - mean[labels]).square() / (2 * deviation[labels].square())).exp().prod(dim=-1) * inside
    scores = picture.logits.sigmoid() * picture.quality.sigmoid()[:, None]
    shape = (len(scores), len(labels), 4)
    overlap_loss = generalized_box_iou_loss(picture.predicted[:, None].expand(shape), picture.boxes.expand(shape))
    likelihood = scores[:, labels] * (-beta * overlap_loss).exp()
    weight = (3 * likelihood).exp() * prior
    weight = weight / weight.sum(dim=0).clamp(min=1e-12)
    some = inside.any(dim=0)
    bags = torch.where(some, (weight * likelihood).sum(dim=0), 1)
    positive = -bags.clamp(min=1e-12).log().sum()

    with torch.no_grad():
        best = (box_iou(picture.predicted, picture.boxes) * inside).amax(dim=1, keepdim=True)
        fit = (1 / (1 - best).clamp(min=1e-12)).expand_as(inside)
        low = torch.where(inside, fit, torch.inf).amin(dim=0)
        high = torch.where(inside, fit, -torch.inf).amax(dim=0)
        fit = torch.where(inside, (fit - low + 1e-12) / (high - low + 1e-12), 0)
    negative = negative_focal(scores * (1 - largest_per_class(fit.T, picture)), gamma)
    center = 0.75 * some.sum() / prior.sum().clamp(min=1e-12)
    return {"positive": alpha * positive, "negative": (1 - alpha) * negative, "center": center}
