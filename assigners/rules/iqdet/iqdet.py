"""IQDet: instance-wise quality distribution sampling (Ma et al., CVPR 2021, arXiv 2104.06936).

For every box and level an encoder predicts a mixture over the box, trained to predict the IoU that the detector
has there (L_IQ). The same function is the density from which float locations are drawn and the soft class label of
the draws; the best of a box over all levels are its positives. Nothing of it runs at inference.

No code of the authors is public. What the text leaves open is an option where it may decide whether training
works, and a named constant otherwise; each names its entry (A1-A34) in docs/iqdet.md.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from assigners.contract import Assignment, HeadInfo, Needs, Predictions, Step, Targets, Term
from assigners.grid import Grid
from assigners.ops.boxes import aligned_iou, decode, giou_loss
from assigners.parts.bounds import at_least, within
from assigners.parts.candidates import box_levels
from assigners.parts.map_reader import MapReader
from assigners.parts.roi_features import Extractor
from assigners.rules.atss import ATSS
from assigners.rules.iqdet.box_points import BoxPoints, LevelGate, lattice, usable_levels
from assigners.rules.iqdet.encoder import Learn, Mixture, Peak, QualityDistributionEncoder, quality_loss
from assigners.rules.iqdet.pipeline import Inbox, Label, QualitySampling, Rejected, Select

WORST = 1e4  # what a loss that is no number counts as (a diverging detector), like any loss beyond it


class IQDet(QualitySampling):
    """QDE, L_IQ and QDS (registry name ``iqdet``).

    Args:
        positives, draws_per_level, level_gate, select, rejected, inbox, label: see `QualitySampling`.
        components: of the mixture, the paper's 2.
        hidden: width of the encoder, not stated (A32). None: four times the head's channels.
        roi: side of the RoI feature, the paper's 7 (Table 3).
        iq_weight: the paper's lambda_IQ = 1.
        peak: what the mixing coefficients are (A3).
        detach_label: whether the class loss leaves the encoder alone (A12).
        iq_points: where L_IQ is taken (A14): in-box grid points, all draws, or the positives.
        iq_target: what Q learns (A16): IoU, or one minus the class, box or summed loss, scaled to [0, 1] per box.
        select_by: positives by Q, or by the smallest loss over the in-box grid points (A16, second reading).
        warmup: share of training in which ATSS assigns while the encoder learns (A31).
        lattice_side: L_IQ sees at most this many grid points squared per box and level.
        extractor: of the RoI feature (Table 3).
        learn: which parameters of the distribution the encoder predicts (Table 2).
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
        level_gate: LevelGate = "contains_cell",
        select: Select = "topk",
        rejected: Rejected = "ignore",
        inbox: Inbox = "negative_no_footprint",
        label: Label = "quality",
        detach_label: bool = True,
        iq_points: Literal["grid", "draws", "positives"] = "grid",
        iq_target: Literal["iou", "cls", "reg", "comb"] = "iou",
        select_by: Literal["q", "loss"] = "q",
        warmup: float = 0.0,
        lattice_side: int = 8,
        extractor: Extractor = "roi_align",
        learn: Learn = "mu_sigma_peak",
    ) -> None:
        super().__init__(
            positives=positives, draws_per_level=draws_per_level, level_gate=level_gate, select=select,
            rejected=rejected, inbox=inbox, label=label,
        )  # fmt: skip
        at_least(1, components=components, hidden=hidden, roi=roi, lattice_side=lattice_side)
        within("[0, 1]", warmup=warmup)
        if select_by == "loss" and iq_target == "iou":
            raise ValueError("select_by=loss needs iq_target=cls, reg or comb: the loss to select by")
        if select_by == "loss" and (select == "joint" or iq_points != "grid"):
            raise ValueError("select_by=loss selects grid points: select=joint and iq_points need draws")
        self.iq_weight, self.lattice_side, self.detach_label = iq_weight, lattice_side, detach_label
        self.iq_points, self.iq_target, self.select_by = iq_points, iq_target, select_by
        self.warmup, self.warmup_assigner = warmup, ATSS(head)
        self.encoder = QualityDistributionEncoder(
            head.channels, components=components, hidden=hidden or 4 * head.channels, roi=roi, peak=peak,
            extractor=extractor, learn=learn,
        )  # fmt: skip

    def quality(self, grid: Grid, targets: Targets, predictions: Predictions | None) -> Mixture:
        """What the encoder predicts, on the levels where draws or L_IQ may ask for it."""
        predictions = self.required(grid, predictions)
        with torch.autocast(grid.points.device.type, enabled=False):
            mixture: Mixture = self.encoder(predictions.features, grid, targets, self._read(grid, targets))
            return mixture

    def forward(self, grid: Grid, targets: Targets, predictions: Predictions | None, step: Step) -> Assignment:
        """Assign by draws from the encoder's mixtures."""
        predictions = self.required(grid, predictions)
        mixture = self.quality(grid, targets, predictions)
        usable = usable_levels(grid, targets, self.level_gate)
        drawn = self.draw(grid, targets, mixture, usable, step)
        inside = lattice(grid, targets, self.lattice_side, step)
        target = self._target(grid, targets, predictions, inside)

        pool, score = drawn, mixture.log_density(drawn.d)
        if self.select_by == "loss":
            pool, score = replace(inside, ok=inside.ok & usable.unsqueeze(-1)), target.clamp(min=1e-9).log()
        index, chosen = self.choose(pool, score.detach(), mixture, usable, targets, step)
        seen, aim = inside, target
        if self.iq_points != "grid":
            seen, aim = drawn, self._target(grid, targets, predictions, drawn)
        if self.iq_points == "positives":
            picked = torch.zeros_like(seen.ok.flatten(1)).scatter(1, index, chosen)
            seen = replace(seen, ok=seen.ok & picked.view(seen.ok.shape))
        losses = {"iq": self._iq_loss(mixture, seen, aim)}
        if step.progress < self.warmup:
            early = self.warmup_assigner.forward(grid, targets, predictions, step)
            return replace(early, losses=losses)

        label = self.labels(score.detach() if self.detach_label else score, index, chosen)
        answer = self.supervise(pool, label, index, chosen, mixture, grid, targets, usable)
        count = inside.ok.sum().to(target.dtype)
        expected = torch.where(inside.ok, mixture.density(inside.d).detach(), 0).sum()
        statistics = {
            "quality_predicted": (expected, count),
            "quality_target": (torch.where(inside.ok, target, 0).sum(), count),
        }
        return replace(answer, losses=losses, statistics=answer.statistics | statistics)

    def _read(self, grid: Grid, targets: Targets) -> Tensor | None:
        """Where something is read of the mixtures: `QualityDistributionEncoder.forward`'s index."""
        return box_levels(grid, targets) if self.level_gate in ("contains_grid", "contains_cell") else None

    def _target(self, grid: Grid, targets: Targets, predictions: Predictions, points: BoxPoints) -> Tensor:
        """What Q is to predict at points ``[N, L, P]``, in [0, 1], without gradient (A16, A17: of the own box)."""
        box = torch.arange(targets.num_boxes, device=points.ok.device)[:, None, None].expand(points.ok.shape).flatten()
        level, uv = points.level.flatten(), points.uv.flatten(0, 2)
        location = None if points.location is None else points.location.flatten()
        truth = targets.boxes[box]
        with torch.no_grad():
            reader = MapReader.build(grid, targets.image[box], level, uv, location)
            predicted = decode(grid.pixels(level, uv), reader.read(predictions.distances))
            if self.iq_target == "iou":
                return aligned_iou(predicted, truth).nan_to_num(0.0).view(points.ok.shape)
            loss = torch.zeros_like(predicted[:, 0])
            if self.iq_target in ("cls", "comb"):
                own = reader.read(predictions.logits).gather(1, targets.labels[box][:, None]).squeeze(1)
                loss = loss + torch.sigmoid(-own).square() * F.softplus(-own)
            if self.iq_target in ("reg", "comb"):
                loss = loss + giou_loss(predicted, truth)
            # BCE needs [0, 1], not the [-1, 1] that the paper prints.
            loss = loss.nan_to_num(WORST, posinf=WORST).clamp(max=WORST).view(points.ok.shape)
            low = torch.where(points.ok, loss, torch.inf).amin(dim=(1, 2), keepdim=True)
            high = torch.where(points.ok, loss, -torch.inf).amax(dim=(1, 2), keepdim=True)
            return torch.where(points.ok, 1 - (loss - low) / (high - low).clamp(min=1e-9), 0)

    def _iq_loss(self, mixture: Mixture, points: BoxPoints, target: Tensor) -> Term:
        """L_IQ: BCE(Q, target), a mean over the points of each (box, level), then over these (A14, A15)."""
        element = torch.where(points.ok, quality_loss(mixture.log_density(points.d), target), 0)
        count = points.ok.sum(dim=-1)
        return self.iq_weight * (element.sum(dim=-1) / count.clamp(min=1)).sum(), (count > 0).sum()
