"""Who gets a location that several boxes claim: scatter-reduce, with a stated order for ties."""

from __future__ import annotations

import torch
from torch import Tensor

from assigners.contract import Targets
from assigners.ops.segments import at


def box_rank(targets: Targets) -> Tensor:
    """Rank ``[G]`` of the boxes by (area, x1, y1, x2, y2, class, index): the order that breaks every tie.

    It depends on what a box is and not on where it stands in the list, so that permuting the boxes of an image
    permutes the assignment and changes nothing else (two boxes equal in everything are interchangeable).
    """
    boxes = targets.boxes
    area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    order = torch.arange(boxes.shape[0], device=boxes.device)
    for key in (targets.labels, boxes[:, 3], boxes[:, 2], boxes[:, 1], boxes[:, 0], area):
        order = at(order, torch.sort(at(key, order), stable=True).indices)
    return torch.empty_like(order).scatter_(0, order, torch.arange(order.shape[0], device=order.device))


def keep_smallest(location: Tensor, key: Tensor, ok: Tensor, num_locations: int) -> Tensor:
    """Of the candidates of each location, those with the smallest key.

    Args:
        location: ``[...]`` int64 flat over the batch (image * R + location).
        key: float or integer, broadcast to ``[...]``; only candidates with `ok` ``[...]`` take part.
        num_locations: B * R.

    Returns:
        ``[...]`` bool; several where keys tie.
    """
    worst = torch.finfo(key.dtype).max if key.dtype.is_floating_point else torch.iinfo(key.dtype).max
    best = torch.full((num_locations,), worst, dtype=key.dtype, device=key.device)
    masked = torch.where(ok, key, worst)
    best = best.scatter_reduce(0, location.flatten(), masked.flatten(), reduce="amin")
    return ok & (masked == at(best, location))


def one_box_each(location: Tensor, key: Tensor, rank: Tensor, ok: Tensor, num_locations: int) -> Tensor:
    """Of the candidates of each location the one with the smallest key, ties going to the smallest rank."""
    return keep_smallest(location, rank, keep_smallest(location, key, ok, num_locations), num_locations)
