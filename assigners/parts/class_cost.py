"""Class costs of (box, location) pairs without a [pairs, classes] table.

A cost that sums a loss f over all classes, with the box's own class as the only positive one, splits into a part of the
location and a part of the pair:

    sum_c f(z_c, [c = own])  =  sum_c f(z_c, 0)  -  f(z_own, 0)  +  f(z_own, 1)
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from assigners.ops.segments import at

CPU_BLOCK = 2**17  # numbers of a block: a handful of them fit the cache of a core
GPU_BLOCK = 2**24


def block_rows(table: Tensor) -> int:
    """How many rows of ``[N, C]`` a pass over all classes should take at a time."""
    return max(1, (CPU_BLOCK if table.device.type == "cpu" else GPU_BLOCK) // max(1, table.shape[1]))


def background_and_own(
    logits: Tensor, cell: Tensor, channel: Tensor, negative: Callable[[Tensor], Tensor]
) -> tuple[Tensor, Tensor]:
    """The cost of calling a location background, and the logit of the own class, per pair.

    Args:
        logits: ``[B, R, C]``.
        cell: ``[K]`` cell of the batch, image * R + location; channel: ``[K]`` class of the pair's box.
        negative: f(z, 0), element-wise.

    Returns:
        ``sum_c f(z_c, 0)`` over all classes, the own one included, ``[K]``; and z of the own class ``[K]``.
    """
    rows = logits.float().flatten(0, 1)
    own = at(rows.flatten(), cell * rows.shape[1] + channel)
    # A location may be in many pairs: each is summed once, unless there are fewer pairs than locations.
    count = block_rows(rows)
    if cell.shape[0] < rows.shape[0]:
        return torch.cat([negative(at(rows, part)).sum(dim=1) for part in cell.split(count)]), own
    return at(torch.cat([negative(part).sum(dim=1) for part in rows.split(count)]), cell), own


def focal_negative(logits: Tensor, alpha: float = 0.25, gamma: float = 2.0) -> Tensor:
    """Focal loss of a negative, element-wise (Lin et al., ICCV 2017, eq. 5)."""
    return (1 - alpha) * logits.sigmoid().pow(gamma) * F.softplus(logits)


def focal_positive(logits: Tensor, alpha: float = 0.25, gamma: float = 2.0) -> Tensor:
    """Focal loss of a positive, element-wise."""
    return alpha * torch.sigmoid(-logits).pow(gamma) * F.softplus(-logits)
