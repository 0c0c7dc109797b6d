"""What likelihood assigners share: sums of probabilities by their logarithms, the likeliest location of each box, and a
focal loss that a match discounts.

FreeAnchor and AutoAssign have no negatives to list: every class at every location is one, by as much as no box of that
class has matched the location. Their term is dense, the size of the logits, and so is worth one pass of its own: value
and gradient together, block by block, where automatic differentiation keeps seven maps of that size.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.utils.checkpoint import checkpoint

from assigners.contract import Samples, Targets
from assigners.grid import Grid
from assigners.ops.segments import at, group_max, group_min, group_sum
from assigners.parts.candidates import Pairs
from assigners.parts.class_cost import block_rows

TINY = 1e-38  # the smallest normal float32; log of it is finite
CHUNK = 2**18  # pairs of box and location at a time, where there are more: backward computes them anew


def group_logsumexp(values: Tensor, group: Tensor, groups: int) -> Tensor:
    """``log(sum(exp(values)))`` ``[groups]`` of the values ``[P]``, 0 for a group without one; differentiable."""
    top = group_max(values.detach(), group, groups, empty=torch.finfo(values.dtype).min)
    total = group_sum((values - at(top, group)).exp(), group, groups)
    # Not a bound of 1 on the sums: that of a single value is 1 itself, and a bound has no gradient where it is met.
    return torch.where(top > torch.finfo(values.dtype).min, top, 0) + torch.where(total > 0, total, 1).log()


def by_chunks(function: Callable[..., tuple[Tensor, ...]], *lists: Tensor) -> tuple[Tensor, ...]:
    """What a function answers of lists ``[P]`` of pairs, row by row; its memory is that of one chunk."""
    if lists[0].shape[0] <= CHUNK:
        return function(*lists)
    chunks = zip(*(each.split(CHUNK) for each in lists), strict=True)
    parts = [checkpoint(function, *chunk, use_reentrant=False, preserve_rng_state=False) for chunk in chunks]
    return tuple(map(torch.cat, zip(*parts, strict=True)))


def likeliest_samples(grid: Grid, targets: Targets, pairs: Pairs, value: Tensor, held: Tensor) -> Samples:
    """The location of the largest value ``[P]`` of each box, for the log and for pictures: without weight in any term.

    Args:
        held: ``[G]`` boxes that have a location.
    """
    top = group_max(value, pairs.gt, targets.num_boxes, empty=-torch.inf)
    place = torch.where(value == at(top, pairs.gt), pairs.location, grid.num_locations)
    location = group_min(place, pairs.gt, targets.num_boxes, empty=grid.num_locations)
    # Where the detector diverged no value equals the largest.
    ok = held & (location < grid.num_locations)
    silent = dict.fromkeys(("class_weight", "box_weight", "quality_weight"), grid.points.new_zeros(targets.num_boxes))
    return Samples.at_locations(grid, location, targets.index, ok, **silent)


def match_map(match: Tensor, channel: Tensor, logits: Tensor) -> Tensor:
    """The largest of the matches ``[P]`` at each (location, class), 0 where none is, ``[B * R, C]``.

    Args:
        match: in [0, 1], without gradient.
        channel: ``[P]`` index into the flat logits.
        logits: ``[B, R, C]``, for the shape.
    """
    nothing = torch.zeros(logits.numel(), device=match.device)
    return nothing.scatter_reduce_(0, channel, match, reduce="amax").view(-1, logits.shape[-1])


def own_and_negative(
    logits: Tensor, objectness: Tensor | None, match: Tensor, weight: Tensor, channel: Tensor, gamma: float
) -> tuple[Tensor, Tensor]:
    """The logits of the pairs' own classes, and the focal loss of every class at every location as a negative.

    The loss is the ``sum of weight * u^gamma * -log(1 - u)`` with
    ``u = sigmoid(logits) * sigmoid(objectness) * (1 - match)``. Both at once, as a gather on its own would have a
    gradient of the logits' size for a few entries.

    Args:
        logits: ``[N, C]`` of the classes.
        objectness: ``[N]`` logit of there being an object, or None for certainty.
        match: ``[N, C]`` in [0, 1], how surely the location is taken by a box of the class; without gradient. It is
            used up: where a gradient is wanted, that is written into its memory.
        weight: ``[N]`` >= 0, without gradient.
        channel: ``[P]`` index into the flat logits.

    Returns:
        ``[P]`` logits and a 0-dim sum, differentiable once by logits and objectness: backward hands out the gradient's
        memory, so that a second one through the same graph (``retain_graph``) is refused.
    """
    wanted = torch.is_grad_enabled()  # within the function below it never is
    found: tuple[Tensor, Tensor] = _OwnAndNegative.apply(  # type: ignore[no-untyped-call]
        logits, objectness, match, weight, channel, gamma, wanted
    )
    return found


class _OwnAndNegative(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, logits: Tensor, objectness: Tensor | None, match: Tensor, weight: Tensor, channel: Tensor,
        gamma: float, wanted: bool,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        rows = block_rows(logits)
        wanted = wanted and any(ctx.needs_input_grad[:2])
        by_objectness = torch.empty_like(objectness) if wanted and objectness is not None else None
        total = logits.new_zeros((), dtype=torch.float64)  # over blocks; within one, float32 sums pairwise
        for start in range(0, logits.shape[0], rows):
            block = slice(start, start + rows)
            z, taken, share = logits[block], match[block], weight[block, None]
            silent = z.neg().sigmoid()
            score, lacking, absent = z.sigmoid(), silent, None
            if objectness is not None:
                absent = objectness[block, None].neg().sigmoid()
                lacking = torch.addcmul(silent, score, absent)
                score = score * objectness[block, None].sigmoid()
            u = torch.addcmul(score, score, taken, value=-1)
            # 1 - u as a sum of what is lacking: a difference would lose what a confident score still lacks.
            rest = torch.addcmul(lacking, score, taken).clamp_(min=TINY)
            power = u.pow(gamma)
            value = rest.log().neg_().mul_(power).mul_(share)
            total += value.sum()
            if not wanted:
                continue
            # d/dz = (1 - sigmoid(z)) * slope and d/dq = (1 - sigmoid(q)) * slope, with slope = u * df/du.
            slope = value.mul_(gamma).add_(power.mul_(u).div_(rest).mul_(share))
            if by_objectness is not None and absent is not None:
                by_objectness[block] = slope.sum(dim=1) * absent.squeeze(1)
            torch.mul(slope, silent, out=taken)
        ctx.save_for_backward(match if wanted else None, by_objectness, channel)
        return logits.flatten().index_select(0, channel), total.to(logits.dtype)

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, of_own: Tensor, of_total: Tensor) -> tuple[Tensor | None, ...]:
        by_logit, by_objectness, channel = ctx.saved_tensors
        logits = objectness = None
        if ctx.needs_input_grad[0]:
            logits = by_logit.mul_(of_total)  # in place: the largest map of the term is held once
            logits.view(-1).index_add_(0, channel, of_own)
        if ctx.needs_input_grad[1]:
            objectness = by_objectness * of_total
        return logits, objectness, None, None, None, None, None
