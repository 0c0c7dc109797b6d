"""Dense versions of rules that compare costs of predictions: tables [R, n], and [R, n, C] as public code has them."""

from __future__ import annotations

from math import log

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torch.nn import functional as F
from torchvision.ops import box_iou, sigmoid_focal_loss

from harness.bench.dense.geometric import adaptive
from harness.bench.dense.picture import NEGATIVE, Answer, Picture, cheapest_box

FORBIDDEN = 1e8  # added to the cost of a pair that may not be


def one_hot(picture: Picture) -> Tensor:
    """Classes of the boxes, [n, C]."""
    return F.one_hot(picture.labels, picture.logits.shape[1]).float()


def alignment(picture: Picture, of_score: float, of_overlap: float) -> tuple[Tensor, Tensor]:
    """Class score and overlap to some powers, and the overlap, [R, n] both."""
    overlap = box_iou(picture.predicted, picture.boxes)
    score = picture.logits.sigmoid()[:, picture.labels]
    return score.pow(of_score) * overlap.pow(of_overlap), overlap


def ddod(picture: Picture, topk: int = 9, alpha: float = 0.8) -> Answer:
    """DDOD: the places of ATSS, chosen by predicted score and overlap."""
    return adaptive(picture, alignment(picture, 1 - alpha, alpha)[0], topk)


def poto(picture: Picture, alpha: float = 0.8, radius: float = 1.5) -> Answer:
    """POTO with the Hungarian algorithm."""
    quality, _ = alignment(picture, 1 - alpha, alpha)
    allowed = picture.inside() & picture.near(radius)
    rows, columns = linear_sum_assignment(torch.where(allowed, quality, -1).cpu().numpy(), maximize=True)
    rows, columns = (torch.from_numpy(each).to(quality.device) for each in (rows, columns))
    assigned = torch.full_like(picture.grid.level, NEGATIVE)
    assigned[rows] = torch.where(allowed[rows, columns], columns, NEGATIVE)
    return Answer(assigned)


def tal(picture: Picture, topk: int = 13, alpha: float = 1.0, beta: float = 6.0) -> Answer:
    """TAL after its warm-up; only locations inside a box compete for it."""
    metric, overlap = alignment(picture, alpha, beta)
    metric = metric * picture.inside()
    best, candidates = metric.topk(topk, dim=0)
    positive = torch.zeros_like(metric, dtype=torch.bool).scatter(0, candidates, best > 0)
    assigned = cheapest_box(torch.where(positive, -overlap, torch.inf))
    kept = F.one_hot(assigned + 1, len(picture.boxes) + 1)[:, 1:].bool()
    metric, overlap = torch.where(kept, metric, 0), torch.where(kept, overlap, 0)
    label = metric / (metric.amax(dim=0) + 1e-7) * overlap.amax(dim=0)
    return Answer(assigned, label.amax(dim=1))


def take_cheapest(cost: Tensor, ok: Tensor, k: Tensor, most: int) -> Tensor:
    """Box of each row [r]: each takes its k [n] cheapest, a contested row goes to the lowest cost; cost: [r, n]."""
    order = torch.where(ok, cost, torch.inf).topk(min(most, len(cost)), dim=0, largest=False)
    wanted = (torch.arange(len(order.values), device=k.device)[:, None] < k) & order.values.isfinite()
    taken = torch.zeros_like(ok).scatter(0, order.indices, wanted)
    return cheapest_box(torch.where(taken, cost, torch.inf))


def summed_overlap(overlap: Tensor, topk: int) -> Tensor:
    """How many locations each box asks for [n]; overlap: [r, n]."""
    return overlap.topk(min(topk, len(overlap)), dim=0).values.sum(dim=0).long().clamp(min=1)


def sim_ota(picture: Picture, topk: int = 10, radius: float = 2.5, iou_weight: float = 3.0) -> Answer:
    """SimOTA; as published, all locations inside a box or near a centre are compared, at a penalty unless both."""
    inside, near = picture.inside(), picture.near(radius)
    rows = (inside | near).any(dim=1).nonzero().squeeze(1)
    allowed = (inside & near)[rows]
    overlap = box_iou(picture.predicted[rows], picture.boxes)
    target = one_hot(picture).expand(len(rows), -1, -1)
    score = picture.logits[rows].sigmoid()[:, None].expand_as(target)
    classes = F.binary_cross_entropy(score, target, reduction="none").sum(dim=-1)  # [r, n, C]
    cost = classes - iou_weight * (overlap + 1e-7).log() + FORBIDDEN * ~allowed
    k = summed_overlap(overlap * allowed, topk)
    assigned = torch.full_like(picture.grid.level, NEGATIVE)
    assigned[rows] = take_cheapest(cost, allowed, k, topk)
    return Answer(assigned)


