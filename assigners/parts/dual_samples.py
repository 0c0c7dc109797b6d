"""Candidates that are positives and negatives of a box's class at once, with a weight as either."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from assigners.contract import Samples
from assigners.grid import Grid


def dual_samples(
    grid: Grid, location: Tensor, gt: Tensor, positive: tuple[Tensor, Tensor], negative: tuple[Tensor, Tensor]
) -> Samples:
    """Two rows per candidate: what exists and its weight, as a positive and as a negative.

    Args:
        location: ``[G, K]``; gt: the same, or ``[G, 1]``.
        positive: ``[G, K]`` existence, and weight in the three losses, of rows with label 1.
        negative: ``[G, K]`` existence, and weight in the class loss alone, of rows with label 0.
    """
    exists, weight = (torch.stack(parts) for parts in zip(positive, negative, strict=True))
    both = Samples.at_locations(grid, location, gt, exists)
    is_positive = torch.stack((positive[0], torch.zeros_like(negative[0]))).flatten()
    weight = torch.where(exists, weight, 0).flatten()
    pulled = torch.where(is_positive, weight, 0)
    return replace(
        both, positive=is_positive, label=is_positive.to(weight.dtype), class_weight=weight, box_weight=pulled,
        quality_weight=pulled,
    )  # fmt: skip
