"""What `assigners.adapters.plain` takes, checked and turned into the contract's types; a fault is one ValueError."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

from assigners.contract import Needs, Predictions, Targets
from assigners.grid import Grid, cached_grid
from assigners.ops.boxes import ltrb, within_image

TOLERANCE = 1e-3  # px; by how much a point may miss its place on the grid

Truths = Sequence[Tensor]


def grid_of(points: Sequence[Tensor], strides: Sequence[int]) -> Grid:
    """The grid whose locations the points ``[n_l, 2]`` are.

    Raises:
        ValueError: if there is none; the message names the level.
    """
    if not points or len(points) != len(strides):
        raise ValueError(f"points and strides need one entry per level, got {len(points)} and {len(strides)}")
    shapes, offset = [], 0.0
    for level, (given, stride) in enumerate(zip(points, strides, strict=True)):
        if given.ndim != 2 or given.shape[1] != 2 or not len(given):
            raise ValueError(f"points of level {level} must be [n, 2] x, y with n > 0, got {list(given.shape)}")
        if stride < 1 or stride != int(stride):
            raise ValueError(f"the stride of level {level} must be a whole number of pixels above 0, got {stride}")
        y = given[:, 1]
        width = int((y == y[0]).long().cumprod(0).sum().clamp(min=1))  # points before the first row ends
        shapes.append((-(-len(given) // width), width))
        if level == 0:
            offset = round(float(given[0, 0]) / stride, 6)
    if not 0 <= offset <= 1:
        raise ValueError(f"the first point of level 0 must lie in its first cell, got {points[0][0].tolist()}")
    grid = cached_grid(tuple(shapes), tuple(int(stride) for stride in strides), offset, points[0].device)
    for level, given in enumerate(points):
        expected = grid.points[grid.level == level]
        off = ((given - expected[: len(given)]).abs() <= TOLERANCE).all(dim=1).logical_not().nonzero()
        if len(off) or len(given) != len(expected):
            where = f"point {int(off[0])} is {given[off[0, 0]].tolist()}" if len(off) else "the last row is not full"
            raise ValueError(
                f"points of level {level} are no regular grid: row by row they must lie at ((column + {offset:g}) * "
                f"{grid.strides[level]}, (row + {offset:g}) * {grid.strides[level]}), but {where}"
            )
    return grid


@dataclass(frozen=True)
class Truth:
    """The ground truth of a batch, and which of the given boxes it is.

    Attributes:
        targets: on the device of the grid.
        position: ``[G]`` int64 of each box in the list that was given for its image.
        num_classes: one more than the largest label.
    """

    targets: Targets
    position: Tensor
    num_classes: int


def read_truth(
    grid: Grid,
    boxes: Truths,
    labels: Truths,
    logits: Tensor | None,
    *,
    ignore: Truths | None,
    sizes: Sequence[tuple[int, int]] | None,
    image_ids: Sequence[int] | None,
) -> Truth:
    """Check and collate boxes and labels; see `assigners.adapters.plain.assign` for the shapes.

    Raises:
        ValueError: naming what is wrong with which image.
    """
    if not boxes:
        raise ValueError("boxes is empty: one tensor for each image of the batch, [0, 4] where there is no box")
    for key, value in {"labels": labels, "ignore": ignore, "sizes": sizes, "image_ids": image_ids}.items():
        if value is not None and len(value) != len(boxes):
            raise ValueError(f"{key} has {len(value)} entries for {len(boxes)} images")
    classes = logits.shape[-1] if logits is not None else None
    for index, (box, label) in enumerate(zip(boxes, labels, strict=True)):
        _check_boxes(box, f"boxes of image {index}")
        _check_labels(label, len(box), classes, f"labels of image {index}")
    for index, region in enumerate(ignore or ()):
        _check_boxes(region, f"ignore regions of image {index}")
    extents = [(height * s, width * s) for (height, width), s in zip(grid.shapes, grid.strides, strict=True)]
    whole = max(height for height, _ in extents), max(width for _, width in extents)
    limits = list(sizes) if sizes is not None else [whole] * len(boxes)
    # `Targets.collate` drops boxes by this rule; who asks needs to know which.
    kept = [within_image(box.detach().cpu().float(), *size)[1] for box, size in zip(boxes, limits, strict=True)]
    targets = Targets.collate(boxes, labels, grid, sizes=limits, image_ids=image_ids, ignore=ignore)
    return Truth(
        targets=targets.to(grid.points.device),
        position=torch.cat([k.nonzero().flatten() for k in kept]).to(grid.points.device),
        num_classes=1 + max((int(label.max()) for label in labels if len(label)), default=0),
    )


def _check_boxes(boxes: Tensor, what: str) -> None:
    if boxes.ndim != 2 or boxes.shape[1] != 4:
        raise ValueError(f"{what} must be [n, 4] xyxy, [0, 4] where there is none, got {list(boxes.shape)}")
    if not bool(torch.isfinite(boxes).all()):
        raise ValueError(f"{what} hold NaN or infinity; every coordinate must be finite")


def _check_labels(labels: Tensor, count: int, classes: int | None, what: str) -> None:
    if labels.shape != (count,) or labels.is_floating_point() or labels.dtype == torch.bool:
        raise ValueError(f"{what} must be [{count}] whole numbers, got {list(labels.shape)} {labels.dtype}")
    if count and (int(labels.min()) < 0 or (classes is not None and int(labels.max()) >= classes)):
        last = "C-1" if classes is None else classes - 1
        raise ValueError(
            f"{what} must be class ids 0..{last} (background is absence), got {int(labels.min())}..{int(labels.max())}"
        )


class _Given(Predictions):
    """The predictions that the caller has. Reading another one is an error that names it: every rule reads its own."""

    def __init__(self, name: str, given: Mapping[str, Any]) -> None:
        for key, value in {**given, "_name": name}.items():
            object.__setattr__(self, key, value)

    def __getattr__(self, key: str) -> Any:
        if key in {f.name for f in fields(Predictions)}:
            argument = "predicted_boxes" if key in ("boxes", "distances") else key
            raise ValueError(f"{self._name} reads {argument}: give assign(..., {argument}=...)")
        raise AttributeError(key)


def visible(
    name: str,
    needs: Needs,
    grid: Grid,
    images: int,
    given: Mapping[str, Tensor | None],
    features: Sequence[Tensor],
) -> Predictions | None:
    """What an assigner asked to see, in float32, without gradient unless it asked for that.

    Args:
        name: of the assigner, for messages.
        images: B.
        given: logits ``[B, R, C]``, boxes ``[B, R, 4]``, quality ``[B, R]``, or None.
        features: one map per level.

    Raises:
        ValueError: for a wrong shape, or missing features.
    """
    if not (needs.predictions or needs.features):
        return None
    if needs.features and len(features) != grid.num_levels:
        raise ValueError(
            f"{name} reads features: give assign(..., features=...) with {grid.num_levels} maps, got {len(features)}"
        )
    seen: dict[str, Any] = {"features": tuple(features) if needs.features else ()}
    for key, value in given.items():
        if value is not None:
            _check_dense(key, value, images, grid.num_locations)
            seen[key] = value.float() if needs.grads else value.detach().float()
    if "boxes" in seen:  # a point outside its own predicted box has negative distances; that is what the head says
        seen["distances"] = ltrb(grid.points, seen["boxes"])
    return _Given(name, seen)


def _check_dense(key: str, value: Tensor, images: int, locations: int) -> None:
    trailing: tuple[int, ...] = {"logits": tuple(value.shape[2:3]) or (0,), "boxes": (4,)}.get(key, ())
    if tuple(value.shape) != (images, locations, *trailing):
        name, last = {"logits": ("logits", ", C"), "boxes": ("predicted_boxes", ", 4")}.get(key, (key, ""))
        raise ValueError(f"{name} must be [B, R{last}] with B {images} and R {locations}, got {list(value.shape)}")
