"""Quality sampling without an encoder: the fixed distributions that IQDet's Tables 1 and 2 compare the learned with.

``uniform_center`` is "QDS without QDE" of Table 1: float samples, uniform over FCOS's center-sampling square.
``fixed_qd`` is the row without learnable parameters of Table 2: one Gaussian at the centre of every box on every level.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from torch import Tensor

from assigners.contract import HeadInfo, Predictions, Targets
from assigners.grid import Grid
from assigners.parts.bounds import above_zero
from assigners.rules.iqdet.box_points import LevelGate
from assigners.rules.iqdet.encoder import SIGMA_INIT, Mixture
from assigners.rules.iqdet.pipeline import Inbox, Label, QualitySampling, Rejected, Select

Unit = Literal["box", "stride", "box_over_ratio"]


class UniformCenter(QualitySampling):
    """Uniform float samples around the centre, with hard labels (registry name ``uniform_center``).

    Args:
        positives: samples per box, all on the level of the box's size.
        radius: half side of the square in strides, cut to the box.
        rounded: whether draws move to the nearest grid point, as those of ``qd`` do: what is left of the difference to
            center sampling is the number of samples and their copies.
        inbox: see `QualitySampling`.
    """

    uniform: ClassVar[bool] = True

    def __init__(
        self,
        head: HeadInfo,
        *,
        positives: int = 12,
        radius: float = 1.5,
        rounded: bool = False,
        inbox: Literal["negative_no_footprint", "ignore", "negative"] = "negative_no_footprint",
    ) -> None:
        super().__init__(positives=positives, draws_per_level=positives, level_gate="fcos_range", inbox=inbox)
        above_zero(radius=radius)
        self.radius, self.quantised = radius, rounded

    def quality(self, grid: Grid, targets: Targets, predictions: Predictions | None) -> Mixture:
        """1 everywhere: a component of infinite width."""
        return constant_mixture(grid, targets, targets.boxes.new_full((grid.num_levels, 2), torch.inf))

    def region(self, grid: Grid, targets: Targets) -> tuple[Tensor, Tensor]:
        """The square of `radius` strides, cut to the box."""
        half = (targets.boxes[:, 2:] - targets.boxes[:, :2]) / 2
        reach = (self.radius * grid.level_stride[:, None] / half[:, None]).clamp(max=1).unsqueeze(2)  # [N, L, 1, 2]
        return -reach, reach


class FixedQuality(QualitySampling):
    """A Gaussian that nothing learns (registry name ``fixed_qd``).

    Args:
        sigma: of both axes, in the unit that `d_norm` names; the paper does not give it.
        d_norm: the unit (A2). ``box``: half sides of the box. ``stride``: cells of the level.
            ``box_over_ratio``: half sides times the level's stride over 8.
        positives, draws_per_level, level_gate, select, rejected, inbox, label: see `QualitySampling`.
    """

    def __init__(
        self,
        head: HeadInfo,
        *,
        sigma: float = SIGMA_INIT,
        d_norm: Unit = "box",
        positives: int = 12,
        draws_per_level: int | None = None,
        level_gate: LevelGate = "contains_cell",
        select: Select = "topk",
        rejected: Rejected = "ignore",
        inbox: Inbox = "negative_no_footprint",
        label: Label = "quality",
    ) -> None:
        super().__init__(
            positives=positives, draws_per_level=draws_per_level, level_gate=level_gate, select=select,
            rejected=rejected, inbox=inbox, label=label,
        )  # fmt: skip
        above_zero(sigma=sigma)
        self.sigma, self.d_norm = sigma, d_norm

    def quality(self, grid: Grid, targets: Targets, predictions: Predictions | None) -> Mixture:
        """The same everywhere in units of `d_norm`; the two components of the paper would coincide, so there is one."""
        if self.d_norm == "stride":
            half = (targets.boxes[:, None, 2:] - targets.boxes[:, None, :2]) / 2
            return constant_mixture(grid, targets, self.sigma * grid.level_stride[:, None] / half)
        ratio = grid.level_stride / 8 if self.d_norm == "box_over_ratio" else torch.ones_like(grid.level_stride)
        return constant_mixture(grid, targets, self.sigma * ratio[:, None].expand(-1, 2))


def constant_mixture(grid: Grid, targets: Targets, sigma: Tensor) -> Mixture:
    """One component of peak 1 at the box centre: ``[N, L]``, with `sigma` in half sides, broadcast to ``[N, L, 2]``."""
    shape = (targets.num_boxes, grid.num_levels, 1, 2)
    sigma = sigma.expand(shape[0], shape[1], 2).unsqueeze(2)
    return Mixture(mu=torch.zeros_like(sigma), sigma=sigma, log_pi=torch.zeros_like(sigma[..., 0]))
