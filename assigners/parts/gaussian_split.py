"""PAA's split of a box's candidates: a mixture of two Gaussians over their scores, for all boxes at once.

Where EM stops is part of the rule: run on, the components drift and the split moves. Each box therefore freezes at
the step where scikit-learn's `GaussianMixture` (its defaults, PAA's start) would have stopped.
"""

from __future__ import annotations

from math import log, pi

import torch
from torch import Tensor

from assigners.ops.host_shortcuts import none_left

ITERATIONS = 64  # at most; of 10,000 random bags the slowest took 42 (scikit-learn allows 100)
TOLERANCE = 1e-3  # on the change of the mean log-likelihood
VARIANCE_FLOOR = 1e-6  # added to each variance
COUNT_FLOOR = 10 * torch.finfo(torch.float64).eps  # added to each component's share of the points


def split(scores: Tensor, ok: Tensor) -> Tensor:
    """Which candidates are positive: of those that the low component explains best, up to its densest point.

    Args:
        scores: ``[G, K]``, finite; low is good.
        ok: ``[G, K]`` bool, the candidate exists.

    Returns:
        ``[G, K]`` bool: a prefix of each row's candidates in the order of their scores (equal ones by position), of
        at least one wherever there is a candidate.
    """
    order = torch.sort(torch.where(ok, scores.double(), torch.inf), dim=1, stable=True).indices
    exists = ok.gather(1, order)
    x = torch.where(exists, scores.double().gather(1, order), 0)
    low, density = fit(x, exists)
    low = low & exists
    densest = torch.where(low, density, -torch.inf).argmax(dim=1, keepdim=True)
    last = torch.where(low.any(dim=1, keepdim=True), densest, x.shape[1])  # no low component: all
    position = torch.arange(x.shape[1], device=x.device)
    return torch.zeros_like(ok).scatter(1, order, exists & (position <= last))


def fit(x: Tensor, exists: Tensor) -> tuple[Tensor, Tensor]:
    """Two Gaussians per row, started at its smallest and largest value with weights 1/2 and variances 1.

    Args:
        x: ``[G, K]`` float64; exists: ``[G, K]``.

    Returns:
        whether the component that started at the smallest value explains a point at least as well as the other,
        and the log density of the mixture, both ``[G, K]``.
    """
    count = exists.sum(dim=1).clamp(min=1).to(x.dtype)[:, None]
    smallest = torch.where(exists, x, torch.inf).amin(dim=1)
    largest = torch.where(exists, x, -torch.inf).amax(dim=1)
    mean = torch.where(exists.any(dim=1, keepdim=True), torch.stack((smallest, largest), dim=1), 0)  # [G, 2]
    variance, weight = torch.ones_like(mean), torch.full_like(mean, 0.5)
    likelihood = torch.full_like(count, -torch.inf)
    active = torch.ones_like(count, dtype=torch.bool)
    present = exists.to(x.dtype)  # to multiply with: everything below is finite
    for _ in range(ITERATIONS):
        joint = _log_joint(x, mean, variance, weight)
        density = torch.logaddexp(joint[:, 0], joint[:, 1])
        share = (joint - density.unsqueeze(1)).exp_().mul_(present.unsqueeze(1))  # [G, 2, K]
        size = share.sum(dim=2) + COUNT_FLOOR
        moved = (share * x.unsqueeze(1)).sum(dim=2) / size
        distance = (x.unsqueeze(1) - moved.unsqueeze(2)).square_()
        spread = distance.mul_(share).sum(dim=2) / size + VARIANCE_FLOOR
        mean, variance = torch.where(active, moved, mean), torch.where(active, spread, variance)
        weight = torch.where(active, size / size.sum(dim=1, keepdim=True), weight)
        now = density.mul_(present).sum(dim=1, keepdim=True) / count
        active = active & ((now - likelihood).abs() >= TOLERANCE)
        likelihood = now
        if none_left(active):
            break
    joint = _log_joint(x, mean, variance, weight)
    return joint[:, 0] >= joint[:, 1], torch.logaddexp(joint[:, 0], joint[:, 1])


def _log_joint(x: Tensor, mean: Tensor, variance: Tensor, weight: Tensor) -> Tensor:
    """``log(weight * Gaussian)`` of both components: ``[G, 2, K]``."""
    scale = weight.log() - 0.5 * (log(2 * pi) + variance.log())
    distance = (x.unsqueeze(1) - mean.unsqueeze(2)).square_()
    return torch.addcmul(scale.unsqueeze(2), distance, variance.reciprocal().unsqueeze(2), value=-0.5)
