"""Matching boxes to their cheapest locations, as many as the box's best overlaps add up to (SimOTA, DSLA and kin).

A rule brings the candidates of each box as ``[G, K]`` tables: from a window
(`assigners.parts.candidates.window_within`), or as the best few of a pair list (`assigners.ops.segments.smallest`).
Candidates stand in the order of their location index, which breaks ties of the cost.
"""

from __future__ import annotations

import torch
from torch import Tensor

from assigners.contract import Targets
from assigners.grid import Grid
from assigners.parts.conflicts import box_rank, one_box_each

HOPELESS = 1e30  # a cost above it, or none at all (a diverging detector), counts as this: sorting needs finite numbers


def dynamic_k(overlap: Tensor, ok: Tensor, topq: int) -> Tensor:
    """How many locations a box asks for: the floor of the sum of its `topq` largest overlaps, at least 1.

    Args:
        overlap: ``[G, K]`` IoU of the candidates' predicted boxes with the box; NaN counts as 0.
        ok: ``[G, K]`` the candidate exists.

    Returns:
        ``[G]`` int64.
    """
    existing = torch.where(ok, overlap, 0).nan_to_num(nan=0.0)
    return existing.topk(min(topq, overlap.shape[1]), dim=1).values.sum(dim=1).long().clamp(min=1)


def finite(cost: Tensor) -> Tensor:
    """The cost with everything that is not a number, or too large to compare, at `HOPELESS`."""
    return cost.nan_to_num(nan=HOPELESS, posinf=HOPELESS).clamp(max=HOPELESS)


def cheapest(cost: Tensor, ok: Tensor, most: int) -> tuple[Tensor, Tensor]:
    """The `most` cheapest candidates of each box, ascending, ties going to the earlier one.

    Args:
        cost: ``[G, K]`` finite; only candidates with `ok` ``[G, K]`` take part.

    Returns:
        ``[G, min(most, K)]`` index along K, and whether there is such a candidate.
    """
    order = torch.sort(torch.where(ok, cost, torch.inf), dim=1, stable=True)
    return order.indices[:, :most], order.values[:, :most].isfinite()


def settle(cost: Tensor, location: Tensor, ok: Tensor, k: Tensor | int, grid: Grid, targets: Targets) -> Tensor:
    """Each box takes its first `k` candidates; a location that several take goes to the one that it costs least.

    Args:
        cost: ``[G, K]`` finite and ascending, as `cheapest` and `assigners.ops.segments.smallest` order it.
        location: ``[G, K]`` flat within the image; ok: ``[G, K]`` the candidate exists.
        k: ``[G]``, or one number for all.

    Returns:
        ``[G, K]`` bool, one box per location at most; ties go by `assigners.parts.conflicts.box_rank`.
    """
    wanted = k[:, None] if isinstance(k, Tensor) else k
    taken = ok & (torch.arange(cost.shape[1], device=cost.device) < wanted)
    cell = grid.cell(targets.image[:, None], location)
    return one_box_each(cell, cost, box_rank(targets)[:, None], taken, targets.num_images * grid.num_locations)
