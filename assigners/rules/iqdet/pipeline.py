"""Quality distribution sampling (IQDet sec. 3.2): draws inside boxes, and which of them become samples.

One pipeline for a family of rules. A rule says what the quality of a place is (`QualitySampling.quality`), whether
draws follow that quality or are uniform over a region, and whether they are rounded to the grid; everything after
is shared. The paper's Table 4 compares exactly these.

Shape letters: N boxes, L levels, P points per box and level, K positives of a box.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import replace
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from assigners.contract import Assigner, Assignment, Predictions, Samples, Step, Targets
from assigners.grid import Grid, coverage
from assigners.ops.records import tensors
from assigners.ops.segments import at, consecutive
from assigners.parts.bounds import at_least
from assigners.parts.candidates import inside_pairs
from assigners.parts.map_reader import MapReader
from assigners.parts.negatives import negatives_outside_ignore
from assigners.rules.iqdet.box_points import (
    DRAW_STREAM,
    RESAMPLE_STREAM,
    TIE_STREAM,
    BoxPoints,
    LevelGate,
    at_offsets,
    box_noise,
    offset_in_half_sides,
    quantise,
    select_top,
    usable_levels,
)
from assigners.rules.iqdet.encoder import Mixture
from assigners.rules.iqdet.mixture_sampler import component_mass, sample_truncated, sample_uniform

Select = Literal["topk", "joint", "multinomial", "topk_per_level"]
Rejected = Literal["ignore", "zero", "zero_other_levels"]
Inbox = Literal["negative_no_footprint", "ignore", "negative", "one_minus_q", "soft"]
Label = Literal["quality", "best_is_one", "one"]

DRAWS_PER_POSITIVE = 4  # selection needs something to select from: with 1, a box on one level keeps whatever it drew
SMALLEST_BEST = 1e-6  # of a box's labels, where the best is to be one: a quality of nothing stays nothing


class QualitySampling(Assigner):
    """What the sampling rules share.

    Args:
        positives: per box over all levels, the paper's K = 12 (Table 5).
        draws_per_level: per box and level; the paper's "fixed number" is not given (A7). None: `DRAWS_PER_POSITIVE`
            times `positives`.
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
        label: of the positives. ``quality``: Q, as the paper has it. ``best_is_one``: Q over the largest Q of the
            box's positives. ``one``: hard, as without soft labels; Q then only selects.
    """

    uniform: ClassVar[bool] = False  # draws are uniform over `region`; otherwise their density is the quality
    quantised: bool = False  # draws move to the nearest grid point

    def __init__(
        self,
        *,
        positives: int = 12,
        draws_per_level: int | None = None,
        level_gate: LevelGate = "contains_cell",
        select: Select = "topk",
        rejected: Rejected = "ignore",
        inbox: Inbox = "negative_no_footprint",
        label: Label = "quality",
    ) -> None:
        super().__init__()
        at_least(1, positives=positives, draws_per_level=draws_per_level)
        self.positives, self.draws_per_level = positives, draws_per_level or DRAWS_PER_POSITIVE * positives
        self.level_gate, self.select, self.rejected, self.inbox = level_gate, select, rejected, inbox
        self.label = label

    @abstractmethod
    def quality(self, grid: Grid, targets: Targets, predictions: Predictions | None) -> Mixture:
        """The quality distribution of every box on every level, ``[N, L]``."""

    def region(self, grid: Grid, targets: Targets) -> tuple[Tensor, Tensor]:
        """Where uniform draws may fall: low and high corner in half sides, broadcast to ``[N, L, P, 2]``."""
        one = torch.ones((), device=targets.boxes.device)
        return -one, one

    def draw(self, grid: Grid, targets: Targets, quality: Mixture, usable: Tensor, step: Step) -> BoxPoints:
        """`draws_per_level` draws per box and level that is `usable` ``[N, L]``, without gradient (A13)."""
        noise = box_noise(step, DRAW_STREAM, targets, grid.num_levels, self.draws_per_level, 3)
        if self.uniform:
            d = sample_uniform(*self.region(grid, targets), noise)
        else:
            d = sample_truncated(quality.detach(), noise)
        drawn = at_offsets(grid, targets, d)
        drawn = quantise(grid, targets, drawn) if self.quantised else drawn
        return replace(drawn, ok=drawn.ok & usable.unsqueeze(-1))

    def choose(
        self, pool: BoxPoints, score: Tensor, quality: Mixture, usable: Tensor, targets: Targets, step: Step
    ) -> tuple[Tensor, Tensor]:
        """Indices ``[N, K]`` into L * P of the positives, and which of them exist (A7)."""
        boxes, levels, points = pool.ok.shape
        priority = box_noise(step, TIE_STREAM, targets, levels, points)
        if self.select == "topk_per_level":
            flat = (-1, points)
            index, ok = select_top(score.reshape(flat), pool.ok.reshape(flat), priority.view(flat), self.positives)
            index = index.unflatten(0, (boxes, levels)) + torch.arange(levels, device=index.device)[:, None] * points
            return index.flatten(1), ok.unflatten(0, (boxes, levels)).flatten(1)
        if self.select == "joint":
            # Draw k of the level that the joint density picks for it; the density is over the box-normalised place.
            mass = torch.where(usable, component_mass(quality.detach()).sum(dim=-1), 0)
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

    def labels(self, score: Tensor, index: Tensor, chosen: Tensor) -> Tensor:
        """Class labels ``[N, L, P]`` in [0, 1] of points with log quality `score`, for a choice among them."""
        if self.label == "one":
            return torch.ones_like(score)
        label = score.exp().clamp(0, 1)
        if self.label == "best_is_one":
            best = torch.where(chosen, label.flatten(1).gather(1, index), 0).amax(dim=1).clamp(min=SMALLEST_BEST)
            label = (label / best[:, None, None]).clamp(max=1)
        return label

    def supervise(
        self, pool: BoxPoints, label: Tensor, index: Tensor, chosen: Tensor, quality: Mixture, grid: Grid,
        targets: Targets, usable: Tensor,
    ) -> Assignment:  # fmt: skip
        """Samples and negatives of a choice; `label` ``[N, L, P]`` in [0, 1]."""
        samples = self._samples(pool, label, index, chosen)
        samples, negative = self._inbox(samples, quality.detach(), grid, targets, usable)
        labels = torch.where(samples.positive, samples.label, 0).sum().detach()
        return Assignment(samples, negative, statistics={"label": (labels, samples.positive.sum())})

    def forward(self, grid: Grid, targets: Targets, predictions: Predictions | None, step: Step) -> Assignment:
        """Draw, keep the best, label them with their quality."""
        quality = self.quality(grid, targets, predictions)
        usable = usable_levels(grid, targets, self.level_gate)
        drawn = self.draw(grid, targets, quality, usable, step)
        score = quality.log_density(drawn.d)
        index, chosen = self.choose(drawn, score, quality, usable, targets, step)
        label = self.labels(score, index, chosen)
        return self.supervise(drawn, label, index, chosen, quality, grid, targets, usable)

    def _samples(self, pool: BoxPoints, label: Tensor, index: Tensor, chosen: Tensor) -> Samples:
        """The positives and, where A8 asks for it, the rejected draws with target zero."""
        positive = chosen
        if self.rejected != "ignore":
            positive = torch.zeros_like(pool.ok.flatten(1)).scatter(1, index, chosen)
            index = torch.arange(positive.shape[1], device=index.device).expand_as(positive)
            chosen = torch.ones_like(positive)
        level, uv, location, ok = pool.gather(index, chosen)
        if self.rejected == "zero_other_levels":
            taken = positive.view(pool.ok.shape).any(dim=-1)  # [N, L]
            ok = ok & (positive | ~taken.gather(1, level))
        gt = torch.arange(ok.shape[0], device=ok.device)[:, None].expand_as(ok)
        weight, exists = positive.to(uv.dtype), ok.to(uv.dtype)
        return Samples(
            gt=gt.flatten(), level=level.flatten(), uv=uv.flatten(0, 1), ok=ok.flatten(), positive=positive.flatten(),
            label=(label.flatten(1).gather(1, index) * weight).flatten(), class_weight=exists.flatten(),
            box_weight=weight.flatten(), quality_weight=weight.flatten(),
            location=None if location is None else location.flatten(),
        )  # fmt: skip

    def _inbox(
        self, samples: Samples, quality: Mixture, grid: Grid, targets: Targets, usable: Tensor
    ) -> tuple[Samples, Tensor]:
        """Negative weights ``[B, R]``, and what the treatment of in-box grid points changes in the samples (A9)."""
        negative = negatives_outside_ignore(grid, targets)
        if self.inbox == "negative_no_footprint":
            return samples, negative
        if self.inbox == "negative":
            return joined(samples, read_cells(samples, negative, grid, targets)), negative
        if self.inbox == "ignore":
            outside = coverage(grid, targets.boxes, targets.image, targets.num_images) == 0
            return replace(samples, all_classes=True), negative * outside
        pairs = inside_pairs(grid, targets)
        level = at(grid.level, pairs.location)
        d = offset_in_half_sides(grid.points[pairs.location], targets.boxes[pairs.gt])
        q = quality[pairs.gt, level].density(d.unsqueeze(-2)).squeeze(-1).clamp(0, 1)
        q = torch.where(usable[pairs.gt, level], q, 0)
        if self.inbox == "one_minus_q":
            weight = torch.ones_like(negative).flatten().scatter_reduce(0, pairs.cell, 1 - q, reduce="amin")
            return samples, negative * weight.view_as(negative)
        everywhere = torch.ones_like(q, dtype=torch.bool)
        dense = Samples.at_locations(grid, pairs.location, pairs.gt, everywhere)
        return joined(samples, replace(negatives_of(dense), label=q)), negative


def read_cells(samples: Samples, negative: Tensor, grid: Grid, targets: Targets) -> Samples:
    """The cells that samples read, as negatives of the samples' classes: the loss takes them out of the grid's.

    Args:
        negative: ``[B, R]`` weight of a location as a negative.

    Returns:
        A row for each cell of each sample; those of one cell and class share its weight, so that it counts once and
        the order of the boxes decides nothing.
    """
    reader = MapReader.build(grid, targets.image[samples.gt], samples.level, samples.uv, samples.location)
    reads, cell = reader.reads(samples.ok).flatten(), reader.cell.flatten()
    gt = samples.gt[:, None].expand_as(reader.cell).flatten()
    channel = consecutive(targets.labels[gt] * negative.numel() + cell)
    weight = reads.to(negative.dtype)
    share = weight / at(torch.zeros_like(weight).index_add(0, channel, weight), channel).clamp(min=1)
    rows = Samples.at_locations(grid, cell % grid.num_locations, gt, reads)
    return replace(negatives_of(rows), class_weight=share * at(negative.flatten(), cell))


def negatives_of(samples: Samples) -> Samples:
    """The same rows with target zero: nothing of them but their class is learnt."""
    nothing = torch.zeros_like(samples.label)
    positive = torch.zeros_like(samples.positive)
    return replace(samples, positive=positive, label=nothing, box_weight=nothing, quality_weight=nothing)


def joined(a: Samples, b: Samples) -> Samples:
    """The rows of both, on the grid where both are."""
    if not b.on_grid:
        a = replace(a, location=None)
    theirs = tensors(b)
    rows: dict[str, Any] = {name: torch.cat((mine, theirs[name])) for name, mine in tensors(a).items()}
    return replace(a, **rows)
