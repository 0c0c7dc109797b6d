"""What can be measured of assignments on frozen predictions: pure functions, on the host, in float64.

Only positives are looked at; each counts as one, whatever its weight or label, unless a measure says otherwise.

Shape letters: G boxes of the batch, R locations of an image, S positives of an assignment, L levels, A assignments to
compare, E entries of a footprint, U (box, location) places that any of them reads.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from assigners.contract import Samples, Targets
from assigners.grid import Grid
from assigners.ops.boxes import aligned_iou, decode
from assigners.parts.map_reader import MapReader, corners
from assigners.rules.iqdet.box_points import offset_in_half_sides
from harness.evaluation.coco_metrics import in_bins

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]
Strata = dict[str, dict[str, Bools]]  # attribute -> bin -> [G]

# Edges of the bins, lower ones inclusive.
AREAS = {"small": (0.0, 32.0**2), "medium": (32.0**2, 96.0**2), "large": (96.0**2, math.inf)}  # px² of the original
SIDES = (0.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, math.inf)  # px of the network's input, root of the area
ASPECTS = (1.0, 1.5, 2.0, 3.0, math.inf)  # longer side over shorter side


@dataclass(frozen=True)
class Positives:
    """The positives of an assignment.

    Attributes:
        box: ``[S]`` 0..G-1; level: ``[S]``.
        offset: ``[S, 2]`` from the centre of the own box in its half sides: within [-1, 1] inside the box.
        label, class_weight: ``[S]``.
        iou: ``[S]`` of the prediction there with the own box.
    """

    box: Ints
    level: Ints
    offset: Floats
    label: Floats
    class_weight: Floats
    iou: Floats


def positives_of(grid: Grid, targets: Targets, samples: Samples, distances: Tensor) -> Positives:
    """Take the positives out of the samples.

    Args:
        grid, targets, samples: of one assignment.
        distances: ``[B, R, 4]`` that the detector predicts; a sample reads them as the loss does.
    """
    rows = samples.select(samples.positive)
    xy, own = grid.pixels(rows.level, rows.uv), targets.boxes[rows.gt]
    with torch.no_grad():
        reader = MapReader.build(grid, targets.image[rows.gt], rows.level, rows.uv, rows.location)
        iou = aligned_iou(decode(xy, reader.read(distances)), own)
    return Positives(
        box=rows.gt.cpu().numpy(),
        level=rows.level.cpu().numpy(),
        offset=_host(offset_in_half_sides(xy, own)),
        label=_host(rows.label),
        class_weight=_host(rows.class_weight),
        iou=_host(iou),
    )


@dataclass(frozen=True)
class Footprint:
    """The cells that the positives of each box read: every positive is spread by its bilinear weights.

    Attributes:
        place: ``[E]`` box * R + location, rising.
        box: ``[E]``.
        cell: ``[E]`` image * R + location.
        mass: ``[E]`` > 0; over the entries of a box it sums to the number of its positives.
    """

    place: Ints
    box: Ints
    cell: Ints
    mass: Floats


def footprint(grid: Grid, targets: Targets, samples: Samples) -> Footprint:
    """Where the positives of an assignment lie; two of one box on the same place count twice there."""
    rows, size = samples.select(samples.positive), grid.num_locations
    location, weight = corners(grid, rows.level, rows.uv)
    reads = weight > 0
    place, entry = torch.unique((rows.gt[:, None] * size + location)[reads], return_inverse=True)
    mass = _summed(entry.cpu().numpy(), _host(weight[reads]), len(place))
    box = place // size
    cell = grid.cell(targets.image[box], place % size)
    return Footprint(place.cpu().numpy(), box.cpu().numpy(), cell.cpu().numpy(), mass)


@dataclass(frozen=True)
class Overlap:
    """How much assignments have in common, box by box.

    Attributes:
        shared: ``[A, A, G]`` sum over the locations of the smaller of two values.
        own: ``[A, G]`` sum of an assignment's values.
    """

    shared: Floats
    own: Floats

    def jaccard(self, rows: Bools) -> Floats:
        """Sum of the smaller over sum of the larger values, ``[A, A]``, pooled over boxes `rows` ``[G]``; NaN for 0/0.

        For values 0 and 1 this is the Jaccard index of sets; for others Ruzicka's.
        """
        common, own = self.shared[..., rows].sum(axis=-1), self.own[:, rows].sum(axis=-1)
        union = own[:, None] + own[None, :] - common
        index: Floats = np.divide(common, union, out=np.full_like(common, np.nan), where=union > 0)
        return index


def overlaps(footprints: Sequence[Footprint], num_boxes: int) -> tuple[Overlap, Overlap]:
    """Overlap of the masses, scaled to 1 per box, and of the plain sets of cells.

    Of two assignments with as many positives of a box, all on cells of their own, both say the same of that box.
    """
    every = np.concatenate([f.place for f in footprints])
    places, first = np.unique(every, return_index=True)
    box = np.concatenate([f.box for f in footprints])[first]
    mass = np.zeros((len(footprints), len(places)))
    for row, each in zip(mass, footprints, strict=True):
        total = _summed(each.box, each.mass, num_boxes)
        row[np.searchsorted(places, each.place)] = each.mass / total[each.box]
    return _overlap(mass, box, num_boxes), _overlap((mass > 0).astype(np.float64), box, num_boxes)


def _overlap(values: Floats, box: Ints, num_boxes: int) -> Overlap:
    """Of values ``[A, U]`` at places that belong to boxes ``[U]``."""
    shared = [[_summed(box, np.minimum(a, b), num_boxes) for b in values] for a in values]
    return Overlap(np.array(shared), np.array([_summed(box, row, num_boxes) for row in values]))


def strata(
    boxes: Floats, area: Floats, attributes: Mapping[str, Floats], edges: Mapping[str, Sequence[float]]
) -> Strata:
    """The bins of all boxes: attribute -> bin -> ``[G]`` bool.

    Args:
        boxes: ``[G, 4]`` in pixels of the network's input.
        area: ``[G]`` in square pixels of the original image, for COCO's small, medium and large.
        attributes: further values ``[G]`` by name; those without `edges` are left out.
        edges: of the further attributes.
    """
    sides = (boxes[:, 2:] - boxes[:, :2]).clip(min=1e-9)
    return {
        "size": {name: (area >= low) & (area < high) for name, (low, high) in AREAS.items()},
        "side": in_bins(np.sqrt(sides.prod(axis=1)), SIDES),
        "aspect": in_bins(sides.max(axis=1) / sides.min(axis=1), ASPECTS),
        **{name: in_bins(attributes[name], edges[name]) for name in edges if name in attributes},
    }


def per_box(positives: Positives, rows: Bools) -> dict[str, Any]:
    """Of the boxes `rows` ``[G]``: how many there are, their mean number of positives, the share that has none."""
    count = np.bincount(positives.box, minlength=len(rows))[rows]
    return {"boxes": len(count), "positives": mean(count), "without": mean(count == 0)}


def ambiguous(reads: Footprint) -> dict[str, Any]:
    """How many cells positives read, and which share of them is read for two boxes or more."""
    _, boxes = np.unique(reads.cell, return_counts=True)  # a (box, cell) pair occurs once
    return {"cells": len(boxes), "share": mean(boxes > 1)}


def outside(positives: Positives) -> dict[str, float | None]:
    """Shares of the positives outside their box, and outside its centre half: half of each side, about the centre."""
    reach = np.abs(positives.offset).max(axis=1, initial=0.0)
    return {"box": mean(reach > 1), "centre": mean(reach > 0.5)}


def level_shares(positives: Positives, num_levels: int) -> list[float] | None:
    """Which share of the positives' class weight each level has; ``None`` where there is no positive.

    Where no positive has a class weight, as with an assigner that replaces the class loss, each counts as one.
    """
    weighs = positives.class_weight if positives.class_weight.any() else np.ones(len(positives.level))
    weight = _summed(positives.level, weighs, num_levels)
    return [float(share) for share in weight / weight.sum()] if weight.sum() > 0 else None


def quality(positives: Positives) -> dict[str, float | None]:
    """Mean IoU of the predictions at the positives, mean label, and Spearman's rank correlation of the two.

    The correlation is ``None`` where all labels, or all IoUs, are the same.
    """
    label, iou = positives.label, positives.iou
    return {"iou": mean(iou), "label": mean(label), "rank_correlation": rank_correlation(label, iou)}


def rank_correlation(a: Floats, b: Floats) -> float | None:
    """Spearman's, equal values sharing their mean rank; ``None`` where all of one side are equal."""
    if len(np.unique(a)) < 2 or len(np.unique(b)) < 2:
        return None
    from scipy.stats import spearmanr

    return float(spearmanr(a, b).statistic)


def mean(values: npt.NDArray[Any]) -> float | None:
    """The mean, ``None`` of nothing and where it is no finite number."""
    value = float(values.mean()) if len(values) else math.nan
    return value if math.isfinite(value) else None


def _summed(group: Ints, values: Floats, groups: int) -> Floats:
    """Sums ``[groups]`` of the values of each group."""
    return np.bincount(group, weights=values, minlength=groups).astype(np.float64)


def _host(values: Tensor) -> Floats:
    return values.detach().cpu().numpy().astype(np.float64)
