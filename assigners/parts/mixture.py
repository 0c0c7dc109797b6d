"""A mixture density over all locations of an image: boxes drawn from it, what they show, and who answers for that.

Every location is a component with a share, a box and a scale along each side; under it a box has a Cauchy density, the
sides independent. Drawn boxes against components are a dense table, [draws, R], which is taken some rows at a time:
the draws of an image are few, and the host knows their number.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import log, pi

import torch
from torch import Tensor
from torch.nn import functional as F

from assigners.contract import Predictions, Step, Targets
from assigners.grid import Grid
from assigners.ops.boxes import aligned_iou, ltrb
from assigners.ops.noise import uniform
from assigners.ops.segments import at, group_max, group_min, group_sum, ragged
from assigners.parts.conflicts import box_rank

CHUNK = 2**18  # (draw, location) pairs at a time
MIXTURE_STREAM = 5  # of the noise; those of iqdet come before


def log_cauchy(boxes: Tensor, predicted: Tensor, scales: Tensor) -> Tensor:
    """Logarithm of the density of boxes ``[..., 4]`` under components, which broadcast: ``[...]``."""
    return -(scales.log() + log(pi) + ((boxes - predicted) / scales).square().log1p()).sum(dim=-1)


@dataclass(frozen=True)
class Draws:
    """Components drawn by their shares, and what their boxes show.

    Attributes:
        image: ``[N]`` int64; cell: ``[N]`` int64 component, flat over the batch.
        gt: ``[N]`` int64 the ground-truth box that it shows, G for background.
    """

    image: Tensor
    cell: Tensor
    gt: Tensor


def draw(targets: Targets, predictions: Predictions, step: Step, *, each: int, most: int, overlap: float) -> Draws:
    """Draw components by the softmax of the quality over an image, with replacement.

    Args:
        each: draws for every box of an image; at least one, at most `most` for an image.
        overlap: a drawn box shows the one that it overlaps most, by more than this; ties go by area, then coordinates.
    """
    quality, device, locations = predictions.quality, targets.image.device, predictions.quality.shape[1]
    per_image = [min(max(each * count, 1), most) for count in targets.counts]
    number, images = sum(per_image), torch.arange(targets.num_images, device=device)
    boxes_of = group_sum(torch.ones_like(targets.image), targets.image, targets.num_images)
    drawn = (each * boxes_of).clamp(1, most)
    image, nth = ragged(drawn, number)
    random = uniform(step.seed, step.index, MIXTURE_STREAM, at(targets.image_id, image), nth)
    mass = quality.double().softmax(dim=1).cumsum(dim=1)
    stairs = mass / mass[:, -1:] + images[:, None]  # one ascent over the whole batch, by 1 an image
    cell = torch.searchsorted(stairs.flatten(), random + image)
    cell = torch.maximum(torch.minimum(cell, (image + 1) * locations - 1), image * locations)  # also where it is NaN
    # Every pair of a drawn box and a ground-truth box of its image, ordered by drawn box.
    rivals = at(boxes_of, image)
    length = sum(n * count for n, count in zip(per_image, targets.counts, strict=True))
    row, within = ragged(rivals, length)
    gt = at(at(boxes_of.cumsum(0) - boxes_of, image), row) + within
    iou = aligned_iou(at(predictions.boxes.float().flatten(0, 1), at(cell, row)), at(targets.boxes, gt))
    best = at(group_max(iou, row, number, empty=overlap), row)
    rank, none = box_rank(targets), targets.num_boxes
    winner = group_min(torch.where((iou > overlap) & (iou == best), at(rank, gt), none), row, number, empty=none)
    by_rank = torch.empty_like(rank).scatter_(0, rank, targets.index)
    return Draws(image, cell, at(torch.cat((by_rank, by_rank.new_full((1,), none))), winner))


def class_likelihood(
    grid: Grid, targets: Targets, predictions: Predictions, scales: Tensor, draws: Draws, ok: Tensor, weight: Tensor
) -> Tensor:
    """Sum over draws of ``-log(sum over components of share * density * P)``, differentiable by the logits alone.

    P is the probability that the component's classes, independent of each other, are those that the draw shows: the one
    of its box, or none. The components of a draw that shows a box are the locations inside that box.

    Args:
        scales: ``[B, R, 4]`` px.
        ok: ``[N]`` draws that count.
        weight: ``[B, R]``, 0 where the absence of a class is not taught.
    """
    logits = predictions.logits.float()
    value, slope = _value_and_slope(grid, targets, predictions, scales, draws, ok, weight)
    pulled = (logits * slope).sum()
    return value + (pulled - pulled.detach())


@torch.no_grad()
def _value_and_slope(
    grid: Grid, targets: Targets, predictions: Predictions, scales: Tensor, draws: Draws, ok: Tensor, weight: Tensor
) -> tuple[Tensor, Tensor]:
    """`class_likelihood` and its gradient by the logits ``[B, R, C]``."""
    logits, predicted = predictions.logits.float(), predictions.boxes.float()
    images, locations, classes = logits.shape
    # P of no class at all; that of one is larger by a factor exp(logit).
    prior = predictions.quality.float().log_softmax(dim=1) - F.softplus(logits).sum(dim=2)
    label = at(torch.cat((targets.labels, targets.labels.new_full((1,), classes))), draws.gt)
    reach = scales.new_full((1, 2), torch.inf)  # background is everywhere
    room = at(torch.cat((targets.boxes, torch.cat((-reach, reach), dim=1))), draws.gt)
    box = at(predicted.flatten(0, 1), draws.cell)
    by_class = logits.transpose(1, 2)
    value = logits.new_zeros(())
    answers = logits.new_zeros(images * (classes + 1), locations)  # sum of shares by what the draws show
    lists = (draws.image, label, room, box, ok)
    for own, shown, within, drawn, counts in zip(
        *(each.split(max(1, CHUNK // locations)) for each in lists), strict=True
    ):
        joint = at(prior, own) + log_cauchy(drawn[:, None], at(predicted, own), at(scales, own))
        of_class = by_class[own, shown.clamp(max=classes - 1)]
        joint += torch.where((shown < classes)[:, None], of_class, 0)
        joint.masked_fill_(ltrb(grid.points, within[:, None]).amin(dim=-1) <= 0, -torch.inf)
        likelihood = joint.logsumexp(dim=1)
        value -= torch.where(counts, likelihood, 0).sum()
        share = torch.where(counts[:, None], (joint - likelihood[:, None]).exp(), 0)
        answers.index_add_(0, own * (classes + 1) + shown, share)
    answers = answers.view(images, classes + 1, locations)
    pull = answers[:, :classes].transpose(1, 2)
    push = torch.where(weight[..., None] > 0, answers.sum(dim=1)[..., None], pull)
    return value, logits.sigmoid().mul_(push).sub_(pull)
