"""IQDet's quality distribution: a mixture over a box (eq. 1) and the encoder that predicts it (sec. 3.1, fig. 3a).

Coordinates ``d`` are offsets from the box centre in half sides, so that the box is the square [-1, 1]^2.
Shape letters here: N boxes, L levels, K mixture components, P points.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from math import log
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from assigners.contract import Targets
from assigners.grid import Grid
from assigners.ops.records import map_tensors
from assigners.parts.roi_features import Extractor, Rows, box_features, by_rows

Peak = Literal["gate", "sigmoid", "softmax"]
Learn = Literal["mu_sigma_peak", "mu_sigma", "mu"]

SIGMA_MIN = 0.05  # half sides; A6 leaves the floor open: under one P3 cell for boxes up to 320 px
MU_INIT = 0.15  # half sides; +-MU_INIT on x keeps two components apart at the start (not in the paper)
SIGMA_INIT = 0.5  # half sides (not in the paper)
PEAK_INIT = 0.7  # initial quality at a component's mean (not in the paper)
SAMPLING_RATIO = 2  # RoIAlign samples per bin side; A32 leaves it open


@dataclass(frozen=True)
class Mixture:
    """``Q(d) = sum_k pi_k exp(-|(d - mu_k) / sigma_k|^2 / 2)``, components with peak 1, not densities (eq. 1).

    Attributes:
        mu, sigma: ``[..., K, 2]`` half sides, along x and y.
        log_pi: ``[..., K]`` log of the mixing coefficients.
    """

    mu: Tensor
    sigma: Tensor
    log_pi: Tensor

    def log_density(self, d: Tensor) -> Tensor:
        """``log Q`` at points ``[..., P, 2]`` -> ``[..., P]``; finite where Q underflows, unless every pi is 0."""
        scaled = (d.unsqueeze(-2) - self.mu.unsqueeze(-3)) / self.sigma.unsqueeze(-3)  # [..., P, K, 2]
        return torch.logsumexp(self.log_pi.unsqueeze(-2) - scaled.square().sum(dim=-1) / 2, dim=-1)

    def density(self, d: Tensor) -> Tensor:
        """``Q`` at points ``[..., P, 2]`` -> ``[..., P]``."""
        return self.log_density(d).exp()

    def detach(self) -> Mixture:
        """The same numbers without gradient."""
        return map_tensors(self, Tensor.detach)

    def __getitem__(self, index: Tensor | tuple[Tensor, ...]) -> Mixture:
        """The mixtures at an index of the leading dimensions."""
        return map_tensors(self, lambda part: part[index])


class QualityDistributionEncoder(nn.Module):
    """QDE: RoIAlign of the box on every level, two layers shared over levels, then mu, sigma and pi.

    Args:
        channels: of the FPN maps.
        components: K, the paper's 2.
        hidden: width of the two layers; the paper does not state it.
        roi: side of the pooled feature, the paper's 7 (Table 3).
        extractor: how it is pooled (`box_features`; Table 3).
        learn: what is predicted (Table 2). Where sigma is not, it is `SIGMA_INIT`; where the peak is not, each
            component's is 1 / K, so that Q is at most 1. The paper gives neither.
        peak: what pi is (A3). ``softmax``: it sums to 1. ``sigmoid``: each is free, Q may exceed 1. ``gate``: softmax
            times one gate, so that Q stays below 1 and a level can be muted.
    """

    def __init__(
        self,
        channels: int,
        *,
        components: int,
        hidden: int,
        roi: int,
        peak: Peak,
        extractor: Extractor = "roi_align",
        learn: Learn = "mu_sigma_peak",
    ) -> None:
        super().__init__()
        self.roi, self.extractor, self.peak, self.components = roi, extractor, peak, components
        bins = 1 if extractor == "roi_align_mean" else roi * roi
        self.layers = nn.Sequential(nn.Linear(channels * bins, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU())
        self.mu = nn.Linear(hidden, components * 2)
        self.sigma = nn.Linear(hidden, components * 2) if learn != "mu" else None
        self.pi = nn.Linear(hidden, components) if learn == "mu_sigma_peak" else None
        self.gate = nn.Linear(hidden, 1) if learn == "mu_sigma_peak" and peak == "gate" else None
        self._initialise()

    def _initialise(self) -> None:
        for layer in (self.mu, self.sigma, self.pi, self.gate):
            if layer is not None:
                nn.init.normal_(layer.weight, std=0.01)
                nn.init.zeros_(layer.bias)
        with torch.no_grad():
            self.mu.bias.view(-1, 2)[:, 0] = torch.linspace(-MU_INIT, MU_INIT, self.components)
            if self.sigma is not None:
                self.sigma.bias.fill_(log(torch.expm1(torch.tensor(SIGMA_INIT - SIGMA_MIN)).item()))
            if self.gate is not None:
                self.gate.bias.fill_(log(PEAK_INIT / (1 - PEAK_INIT)))
            elif self.pi is not None and self.peak == "sigmoid":
                each = PEAK_INIT / self.components
                self.pi.bias.fill_(log(each / (1 - each)))

    def forward(
        self, features: tuple[Tensor, ...], grid: Grid, targets: Targets, index: Tensor | None = None
    ) -> Mixture:
        """Encode every box on every level.

        Args:
            features: FPN maps ``[B, D, H_l, W_l]``, with gradient: L_IQ supervises the backbone too (sec. 3.3).
            targets: N boxes.
            index: ``[M]`` into (box, level), where something is read of the answer; the layers, most of the cost, see
                these alone, and elsewhere the mixture is that of the biases. None: everywhere. RoIPool pools all.

        Returns:
            Mixture of shape ``[N, L]`` in float32.
        """
        levels = grid.num_levels
        if index is None or self.extractor == "roi_pool":
            index = torch.arange(targets.num_boxes * levels, device=targets.boxes.device)
        seen = by_rows(partial(self._hidden, grid), features, Rows.at(targets, levels, index))
        hidden = seen.new_zeros(targets.num_boxes * levels, seen.shape[1]).index_copy(0, index, seen)
        hidden = hidden.unflatten(0, (targets.num_boxes, levels))
        mu = self.mu(hidden).unflatten(-1, (self.components, 2))
        if self.sigma is None:
            sigma = torch.full_like(mu, SIGMA_INIT)
        else:
            sigma = SIGMA_MIN + F.softplus(self.sigma(hidden)).unflatten(-1, (self.components, 2))
        return Mixture(mu=mu, sigma=sigma, log_pi=self._log_pi(hidden))

    def _hidden(self, grid: Grid, features: tuple[Tensor, ...], rows: Rows) -> Tensor:
        """What mu, sigma and pi of rows are read from, ``[M, hidden]``."""
        pooled = box_features(features, grid, rows, self.roi, SAMPLING_RATIO, self.extractor)
        hidden: Tensor = self.layers(pooled.flatten(1))
        return hidden

    def _log_pi(self, hidden: Tensor) -> Tensor:
        if self.pi is None:
            return hidden.new_full((*hidden.shape[:-1], self.components), -log(self.components))
        pi = self.pi(hidden)
        if self.gate is not None:
            return F.logsigmoid(self.gate(hidden)) + F.log_softmax(pi, dim=-1)
        return F.logsigmoid(pi) if self.peak == "sigmoid" else F.log_softmax(pi, dim=-1)


ONE_MINUS_FLOOR = 1e-2  # of 1 - Q, below which log(1 - Q) goes on along its tangent


def quality_loss(log_q: Tensor, target: Tensor) -> Tensor:
    """Element-wise BCE between Q (given as its log) and a target in [0, 1]; the integrand of L_IQ.

    ``log Q`` is exact however small Q is, so a level muted by a far mean still learns. Near and beyond Q = 1
    (possible with sigmoid peaks) ``log(1 - Q)`` is continued by its tangent: the gradient stays finite and points
    back, where a clamp would have none.
    """
    rest = 1 - log_q.exp()
    log_rest = torch.log(rest.clamp(min=ONE_MINUS_FLOOR)) + (rest.clamp(max=ONE_MINUS_FLOOR) / ONE_MINUS_FLOOR - 1)
    return -(target * log_q + (1 - target) * log_rest)
