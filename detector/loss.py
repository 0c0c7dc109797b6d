"""The shared loss: it turns any assignment into numbers and never asks who assigned.

    L_class = sum over grid of  negative_weight * (1 - own) * f(z, 0)  +  sum over samples of  weight * f(z_own, label)

``own`` marks, in a sample's own class channel, the cells that the sample reads: there the sample speaks, not the
grid. One channel is corrected instead of gathering all classes of every sample.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn import functional as F

from assigners.contract import Assignment, Predictions, Samples, Targets, Term
from assigners.grid import Grid
from assigners.ops.boxes import aligned_iou, decode, giou_loss, ltrb
from assigners.ops.segments import at, marked
from assigners.parts.map_reader import MapReader

ClassForm = Literal["focal", "sigmoid_focal", "qfl", "focal_pt", "varifocal", "weighted"]


@dataclass(frozen=True)
class LossSettings:
    """One form of every term for all assigners (protocol, section ``loss``).

    Attributes:
        classification: the class loss for a label y in [0, 1] and s = sigmoid(z) (A11). ``focal`` = a |y - s|^g BCE
            with a = alpha for samples with a label, 1 - alpha for negatives: focal loss itself where y is 0 or 1.
            ``sigmoid_focal`` = what torchvision, fvcore and mmdet compute for soft targets: both factors are blended,
            (alpha y + (1 - alpha)(1 - y)) (1 - p_t)^g BCE with p_t = y s + (1 - y)(1 - s); ``focal`` for hard labels.
            ``focal_pt`` = the same with alpha as its first factor. ``qfl`` = ``focal`` without alpha. ``weighted`` = y
            times the hard focal loss. ``varifocal`` = y BCE for labelled samples, alpha s^g BCE for negatives.
        alpha, gamma: of focal loss.
        normaliser: what divides the class loss: the number of positives, the sum of their labels or, for assigners that
            declare it, of their class weights.
        class_weight, box_weight, quality_weight: of the three terms.
        quality: meaning of the auxiliary branch; ``objectness`` has no target of its own: the assigner replaces it.
    """

    classification: ClassForm = "focal"
    alpha: float = 0.25
    gamma: float = 2.0
    normaliser: Literal["positives", "labels", "weights"] = "positives"
    class_weight: float = 1.0
    box_weight: float = 1.0
    quality_weight: float = 1.0
    quality: Literal["iou", "centerness", "objectness"] = "iou"

    def negative(self, logits: Tensor) -> Tensor:
        """Class loss f(z, 0) of locations without a label, element-wise."""
        value = logits.sigmoid().pow(self.gamma) * F.softplus(logits)
        if self.classification == "qfl":
            return value
        return (self.alpha if self.classification == "varifocal" else 1 - self.alpha) * value

    def labelled(self, logits: Tensor, label: Tensor) -> Tensor:
        """f(z, y) for y > 0, element-wise."""
        score = logits.sigmoid()
        bce = label * F.softplus(-logits) + (1 - label) * F.softplus(logits)
        if self.classification == "varifocal":
            return label * bce
        if self.classification == "weighted":
            return self.alpha * label * (1 - score).pow(self.gamma) * F.softplus(-logits)
        if self.classification in ("focal_pt", "sigmoid_focal"):
            p_t = label * score + (1 - label) * (1 - score)
            blended = self.alpha * label + (1 - self.alpha) * (1 - label)
            return (blended if self.classification == "sigmoid_focal" else self.alpha) * (1 - p_t).pow(self.gamma) * bce
        value = (label - score).abs().pow(self.gamma) * bce
        return value if self.classification == "qfl" else self.alpha * value


def detection_losses(
    settings: LossSettings,
    grid: Grid,
    targets: Targets,
    predictions: Predictions,
    assignment: Assignment,
    replaces: frozenset[str] = frozenset(),
) -> tuple[dict[str, Tensor], dict[str, Term]]:
    """All loss terms of a batch, divided by counts over all processes.

    Args:
        replaces: shared terms that the assigner's own losses stand for.

    Returns:
        losses: ``class``, ``box``, ``quality`` and the assigner's own, 0-dim, so that the mean over processes of their
            gradients is the gradient of the whole batch's loss.
        statistics: detached ``(sum, count)`` for the log: positives per box, their IoU, and the assigner's.
    """
    samples = assignment.samples
    image = targets.image[samples.gt]
    truth = targets.boxes[samples.gt]
    location = samples.location
    points = grid.pixels(samples.level, samples.uv) if location is None else at(grid.points, location)
    reader = MapReader.build(grid, image, samples.level, samples.uv, location)
    predicted = decode(points, reader.read(predictions.distances))
    iou = aligned_iou(predicted.detach(), truth)

    labels = torch.where(samples.positive, samples.label, 0).sum().detach()
    positives = samples.positive.sum().to(labels.dtype)
    box_count = torch.where(samples.ok, samples.box_weight, 0).sum().detach()

    def classification() -> Term:
        total = _class_sum(settings, assignment, predictions.logits, targets.labels[samples.gt], reader)
        if settings.normaliser == "weights":
            return settings.class_weight * total, torch.where(samples.positive, samples.class_weight, 0).sum().detach()
        return settings.class_weight * total, positives if settings.normaliser == "positives" else labels

    def box() -> Term:
        total = torch.where(samples.ok, samples.box_weight * giou_loss(predicted, truth), 0).sum()
        return settings.box_weight * total, box_count

    def quality() -> Term:
        target = iou if settings.quality == "iou" else centerness(points, truth)
        value = F.binary_cross_entropy_with_logits(reader.read(predictions.quality), target, reduction="none")
        total = torch.where(samples.ok, samples.quality_weight * value, 0).sum()
        return settings.quality_weight * total, positives

    # A term that the assigner replaces is not computed: that of the classes alone is a pass over all logits.
    shared = {"class": classification, "box": box, "quality": quality}
    terms = {name: term() for name, term in shared.items() if name not in replaces} | assignment.losses
    statistics: dict[str, Term] = {
        "positives_per_box": (positives, positives.new_tensor(float(targets.num_boxes))),
        "iou_of_positives": (torch.where(samples.positive, iou, 0).sum(), positives),
        **assignment.statistics,
    }
    return _divide(terms), statistics


def _class_sum(
    settings: LossSettings, assignment: Assignment, logits: Tensor, channel: Tensor, reader: MapReader
) -> Tensor:
    """The class loss of logits ``[B, R, C]``; `channel` ``[S]`` is each sample's own class."""
    samples = assignment.samples
    negative = settings.negative(logits).masked_fill(_owned(samples, logits.shape, channel, reader), 0)
    total = (negative.sum(dim=-1) * assignment.negative_weight).sum()

    own = reader.read_channel(logits, channel)
    value = torch.where(samples.label > 0, settings.labelled(own, samples.label), settings.negative(own))
    if samples.all_classes:
        others = settings.negative(reader.read(logits))
        value = value + others.sum(dim=-1) - others.gather(1, channel[:, None]).squeeze(1)
    return total + torch.where(samples.ok, samples.class_weight * value, 0).sum()


