"""From dense maps to detections: threshold, top candidates per level, class-wise NMS, without a loop over images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.ops import nms

from assigners.contract import Predictions
from assigners.grid import Grid
from assigners.ops.boxes import aligned_iou
from assigners.ops.records import map_tensors

TOGETHER = 128  # boxes in one call of NMS on a CPU: more compare too much, fewer call too often
VOTE_VARIANCE = 0.025  # of the overlap, in score voting (the authors' code)
VOTE_OVERLAP = 0.01  # a neighbour overlaps by more than this
VOTE_CHUNK = 100  # detections compared with all candidates at a time, or fewer ...
VOTE_PAIRS = 2**25  # ... so that there are no more pairs than this at a time: bounds the memory


@dataclass(frozen=True)
class InferenceSettings:
    """Saved with the weights: what the maps mean and how they become detections.

    Attributes:
        score_threshold: on sigmoid(class logit), for a candidate.
        candidates_per_level: kept by class score times quality.
        nms_iou: class-wise; None evaluates without NMS.
        detections: kept per image.
        score: ``sqrt_product`` or ``product`` of class score and quality.
        score_voting: average the boxes of detections over their neighbours (`vote`).
    """

    score_threshold: float = 0.05
    candidates_per_level: int = 1000
    nms_iou: float | None = 0.6
    detections: int = 100
    score: Literal["sqrt_product", "product"] = "sqrt_product"
    score_voting: bool = False


@dataclass(frozen=True)
class Candidates:
    """What a batch might hold, before NMS.

    Attributes:
        image: ``[N]`` int64 position in the batch; label: ``[N]`` int64; score: ``[N]``.
        box: ``[N, 4]`` xyxy, with sides > 0.
    """

    image: Tensor
    label: Tensor
    score: Tensor
    box: Tensor


def postprocess(
    settings: InferenceSettings, grid: Grid, maps: Predictions, sizes: Sequence[tuple[int, int]]
) -> list[dict[str, Tensor]]:
    """Detections of a batch: `find_candidates`, then `suppress`; arguments as there."""
    found = find_candidates(settings, grid, maps, sizes)
    return suppress(settings, found, num_images=len(sizes), num_classes=maps.logits.shape[-1])


def find_candidates(
    settings: InferenceSettings, grid: Grid, maps: Predictions, sizes: Sequence[tuple[int, int]]
) -> Candidates:
    """The best (location, class) pairs of each level.

    Args:
        sizes: ``(height, width)`` of each image; boxes are clipped to it, and dropped where nothing is left.
    """
    num_images, _, num_classes = maps.logits.shape
    probability, quality = maps.logits.sigmoid(), maps.quality.sigmoid().unsqueeze(-1)
    passed = F.threshold(probability, settings.score_threshold, -1.0, inplace=True)
    joint = passed.mul_(quality)  # below 0: no candidate
    candidates, values = [], []
    levels = joint.split([height * width for height, width in grid.shapes], dim=1)
    for start, level in zip(grid.starts, (each.flatten(1) for each in levels), strict=True):
        value, index = level.topk(min(settings.candidates_per_level, level.shape[1]), dim=1)
        candidates.append(start * num_classes + index)
        values.append(value)
    index, value = torch.cat(candidates, dim=1), torch.cat(values, dim=1)  # [B, K]
    image = torch.arange(num_images, device=value.device)[:, None].expand_as(value)
    keep = value >= 0
    image, index, value = image[keep], index[keep], value[keep]
    score = value.sqrt() if settings.score == "sqrt_product" else value
    return clipped(Candidates(image, index % num_classes, score, maps.boxes[image, index // num_classes]), sizes)


def clipped(found: Candidates, sizes: Sequence[tuple[int, int]]) -> Candidates:
    """The candidates cut to their images of ``(height, width)`` pixels, without those of which nothing is left."""
    limits = found.box.new_tensor([(w, h, w, h) for h, w in sizes])
    box = torch.minimum(found.box.clamp(min=0), limits[found.image])
    solid = ((box[:, 2:] - box[:, :2]) > 0).all(dim=1)
    return map_tensors(replace(found, box=box), lambda column: column[solid])


def suppress(
    settings: InferenceSettings, found: Candidates, *, num_images: int, num_classes: int
) -> list[dict[str, Tensor]]:
    """Class-wise NMS (or none), the best of each image, and score voting where the settings ask for it.

    Returns:
        Per image ``boxes`` ``[n, 4]``, ``scores`` ``[n]`` descending, ``labels`` ``[n]``, n <= `settings.detections`.
    """
    image, label, score, box = found.image, found.label, found.score, found.box
    group = image * num_classes + label
    if settings.nms_iou is None:
        kept = score.argsort(descending=True, stable=True)
    else:
        kept = suppress_within(box, score, group, num_images * num_classes, settings.nms_iou)
    kept = kept[image[kept].sort(stable=True).indices]  # by image, then by descending score
    counts = torch.bincount(image[kept], minlength=num_images).tolist()
    chosen = torch.cat([part[: settings.detections] for part in kept.split(counts)])
    final = vote(box, score, group, chosen) if settings.score_voting else box[chosen]
    counts = [min(count, settings.detections) for count in counts]
    parts = zip(final.split(counts), score[chosen].split(counts), label[chosen].split(counts), strict=True)
    return [{"boxes": boxes, "scores": scores, "labels": labels} for boxes, scores, labels in parts]


def suppress_within(box: Tensor, score: Tensor, group: Tensor, groups: int, iou: float) -> Tensor:
    """Indices of what NMS leaves of each group ``0..groups - 1``, by descending score.

    The groups are moved far apart, in float64, where a box out there keeps its fractions of a pixel. A GPU takes all at
    once; a CPU, which compares a box with all after it, about `TOGETHER` at a time.
    """
    ranked = score.argsort(descending=True, stable=True)
    order = ranked[group[ranked].sort(stable=True).indices]  # by group, then by descending score
    apart, score = box.double() + (group * (box.max() + 1) if len(box) else group)[:, None], score.double()
    sizes = [len(box)]
    if box.device.type == "cpu":
        sizes = [0]
        for count in torch.bincount(group, minlength=groups).tolist():
            if sizes[-1] >= TOGETHER:
                sizes.append(0)
            sizes[-1] += count
    parts = zip(*(each.split(sizes) for each in (order, apart[order], score[order])), strict=True)
    left = torch.zeros_like(group, dtype=torch.bool)
    for index, boxes, scores in parts:
        left[index[nms(boxes, scores, iou)]] = True
    return ranked[left[ranked]]


def vote(boxes: Tensor, scores: Tensor, group: Tensor, chosen: Tensor) -> Tensor:
    """Boxes of the `chosen` candidates ``[K]``, averaged over the candidates of their image and class.

    A neighbour counts with ``score * exp(-(1 - IoU)^2 / VOTE_VARIANCE)`` (PAA, score voting).

    Args:
        boxes: ``[N, 4]``; scores, group: ``[N]``, the group being one class of one image.

    Returns:
        ``[K, 4]``.
    """
    voted = []
    for rows in chosen.split(max(1, min(VOTE_CHUNK, VOTE_PAIRS // max(len(boxes), 1)))):
        iou = aligned_iou(boxes[rows, None], boxes[None])  # [k, N]
        near = (iou > VOTE_OVERLAP) & (group[rows, None] == group)
        weight = torch.where(near, scores * torch.exp(-(1 - iou).square() / VOTE_VARIANCE), 0)
        voted.append(weight @ boxes / weight.sum(dim=1, keepdim=True))
    return torch.cat(voted) if voted else boxes[chosen]