def dsla(picture: Picture, topk: int = 13, radius: float = 3.0, iou_weight: float = 3.0) -> Answer:
    """RTMDet's dynamic soft labels, with tables of all boxes and locations."""
    inside = picture.inside()
    rows = inside.any(dim=1).nonzero().squeeze(1)
    allowed = inside[rows]
    overlap = box_iou(picture.predicted[rows], picture.boxes)
    target = one_hot(picture) * overlap[..., None]  # [r, n, C]
    logits = picture.logits[rows][:, None].expand_as(target)
    classes = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
    classes = (classes * (target - logits.sigmoid()).square()).sum(dim=-1)
    price = torch.pow(10, picture.strides_away()[rows].square().sum(dim=-1).sqrt() - radius)
    cost = classes - iou_weight * (overlap + 1e-7).log() + price
    box = take_cheapest(cost, allowed, summed_overlap(overlap * allowed, topk), topk)
    assigned = torch.full_like(picture.grid.level, NEGATIVE)
    assigned[rows] = box
    label = torch.zeros_like(picture.quality)
    label[rows] = torch.where(box >= 0, overlap.gather(1, box.clamp(min=0)[:, None]).squeeze(1), 0)
    return Answer(assigned, label)


def transport_cost(picture: Picture, iou_weight: float) -> tuple[Tensor, Tensor]:
    """Focal loss of all classes plus weighted -ln IoU, and the IoU, [n, R] both."""
    shape = (len(picture.boxes), *picture.logits.shape)
    target = one_hot(picture)[:, None].expand(shape)
    classes = sigmoid_focal_loss(picture.logits.expand(shape), target).sum(dim=-1)  # [n, R, C]
    overlap = box_iou(picture.boxes, picture.predicted)
    return classes - iou_weight * overlap.clamp(min=1e-7).log(), overlap


def lla(picture: Picture, topk: int = 10, iou_weight: float = 1.5) -> Answer:
    """LLA: the ten locations of least class and box loss."""
    cost, _ = transport_cost(picture, iou_weight)
    inside = picture.inside()
    k = torch.full((len(picture.boxes),), topk, device=cost.device)
    return Answer(take_cheapest(cost.T + FORBIDDEN * ~inside, inside, k, topk))


def ota(picture: Picture, topk: int = 20, radius: float = 2.5, iou_weight: float = 1.5) -> Answer:
    """OTA: Sinkhorn on all boxes and the background x all locations."""
    cost, overlap = transport_cost(picture, iou_weight)
    allowed = (picture.inside() & picture.near(radius)).T
    background = sigmoid_focal_loss(picture.logits, torch.zeros_like(picture.logits)).sum(dim=-1)
    k = summed_overlap((overlap * allowed).T, topk).float()
    supply = torch.cat((k, (overlap.shape[1] - k.sum())[None].clamp(min=1)))
    plan = sinkhorn(torch.cat((cost + 1e6 * ~allowed, background[None])), supply)
    plan = plan / plan.amax(dim=1, keepdim=True)
    box = plan.argmax(dim=0)
    return Answer(torch.where(box < len(k), box, NEGATIVE))


def sinkhorn(cost: Tensor, supply: Tensor, epsilon: float = 0.1, iterations: int = 50) -> Tensor:
    """The plan [n + 1, R] that brings each row's supply [n + 1] to columns that demand 1, in the log domain."""
    kernel = -cost / epsilon
    u, v = torch.ones_like(supply) / epsilon, torch.ones_like(cost[0]) / epsilon
    for _ in range(iterations):
        v = -torch.logsumexp(kernel + u[:, None], dim=0)
        u = supply.log() - torch.logsumexp(kernel + v, dim=1)
    return (kernel + u[:, None] + v).exp()


def uot(picture: Picture, radius: float = 2.5, background: float = 0.8, least: float = 0.05) -> Answer:
    """Unbalanced optimal transport on all boxes and the background x all locations; the box of the largest share."""
    score, overlap = picture.logits.sigmoid()[:, picture.labels], box_iou(picture.predicted, picture.boxes)
    cost = (1 - score + 2 * (1 - overlap)) / 3
    allowed = picture.inside() & picture.near(radius)
    cost = torch.where(allowed, cost, torch.inf).T
    served = allowed.any(dim=0)
    plan = torch.zeros_like(cost)
    rows = torch.cat((cost[served], torch.full_like(cost[:1], background)))
    plan[served] = unbalanced_sinkhorn(rows, 0.12 / (log(2 * len(allowed)) + 1))[:-1]
    largest, box = plan.max(dim=0)
    return Answer(torch.where(largest >= least, box, NEGATIVE))


def unbalanced_sinkhorn(
    cost: Tensor, epsilon: float, of_rows: float = 0.25, of_columns: float = 1000.0, iterations: int = 70
) -> Tensor:
    """The plan [n + 1, R] of soft sums, 1 for each column and each row but the last, in the log domain."""
    rows, columns = cost.shape
    supply = cost.new_ones(rows)
    supply[-1] = max(columns - (rows - 1), 1)
    kernel, u = log(columns) - cost / epsilon, torch.zeros_like(cost[0])

    def potential() -> Tensor:
        return of_rows / (of_rows + epsilon) * (supply.log() - torch.logsumexp(kernel + u, dim=1))[:, None]

    for _ in range(iterations):
        u = -of_columns / (of_columns + epsilon) * torch.logsumexp(kernel + potential(), dim=0)
    return (kernel + potential() + u).exp()
