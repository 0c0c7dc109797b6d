"""The best few rows of each group of a flat list, without padding the groups and without knowing their sizes.

Rules over whole boxes keep their candidates as one list of (box, location) pairs
(`assigners.parts.candidates.inside_pairs`); what a dense rule does along an axis of a [boxes, locations] table, these
functions do per group of the list.
"""

from __future__ import annotations

import torch
from torch import Tensor


def at(values: Tensor, index: Tensor) -> Tensor:
    """``values[index]``: rows at indices of any shape. On a CPU that is several times faster than indexing.

    Backward adds up in no fixed order on a GPU: for what needs no gradient.
    """
    return values.index_select(0, index.flatten()).view(*index.shape, *values.shape[1:])


def ragged(counts: Tensor, total: int) -> tuple[Tensor, Tensor]:
    """Group, and place within it, of each row ``[total]`` of a list in which groups have `counts` ``[n]`` rows."""
    groups = torch.arange(counts.shape[0], device=counts.device)
    group = torch.repeat_interleave(groups, counts, output_size=total)
    return group, torch.arange(total, device=counts.device) - at(counts.cumsum(0) - counts, group)


def smallest(key: Tensor, group: Tensor, groups: int, count: int, *, ok: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """The rows with the `count` smallest keys of each group, ascending, ties going to the earlier row.

    Args:
        key: ``[P]`` float32, finite or infinite; -0 and 0 tie.
        group: ``[P]`` int64 below `groups`.
        ok: ``[P]`` rows that take part; all of them where absent.

    Returns:
        ``[groups, count]`` index into the list, P where a group has no such row, and whether it has one; read values
        with `take`.
    """
    # One sort serves both orders: the group in the high half of an integer, in the low one the bits of the key, which
    # ascend with it once those of negative numbers are flipped.
    bits = (key.detach() + 0.0).view(torch.int32).long()
    bits = (bits ^ ((bits >> 31) & 0x7FFFFFFF)) + 2**31
    group = group if ok is None else torch.where(ok, group, groups)
    order = torch.sort((group << 32) + bits, stable=True).indices
    group = at(group, order)
    size = torch.zeros(groups + 1, dtype=torch.long, device=group.device).index_add(0, group, torch.ones_like(group))
    rank = torch.arange(group.shape[0], device=group.device) - at(size.cumsum(0) - size, group)
    # Rows beyond the best few, and those of no group, go to a last slot that is cut off.
    slot = torch.where((rank < count) & (group < groups), group * count + rank, groups * count)
    none = torch.full((groups * count + 1,), key.shape[0], device=group.device)
    index = none.scatter(0, slot, order)[:-1].view(groups, count)
    return index, index < key.shape[0]


def take(values: Tensor, index: Tensor) -> Tensor:
    """Values ``[groups, count]`` of the list ``[P]`` at an index of `smallest`, 0 where there is no row."""
    return torch.cat((values, values.new_zeros(1)))[index]


def marked(index: Tensor, ok: Tensor, size: int) -> Tensor:
    """Which of the places ``[size]`` rows with `ok` ``[...]`` are at, bool; `index` and `ok` are of one shape.

    A count, not a flag: other rows add 0, and a sum has no order where a write would have one.
    """
    count = torch.zeros(size, dtype=torch.int32, device=index.device)
    return count.index_add(0, index.flatten(), ok.flatten().int()) > 0


def consecutive(key: Tensor) -> Tensor:
    """Numbers from 0 for integer keys ``[P]``, equal for equal keys: a table of all possible keys would be large."""
    ordered, order = torch.sort(key)
    number = (ordered.diff(prepend=ordered[:1]) != 0).cumsum(0)
    return torch.empty_like(number).scatter_(0, order, number)


def group_sum(values: Tensor, group: Tensor, groups: int) -> Tensor:
    """Sum ``[groups]`` of the values ``[P]``; differentiable."""
    return values.new_zeros(groups).index_add(0, group, values)


def group_max(values: Tensor, group: Tensor, groups: int, empty: float) -> Tensor:
    """Largest value ``[groups]``, `empty` for a group without one above it; differentiable outside ties."""
    return values.new_full((groups,), empty).scatter_reduce(0, group, values, reduce="amax")


def group_min(values: Tensor, group: Tensor, groups: int, empty: float) -> Tensor:
    """Smallest value ``[groups]``, `empty` for a group without one below it; differentiable outside ties."""
    return values.new_full((groups,), empty).scatter_reduce(0, group, values, reduce="amin")
