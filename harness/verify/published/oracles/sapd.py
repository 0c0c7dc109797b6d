"""SAPD by brute force: every location is compared with every box, and the network is a few nested loops."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from harness.verify.published.oracles.geometry import Array, Indices, Points, center, ranks, sides, winners
from harness.verify.published.oracles.iqdet import bilinear_read
from harness.verify.published.oracles.paa import score


def covered(points: Points, box: Sequence[float], shrink: float = 0.2) -> list[int]:
    """Locations inside the box whose cell, half a stride to each side, meets the shrunk box.

    Where a level has locations inside the box and none of their cells meets it along an axis (the map ends before the
    box's centre), the nearest column or row stands in.
    """
    found: list[int] = []
    for level in points.levels:
        inside = [r for r in points.inside(box) if points.level[r] == level]
        kept = []
        for axis in (0, 1):
            middle, reach = center(box)[axis], shrink / 2 * (box[axis + 2] - box[axis])
            values = sorted({float(points.xy[r][axis]) for r in inside})
            half = points.stride[inside[0]] / 2 if inside else 0.0
            met = [v for v in values if v + half > middle - reach and v - half < middle + reach]
            kept.append(set(met or [v for _, v in sorted((abs(v - middle), v) for v in values)[:1]]))
        found += [r for r in inside if points.xy[r][0] in kept[0] and points.xy[r][1] in kept[1]]
    return found


def centrality(point: Sequence[float], box: Sequence[float]) -> float:
    """``min(l, r) min(t, b) / (max(l, r) max(t, b))``."""
    left, top, right, bottom = sides(point, box)
    return min(left, right) * min(top, bottom) / (max(left, right) * max(top, bottom))


def level_losses(
    points: Points, box: Sequence[float], label: int, cells: Sequence[int], logits: Array, predicted: Array
) -> list[float]:
    """Mean of focal and box loss over the covered cells of each level, infinite where it has none."""
    losses = []
    for level in points.levels:
        here = [score(logits[r], predicted[r].tolist(), box, label) for r in cells if points.level[r] == level]
        losses.append(sum(here) / len(here) if here else np.inf)
    return losses


def shares(logits: Sequence[float], losses: Sequence[float]) -> Array:
    """Softmax over the levels on which the box has cells; all of them where it has none."""
    usable = np.isfinite(losses) if np.isfinite(losses).any() else np.ones(len(losses), dtype=bool)
    value = np.where(usable, np.exp(np.asarray(logits, dtype=np.float64) - np.max(logits)), 0.0)
    return np.asarray(value / value.sum())


def choose(share: Array, losses: Sequence[float], levels: int, hard: bool) -> Array:
    """Weight of each level: one for the smallest loss, or the `levels` largest shares."""
    kept = [int(np.argmin(losses))] if hard else sorted(range(len(share)), key=lambda i: (-share[i], i))[:levels]
    return np.array([(1.0 if hard else share[i]) if i in kept else 0.0 for i in range(len(share))])


@dataclass(frozen=True)
class Result:
    """One image.

    Attributes:
        owner: ``[R]`` the box that each location belongs to, -1 where none.
        weight: ``[R]`` of the location in the losses, 1 for negatives.
        cells, losses, share: per box.
        entropy: sum over the boxes with cells of the network's cross-entropy; count: how many these are.
    """

    owner: Indices
    weight: Array
    cells: list[list[int]]
    losses: list[list[float]]
    share: list[Array]
    entropy: float
    count: int


def assign(
    points: Points, boxes: Array, labels: Sequence[int], logits: Array, predicted: Array, level_logits: Array, *,
    hard: bool, shrink: float = 0.2, eta: float = 1.0, levels: int = 3,
) -> Result:  # fmt: skip
    """Assign one image.

    Args:
        logits: ``[R, C]``; predicted: ``[R, 4]`` decoded boxes; level_logits: ``[G, L]`` of the network.
        hard: the warm-up.
    """
    cells, losses, share, chosen = [], [], [], []
    entropy, count = 0.0, 0
    for g, box in enumerate(boxes.tolist()):
        cells.append(covered(points, box, shrink))
        losses.append(level_losses(points, box, labels[g], cells[g], logits, predicted))
        share.append(shares(level_logits[g], losses[g]))
        chosen.append(choose(share[g], losses[g], levels, hard))
        if cells[g]:
            entropy, count = entropy - float(np.log(share[g][int(np.argmin(losses[g]))])), count + 1
    rank, weight = ranks(boxes, labels), np.ones(len(points))
    owner = winners([(r, rank[g], g) for g, mine in enumerate(cells) for r in mine], len(points))
    for r in np.flatnonzero(owner >= 0).tolist():
        central = centrality(points.xy[r].tolist(), boxes[owner[r]].tolist())
        weight[r] = central**eta * chosen[owner[r]][points.level[r]]
    return Result(owner, weight, cells, losses, share, entropy, count)


def pool(maps: Sequence[Array], strides: Sequence[float], offset: float, box: Sequence[float], side: int = 7) -> Array:
    """RoIAlign with 2 x 2 reads a bin on each level, the levels stacked: ``[L * D, side, side]``.

    Args:
        maps: per level ``[D, H, W]``.
    """
    width, height = (box[2] - box[0]) / side, (box[3] - box[1]) / side
    stacked = []
    for values, stride in zip(maps, strides, strict=True):
        plane = np.moveaxis(values, 0, -1)
        pooled = np.zeros((side, side, plane.shape[-1]))
        for row in range(side):
            for column in range(side):
                for dy in (0.25, 0.75):
                    for dx in (0.25, 0.75):
                        x, y = box[0] + (column + dx) * width, box[1] + (row + dy) * height
                        pooled[row, column] += bilinear_read(plane, x / stride - offset, y / stride - offset) / 4
        stacked.append(np.moveaxis(pooled, -1, 0))
    return np.concatenate(stacked)


def network(state: Mapping[str, Array], pooled: Array) -> Array:
    """Logits ``[L]`` from the pooled features of one box: three convolutions with ReLU, one linear layer."""
    value = pooled
    for layer in (0, 2, 4):
        kernel, bias = state[f"layers.{layer}.weight"], state[f"layers.{layer}.bias"]
        side = value.shape[1] - 2
        result = np.zeros((len(kernel), side, side))
        for row in range(side):
            for column in range(side):
                patch = value[:, row : row + 3, column : column + 3]
                result[:, row, column] = [(patch * filters).sum() for filters in kernel] + bias
        value = np.maximum(result, 0)
    return np.asarray(state["choice.weight"] @ value.reshape(-1) + state["choice.bias"])
