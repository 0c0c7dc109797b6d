"""IQDet: instance-wise quality distribution sampling (Ma et al., CVPR 2021, arXiv 2104.06936).

For every box and level an encoder predicts a mixture over the box, trained to predict the IoU that the detector
has there (L_IQ). The same function is the density from which float locations are drawn and the soft class label of
the draws; the best of a box over all levels are its positives. Nothing of it runs at inference.

No code of the authors is public. What the text leaves open is an option where it may decide whether training
works, and a named constant otherwise; each names its entry (A1-A34) in the list of open points.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.ops import generalized_box_iou_loss

from assigners.atss import ATSS
from assigners.box_points import (
    RESAMPLE_STREAM,
    TIE_STREAM,
    BoxPoints,
    box_noise,
    draw,
    lattice,
    offset_in_half_sides,
    select_top,
    usable_levels,
)
from assigners.candidates import inside_pairs
from assigners.contract import (
    Assigner,
    Assignment,
    Grid,
    HeadInfo,
    Needs,
    Predictions,
    Samples,
    Step,
    Targets,
    Term,
    coverage,
    negatives_outside_ignore,
)
from assigners.geometry import aligned_iou, decode
from assigners.mixture_sampler import component_mass
from assigners.quality_distribution import Mixture, Peak, QualityDistributionEncoder, quality_loss
from assigners.reader import read

Select = Literal["topk", "joint", "multinomial", "topk_per_level"]
Rejected = Literal["ignore", "zero", "zero_other_levels"]
Inbox = Literal["negative_no_footprint", "ignore", "negative", "one_minus_q", "soft"]

DRAWS_PER_POSITIVE = 4  # selection needs something to select from: with 1, a box on one level keeps whatever it drew


class IQDet(Assigner):
    """QDE, L_IQ and QDS (registry name ``iqdet``).

    Args:
        head: of the detector.
        positives: per box over all levels, the paper's K = 12 (Table 5).
        draws_per_level: per box and level; the paper's "fixed number" is not given (A7). None: `DRAWS_PER_POSITIVE`
            times `positives`.
        components: of the mixture, the paper's 2.
        hidden: width of the encoder, not stated (A32). None: four times the head's channels.
        roi: side of the RoI feature, the paper's 7 (Table 3).
        iq_weight: the paper's lambda_IQ = 1.
        peak: what the mixing coefficients are (A3).
        level_gate: on which levels a box may have samples (`usable_levels`).
        select: how draws become positives (A7). ``topk``: the best by Q over all levels. ``joint``: as many draws
            from the joint density over level and place, all positive. ``multinomial``: drawn from the pool
            with probability proportional to Q. ``topk_per_level``: the best of each level.
        rejected: draws that are not chosen (A8): no loss, target zero, or target zero where their level has none
            of the box's positives.
        inbox: grid points inside a box that no positive stands on (A9). ``negative_no_footprint``: negatives, save
            in the class of a sample that reads them. ``negative``: negatives. ``ignore``: no loss, as the sentence
            on negatives has it; samples then supervise the other classes too. ``one_minus_q``: negatives of
            weight 1 - Q. ``soft``: target Q.
        detach_label: whether the class loss leaves the encoder alone (A12).
        iq_points: where L_IQ is taken (A14): in-box grid points, all draws, or the positives.
        iq_target: what Q learns (A16): IoU, or one minus the class, box or summed loss, scaled to [0, 1] per box.
        select_by: positives by Q, or by the smallest loss over the in-box grid points (A16, second reading).
        warmup: share of training in which ATSS assigns while the encoder learns (A31).
        lattice_side: L_IQ sees at most this many grid points squared per box and level.
    """

    needs = Needs(predictions=True, features=True)

    def __init__(
        self,
        head: HeadInfo,
        *,
        positives: int = 12,
        draws_per_level: int | None = None,
        components: int = 2,
        hidden: int | None = None,
        roi: int = 7,
        iq_weight: float = 1.0,
        peak: Peak = "gate",
        level_gate: Literal["contains_grid", "none", "fcos_range"] = "contains_grid",
        select: Select = "topk",
        rejected: Rejected = "ignore",
        inbox: Inbox = "negative_no_footprint",
        detach_label: bool = True,
        iq_points: Literal["grid", "draws", "positives"] = "grid",
        iq_target: Literal["iou", "cls", "reg", "comb"] = "iou",
        select_by: Literal["q", "loss"] = "q",
        warmup: float = 0.0,
        lattice_side: int = 8,
    ) -> None:
        super().__init__()
        counts = {"positives": positives, "draws_per_level": draws_per_level, "components": components,
                  "hidden": hidden, "roi": roi, "lattice_side": lattice_side}  # fmt: skip
        for name, value in counts.items():
            if value is not None and value < 1:
                raise ValueError(f"iqdet.{name} is {value}; it must be >= 1")
        if not 0 <= warmup <= 1:
            raise ValueError(f"iqdet.warmup is {warmup}; it is a share of training, 0 to 1")
        if select_by == "loss" and iq_target == "iou":
            raise ValueError("iqdet.select_by=loss needs iqdet.iq_target=cls, reg or comb: the loss to select by")
        if select_by == "loss" and (select == "joint" or iq_points != "grid"):
            raise ValueError("iqdet.select_by=loss selects grid points: iqdet.select=joint and iq_points need draws")
        self.positives, self.draws_per_level = positives, draws_per_level or DRAWS_PER_POSITIVE * positives
        self.iq_weight, self.level_gate, self.lattice_side = iq_weight, level_gate, lattice_side
        self.select, self.rejected, self.inbox = select, rejected, inbox
        self.detach_label, self.iq_points, self.iq_target, self.select_by = (
            detach_label,
            iq_points,
            iq_target,
            select_by,
        )
        self.warmup = warmup
        self.warmup_assigner = ATSS(head)
        self.encoder = QualityDistributionEncoder(
            head.channels, components=components, hidden=hidden or 4 * head.channels, roi=roi, peak=peak
        )

    def forward(self, grid: Grid, targets: Targets, predictions: Predictions | None, step: Step) -> Assignment:
        """Assign by draws from the encoder's mixtures.

        Raises:
            ValueError: without predictions or features.
        """
        if predictions is None or len(predictions.features) != grid.num_levels:
            raise ValueError("iqdet needs the detector's predictions and one feature map per level")
        with torch.autocast(grid.points.device.type, enabled=False):
            mixture = self.encoder(predictions.features, grid, targets)
        usable = usable_levels(grid, targets, self.level_gate)
        drawn = draw(grid, targets, mixture, self.draws_per_level, step)
        drawn = replace(drawn, ok=drawn.ok & usable.unsqueeze(-1))
        inside = lattice(grid, targets, self.lattice_side, step)
        quality = self._quality(grid, targets, predictions, inside)

        pool, score = drawn, mixture.log_density(drawn.d)
        if self.select_by == "loss":
            pool, score = replace(inside, ok=inside.ok & usable.unsqueeze(-1)), quality.clamp(min=1e-9).log()
        index, chosen = self._select(pool, score.detach(), mixture, usable, targets, step)
        losses = {"iq": self._iq_loss(grid, targets, predictions, mixture, inside, quality, drawn, index, chosen)}
        if step.progress < self.warmup:
            early = self.warmup_assigner.forward(grid, targets, predictions, step)
            return replace(early, losses=losses)

        label = score.exp().clamp(0, 1)
        samples = self._samples(pool, label.detach() if self.detach_label else label, index, chosen)
        samples, negative = self._inbox(samples, mixture, grid, targets, usable)
        count = (inside.ok.sum()).to(quality.dtype)
        expected = torch.where(inside.ok, mixture.density(inside.d).detach(), 0).sum()
        statistics = {
            "label": (torch.where(samples.positive, samples.label, 0).sum().detach(), samples.positive.sum()),
            "quality_predicted": (expected, count),
            "quality_target": (torch.where(inside.ok, quality, 0).sum(), count),
        }
        return Assignment(samples, negative, losses, statistics)

    def _quality(self, grid: Grid, targets: Targets, predictions: Predictions, points: BoxPoints) -> Tensor:
        """What Q is to predict at points ``[N, L, P]``, in [0, 1], without gradient (A16, A17: of the own box)."""
        box = torch.arange(targets.num_boxes, device=points.ok.device)[:, None, None].expand(points.ok.shape).flatten()
        image, level, uv = targets.image[box], points.level.flatten(), points.uv.flatten(0, 2)
        truth = targets.boxes[box]
        with torch.no_grad():
            distances = read(predictions.distances, grid, image, level, uv, on_grid=points.on_grid)
            predicted = decode(grid.pixels(level, uv), distances)
            if self.iq_target == "iou":
                return aligned_iou(predicted, truth).view(points.ok.shape)
            loss = torch.zeros_like(predicted[:, 0])
            if self.iq_target in ("cls", "comb"):
                logits = read(predictions.logits, grid, image, level, uv, on_grid=points.on_grid)
                own = logits.gather(1, targets.labels[box][:, None]).squeeze(1)
                loss = loss + torch.sigmoid(-own).square() * F.softplus(-own)
            if self.iq_target in ("reg", "comb"):
                loss = loss + generalized_box_iou_loss(predicted, truth)
            # BCE needs [0, 1], not the [-1, 1] that the paper prints.
            loss = loss.view(points.ok.shape)
            low = torch.where(points.ok, loss, torch.inf).amin(dim=(1, 2), keepdim=True)
            high = torch.where(points.ok, loss, -torch.inf).amax(dim=(1, 2), keepdim=True)
            return torch.where(points.ok, 1 - (loss - low) / (high - low).clamp(min=1e-9), 0)

    def _select(
        self, pool: BoxPoints, score: Tensor, mixture: Mixture, usable: Tensor, targets: Targets, step: Step
    ) -> tuple[Tensor, Tensor]:
        """Indices ``[N, K]`` into L * P of the positives, and which of them exist (A7)."""
        boxes, levels, points = pool.ok.shape
        priority = box_noise(step, TIE_STREAM, targets, levels, points)
        if self.select == "topk_per_level":
            flat = (-1, points)
            index, ok = select_top(score.reshape(flat), pool.ok.reshape(flat), priority.view(flat), self.positives)
            index = index.unflatten(0, (boxes, levels)) + torch.arange(levels, device=index.device)[:, None] * points
            return index.flatten(1), ok.unflatten(0, (boxes, levels)).flatten(1)
        if self.select == "joint" and self.select_by == "q":
            # Draw k of the level that the joint density picks for it; the density is over the box-normalised place.
            mass = torch.where(usable, component_mass(mixture.detach()).sum(dim=-1), 0)
            mass = torch.where(mass.sum(dim=1, keepdim=True) > 0, mass, usable.to(mass.dtype))
            kept = min(self.positives, points)
            pick = box_noise(step, RESAMPLE_STREAM, targets, kept)
            cumulative = mass.cumsum(dim=1)
            level = (pick[..., None] * cumulative[:, None, -1:] >= cumulative[:, None, :-1]).sum(dim=-1)
            index = level * points + torch.arange(kept, device=level.device)
            return index, pool.ok.flatten(1).gather(1, index)
        if self.select == "multinomial":
            # Gumbel top-k: drawing without replacement with probability proportional to Q.
            score = score - torch.log(-torch.log(box_noise(step, RESAMPLE_STREAM, targets, levels, points))).float()
        return select_top(score.flatten(1), pool.ok.flatten(1), priority.flatten(1), self.positives)

    def _iq_loss(
        self,
        grid: Grid,
        targets: Targets,
        predictions: Predictions,
        mixture: Mixture,
        inside: BoxPoints,
        quality: Tensor,
        drawn: BoxPoints,
        index: Tensor,
        chosen: Tensor,
    ) -> Term:
        """L_IQ: BCE(Q, quality), a mean over the points of each (box, level), then over these (A14, A15)."""
        points = inside
        if self.iq_points != "grid" and self.select_by == "q":
            points, quality = drawn, self._quality(grid, targets, predictions, drawn)
        ok = points.ok
        if self.iq_points == "positives":
            picked = torch.zeros_like(ok.flatten(1)).scatter(1, index, chosen)
            ok = ok & picked.view(ok.shape)
        element = torch.where(ok, quality_loss(mixture.log_density(points.d), quality), 0)
        count = ok.sum(dim=-1)
        return self.iq_weight * (element.sum(dim=-1) / count.clamp(min=1)).sum(), (count > 0).sum()

    def _samples(self, pool: BoxPoints, label: Tensor, index: Tensor, chosen: Tensor) -> Samples:
        """The positives and, where A8 asks for it, the rejected draws with target zero."""
        positive = chosen
        if self.rejected != "ignore":
            positive = torch.zeros_like(pool.ok.flatten(1)).scatter(1, index, chosen)
            index = torch.arange(positive.shape[1], device=index.device).expand_as(positive)
            chosen = torch.ones_like(positive)
        level, uv, ok = pool.gather(index, chosen)
        if self.rejected == "zero_other_levels":
            taken = positive.view(pool.ok.shape).any(dim=-1)  # [N, L]
            ok = ok & (positive | ~taken.gather(1, level))
        gt = torch.arange(ok.shape[0], device=ok.device)[:, None].expand_as(ok)
        weight, exists = positive.to(uv.dtype), ok.to(uv.dtype)
        return Samples(
            gt=gt.flatten(), level=level.flatten(), uv=uv.flatten(0, 1), ok=ok.flatten(), positive=positive.flatten(),
            label=(label.flatten(1).gather(1, index) * weight).flatten(), class_weight=exists.flatten(),
            box_weight=weight.flatten(), quality_weight=weight.flatten(), on_grid=pool.on_grid,
        )  # fmt: skip

    def _inbox(
        self, samples: Samples, mixture: Mixture, grid: Grid, targets: Targets, usable: Tensor
    ) -> tuple[Samples, Tensor]:
        """Negative weights ``[B, R]``, and what the treatment of in-box grid points changes in the samples (A9)."""
        negative = negatives_outside_ignore(grid, targets)
        if self.inbox == "negative_no_footprint":
            return samples, negative
        if self.inbox == "negative":
            return replace(samples, owns=False), negative
        if self.inbox == "ignore":
            outside = coverage(grid, targets.boxes, targets.image, targets.num_images) == 0
            return replace(samples, all_classes=True), negative * outside
        pairs = inside_pairs(grid, targets)
        level, uv = grid.map_coordinates(pairs.location)
        d = offset_in_half_sides(grid.points[pairs.location], targets.boxes[pairs.gt])
        q = mixture.detach()[pairs.gt, level].density(d.unsqueeze(-2)).squeeze(-1).clamp(0, 1)
        q = torch.where(usable[pairs.gt, level], q, 0)
        if self.inbox == "one_minus_q":
            cell = targets.image[pairs.gt] * grid.num_locations + pairs.location
            weight = torch.ones_like(negative).flatten().scatter_reduce(0, cell, 1 - q, reduce="amin")
            return samples, negative * weight.view_as(negative)
        none = torch.zeros_like(q)
        exists = torch.ones_like(q, dtype=torch.bool)
        dense = Samples(
            gt=pairs.gt, level=level, uv=uv, ok=exists, positive=~exists, label=q, class_weight=exists.to(q.dtype),
            box_weight=none, quality_weight=none,
        )  # fmt: skip
        names = ("gt", "level", "uv", "ok", "positive", "label", "class_weight", "box_weight", "quality_weight")
        joined: dict[str, Any] = {n: torch.cat((getattr(samples, n), getattr(dense, n))) for n in names}
        return Samples(**joined), negative