def _owned(samples: Samples, shape: torch.Size, channel: Tensor, reader: MapReader) -> Tensor:
    """``[B, R, C]`` bool: cells that a sample reads with weight > 0, in its own class channel."""
    index = reader.cell * shape[-1] + channel[:, None]
    return marked(index, reader.reads(samples.ok), shape.numel()).view(shape)


def centerness(points: Tensor, boxes: Tensor) -> Tensor:
    """FCOS eq. 3: ``sqrt(min(l, r) / max(l, r) * min(t, b) / max(t, b))``, 0 outside the box."""
    left, top, right, bottom = ltrb(points, boxes).clamp(min=0).unbind(-1)
    x = torch.minimum(left, right) / torch.maximum(left, right).clamp(min=1e-9)
    y = torch.minimum(top, bottom) / torch.maximum(top, bottom).clamp(min=1e-9)
    return (x * y).sqrt()


def _divide(terms: dict[str, Term]) -> dict[str, Tensor]:
    """Each sum over ``max(global count, 1) / processes``: one collective a step, called whatever the batch holds."""
    counts = torch.stack([count.detach().to(torch.float32) for _, count in terms.values()])
    world = 1
    if dist.is_available() and dist.is_initialized():
        world = dist.get_world_size()
        dist.all_reduce(counts)
    counts = counts.clamp(min=1) / world
    return {name: total / count for (name, (total, _)), count in zip(terms.items(), counts.unbind(), strict=True)}
