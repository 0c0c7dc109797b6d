"""Entropic optimal transport from boxes to locations (Cuturi, "Sinkhorn Distances: Lightspeed Computation of Optimal
Transport", NeurIPS 2013), on candidate pairs.

The boxes of an image and its background supply labels, each location demands one. The textbook iterates two vectors of
potentials over a table of boxes + 1 rows and R columns, the columns first, in the log domain because costs span
hundreds of nats. The iteration here takes the same steps. Three identities, none an approximation, make it small:

* the columns come first, so what all suppliers of a location pay alike cancels in every single step: costs count
  against the background's;
* the background's potential cancels too where those of the boxes count against it: one number per box is left;
* a location beyond every box's candidates has its whole label from the background: its column is a constant.

Scaled by each box's best candidate, what remains fits the range of float64, so that the loop needs no logarithm.

`unbalanced` relaxes what suppliers give and locations take to penalties (Chizat et al., "Scaling Algorithms for
Unbalanced Optimal Transport Problems", Mathematics of Computation 2018). Potentials then do not cancel, but still there
are two numbers per image, two per box and one per location.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import log

import torch
from torch import Tensor

from assigners.ops.segments import group_sum

LARGEST, SMALLEST = 1e200, 1e-300  # thousands of boxes at the former still have a finite sum


@dataclass(frozen=True)
class Plan:
    """How many labels go where.

    Attributes:
        boxes: ``[G, n]`` float64, from a box to its candidates, 0 for entries that are none.
        background: ``[B, R]`` float64, from the background of each image.
    """

    boxes: Tensor
    background: Tensor


def transport(
    advantage: Tensor,
    cell: Tensor,
    ok: Tensor,
    supply: Tensor,
    image: Tensor,
    shape: tuple[int, int],
    iterations: int,
) -> Plan:
    """Sinkhorn's iteration from equal potentials, each step first for the locations, then for the suppliers.

    So the suppliers' sums are exact after any number of steps, those of the locations, 1 each, only in the limit.

    Args:
        advantage: ``[G, n]`` by how much a candidate costs a box less than it costs the background, in units of the
            regularisation; finite where `ok`.
        cell: ``[G, n]`` int64 cell of the batch, image * R + location, each at most once per box.
        ok: ``[G, n]`` the candidate exists. A box without any supplies nothing.
        supply: ``[G]`` labels of each box; the background has the others of its image, 1 at least.
        image: ``[G]`` int64.
        shape: (B, R).
        iterations: 1 or more.
    """
    advantage = torch.where(ok, advantage.double(), -torch.inf)
    best = advantage.amax(dim=1, keepdim=True)
    kernel = torch.where(ok, (advantage - best).exp(), 0)  # [G, n] in [0, 1]
    supply = torch.where(ok.any(dim=1), supply.double(), 0)
    background = (shape[1] - group_sum(supply, image, shape[0])).clamp(min=1)  # [B]
    scale = best.squeeze(1).exp().clamp(max=LARGEST)  # [G] of a box's row, against the background's
    flat, left = cell.flatten(), kernel.new_empty(shape[0] * shape[1])
    for _ in range(iterations):
        left.fill_(1).index_add_(0, flat, (scale[:, None] * kernel).flatten())
        left.reciprocal_()  # [B * R] of a location's label, from the background
        flow = left.index_select(0, flat).view_as(kernel).mul_(kernel)
        rest = left.view(shape).sum(dim=1)
        share = supply / flow.sum(dim=1).clamp(min=SMALLEST)
        scale = (share * (rest / background)[image]).clamp(max=LARGEST)
    return Plan(flow * share[:, None], left.view(shape) * (background / rest)[:, None])


def unbalanced(
    advantage: Tensor,
    cell: Tensor,
    ok: Tensor,
    image: Tensor,
    shape: tuple[int, int],
    iterations: int,
    *,
    background_cost: float,
    location_penalty: float,
    supplier_penalty: float,
) -> Plan:
    """Generalised Sinkhorn: every box is to supply one label, the background the others of its image, one at least, and
    every location is to take one; what differs is penalised by its Kullback-Leibler divergence.

    The plan P minimises, with costs C and all penalties in units of the regularisation,

        KL(P | R exp(-C))  +  location_penalty * KL(its sums over suppliers | 1)
                           +  supplier_penalty * KL(its sums over locations | supply)

    where KL(p | q) = sum p ln(p / q) - p + q. Scalings are Sinkhorn's to the power of penalty / (penalty + 1), those of
    locations from 1, and each step is first for the suppliers. Theirs is the last one, too.

    Args:
        advantage: ``[G, n]`` by how much a candidate costs a box less than `background_cost`, finite where `ok`.
        cell: ``[G, n]`` int64 cell of the batch, image * R + location, each at most once per box.
        ok: ``[G, n]`` the candidate exists. A box without any supplies nothing.
        image: ``[G]`` int64.
        shape: (B, R).
        iterations: 1 or more.
        background_cost: of a label from the background, anywhere.
        location_penalty, supplier_penalty: 0 or more.
    """
    of_locations, of_suppliers = (penalty / (penalty + 1) for penalty in (location_penalty, supplier_penalty))
    images, locations = shape
    advantage = torch.where(ok, advantage.double(), -torch.inf)
    exists = ok.any(dim=1)
    best = torch.where(exists, advantage.amax(dim=1), 0)  # [G]
    kernel = torch.where(ok, (advantage - best[:, None]).exp(), 0)  # [G, n] in [0, 1]
    rest = (locations - group_sum(exists.double(), image, images)).clamp(min=1).log()  # [B] supply of the background
    base = log(locations) - background_cost  # logarithm of the background's kernel, the same everywhere
    flat = cell.flatten()
    weight = kernel.new_ones(images * locations)  # of a location, exp(level) of its image apart
    level = kernel.new_zeros(images)

    def suppliers() -> tuple[Tensor, Tensor, Tensor]:
        """Potentials of the boxes ``[G]`` and the background ``[B]``, and what the kernel lets through ``[G, n]``."""
        flow = weight.index_select(0, flat).view_as(kernel).mul_(kernel)
        reach = best + flow.sum(dim=1).clamp(min=SMALLEST).log()
        boxes = -of_suppliers * (base + level[image] + reach)
        return boxes, of_suppliers * (rest - base - level - weight.view(shape).sum(dim=1).log()), flow

    for _ in range(iterations):
        boxes, background, flow = suppliers()
        scale = (best + boxes - background[image]).exp().clamp(max=LARGEST)
        weight.fill_(1).index_add_(0, flat, (scale[:, None] * kernel).flatten())
        weight.pow_(-of_locations)
        level = -of_locations * (base + background)
    boxes, background, flow = suppliers()
    given = (base + level[image] + best + boxes).exp().clamp(max=LARGEST)
    kept = (base + level + background).exp().clamp(max=LARGEST)
    return Plan(flow * given[:, None], weight.view(shape) * kept[:, None])
