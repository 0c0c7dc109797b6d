"""The contract between a dense detector and a label assigner.

The detector yields dense maps (`Predictions`); an assigner answers what to supervise and how strongly
(`Assignment`); one shared loss turns the answer into numbers. Nothing here knows a particular assigner.

Shape letters, used as comments and name suffixes throughout:

    B images of the batch        R locations of all levels, level-major, then row-major
    L pyramid levels             G ground-truth boxes of the *whole batch*, ragged: no padding
    C classes                    S samples an assigner returns
    P entries of a window or of the flat (box, location) pair list

Ground truth is ragged on purpose. A padded ``[B, G]`` layout costs memory for the fullest image in every image
and invites the classic fault of padded rows scattering onto location 0; here there are no such rows.

Boxes are xyxy, absolute pixels of the network input, float32, without any +1. A location ``(column i, row j)`` of
a level with stride ``s`` lies at pixel ``((i + offset) * s, (j + offset) * s)``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from functools import lru_cache
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from assigners.ops.segments import at


@dataclass(frozen=True)
class Grid:
    """Where the locations of one input size are. Build it with `Grid.build`, once per size and device.

    Attributes:
        shapes: ``(height, width)`` in cells per level.
        strides: pixels per cell, per level.
        starts: flat index of each level's first location.
        offset: position of a location within its cell, 0.5 = centre. The grid alone owns it.
        points: ``[R, 2]`` x, y in pixels.
        level: ``[R]`` int64.
        stride: ``[R]`` float32 pixels.
        level_start, level_height, level_width: ``[L]`` int64; level_stride: ``[L]`` float32.
    """

    shapes: tuple[tuple[int, int], ...]
    strides: tuple[int, ...]
    starts: tuple[int, ...]
    offset: float
    points: Tensor
    level: Tensor
    stride: Tensor
    level_start: Tensor
    level_height: Tensor
    level_width: Tensor
    level_stride: Tensor

    @staticmethod
    def build(
        shapes: Sequence[tuple[int, int]],
        strides: Sequence[int],
        *,
        offset: float = 0.5,
        device: torch.device | str = "cpu",
    ) -> Grid:
        """Make the grid of a pyramid.

        Raises:
            ValueError: if `shapes` and `strides` differ in length or are empty.
        """
        if not shapes or len(shapes) != len(strides):
            raise ValueError(f"a grid needs one stride per level, got {len(shapes)} levels and {len(strides)} strides")
        points, level, stride, starts, total = [], [], [], [], 0
        for index, ((height, width), step) in enumerate(zip(shapes, strides, strict=True)):
            y, x = torch.meshgrid(
                (torch.arange(height, device=device) + offset) * step,
                (torch.arange(width, device=device) + offset) * step,
                indexing="ij",
            )
            points.append(torch.stack((x.reshape(-1), y.reshape(-1)), dim=1))
            level.append(torch.full((height * width,), index, device=device))
            stride.append(torch.full((height * width,), float(step), device=device))
            starts.append(total)
            total += height * width
        return Grid(
            shapes=tuple((int(h), int(w)) for h, w in shapes),
            strides=tuple(int(s) for s in strides),
            starts=tuple(starts),
            offset=offset,
            points=torch.cat(points),
            level=torch.cat(level),
            stride=torch.cat(stride),
            level_start=torch.tensor(starts, device=device),
            level_height=torch.tensor([h for h, _ in shapes], device=device),
            level_width=torch.tensor([w for _, w in shapes], device=device),
            level_stride=torch.tensor([float(s) for s in strides], device=device),
        )

    @property
    def num_locations(self) -> int:
        """R."""
        return self.points.shape[0]

    @property
    def num_levels(self) -> int:
        """L."""
        return len(self.strides)

    def map_coordinates(self, location: Tensor) -> tuple[Tensor, Tensor]:
        """Level ``[...]`` and float map coordinates (column, row) ``[..., 2]`` of flat locations ``[...]``."""
        level = at(self.level, location)
        cell = location - at(self.level_start, level)
        width = at(self.level_width, level)
        return level, torch.stack((cell % width, cell // width), dim=-1).to(self.points.dtype)

    def pixels(self, level: Tensor, uv: Tensor) -> Tensor:
        """Pixel position ``[..., 2]`` of map coordinates ``[..., 2]`` on levels ``[...]``."""
        return (uv + self.offset) * self.level_stride[level].unsqueeze(-1)


@lru_cache(maxsize=64)
def cached_grid(
    shapes: tuple[tuple[int, int], ...], strides: tuple[int, ...], offset: float, device: torch.device
) -> Grid:
    """`Grid.build`, remembered: a training run meets few input sizes."""
    return Grid.build(shapes, strides, offset=offset, device=device)


@dataclass(frozen=True)
class Targets:
    """The ground truth of a batch, ragged. Build it with `Targets.collate`, on the CPU; move it with `to`.

    Attributes:
        boxes: ``[G, 4]`` float32, clipped to their image, each side >= 1 px; sorted by image.
        labels: ``[G]`` int64 class ids ``0..C-1``.
        image: ``[G]`` int64 position in the batch.
        slot: ``[G]`` int64 position within the image; with `image_id` it names the box for `noise`.
        image_id: ``[B]`` int64 identity of the image in its data set.
        ignore: ``[I, 4]`` float32 regions without negatives (crowds); ignore_image: ``[I]`` int64.
        counts: boxes per image, known on the host.
        num_pairs: number of (box, strictly inside location) pairs over all levels, known on the host, so that
            rules over whole boxes get a flat list of known length (`assigners.pairs`) without a synchronisation.
    """

    boxes: Tensor
    labels: Tensor
    image: Tensor
    slot: Tensor
    image_id: Tensor
    ignore: Tensor
    ignore_image: Tensor
    counts: tuple[int, ...]
    num_pairs: int

    @staticmethod
    def collate(
        boxes: Sequence[Tensor],
        labels: Sequence[Tensor],
        grid: Grid,
        *,
        sizes: Sequence[tuple[int, int]],
        image_ids: Sequence[int] | None = None,
        ignore: Sequence[Tensor] | None = None,
    ) -> Targets:
        """Clip, drop what is left without a pixel, and concatenate the boxes of a batch.

        Args:
            boxes: per image ``[n, 4]`` xyxy input pixels, on the CPU.
            labels: per image ``[n]``.
            grid: the grid of the padded batch; only its host-side numbers are read.
            sizes: per image ``(height, width)`` in pixels before padding.
            image_ids: per image; the position in the batch where absent.
            ignore: per image ``[m, 4]`` regions without negatives.

        Raises:
            ValueError: if a box tensor is not ``[n, 4]``, holds NaN or infinity, or does not match its labels.
        """
        kept_boxes, kept_labels, counts = [], [], []
        for index, (box, label, (height, width)) in enumerate(zip(boxes, labels, sizes, strict=True)):
            box = (
                box.detach().to("cpu", torch.float32).reshape(-1, 4) if box.numel() == 0 else box.detach().cpu().float()
            )
            if box.ndim != 2 or box.shape[1] != 4 or len(label) != len(box):
                got = f"{tuple(box.shape)} and {tuple(label.shape)}"
                raise ValueError(f"image {index}: boxes must be [n, 4] with n labels, got {got}")
            if not bool(torch.isfinite(box).all()):
                raise ValueError(f"image {index}: boxes hold NaN or infinity; every coordinate must be finite")
            box = clip(box, height, width)
            keep = ((box[:, 2:] - box[:, :2]) >= MIN_SIDE).all(dim=1)
            kept_boxes.append(box[keep])
            kept_labels.append(label.detach().cpu()[keep].long())
            counts.append(int(keep.sum()))
        regions = [r.detach().cpu().float().reshape(-1, 4) for r in ignore] if ignore is not None else []
        flat = torch.cat(kept_boxes) if kept_boxes else torch.zeros(0, 4)
        ids = list(image_ids) if image_ids is not None else list(range(len(counts)))
        return Targets(
            boxes=flat,
            labels=torch.cat(kept_labels) if kept_labels else torch.zeros(0, dtype=torch.long),
            image=torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts, dtype=torch.long)),
            slot=torch.cat([torch.arange(n) for n in counts]) if counts else torch.zeros(0, dtype=torch.long),
            image_id=torch.tensor(ids, dtype=torch.long),
            ignore=torch.cat(regions) if regions else torch.zeros(0, 4),
            ignore_image=torch.cat([torch.full((len(r),), i) for i, r in enumerate(regions)]).long()
            if regions
            else torch.zeros(0, dtype=torch.long),
            counts=tuple(counts),
            num_pairs=_count_pairs(flat, grid),
        )

    @property
    def num_boxes(self) -> int:
        """G."""
        return self.boxes.shape[0]

    @property
    def num_images(self) -> int:
        """B."""
        return len(self.counts)

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Targets:
        """The same targets with every tensor on `device`."""
        moved: dict[str, Any] = {
            f.name: value.to(device, non_blocking=non_blocking)
            for f in fields(self)
            if isinstance(value := getattr(self, f.name), Tensor)
        }
        return replace(self, **moved)


MIN_SIDE = 1.0  # px; a box clipped to less than this is no target (spec 0.1)


def clip(boxes: Tensor, height: float, width: float) -> Tensor:
    """Boxes ``[n, 4]`` cut to an image of `height` x `width` pixels."""
    limit = boxes.new_tensor([width, height, width, height])
    return torch.minimum(boxes.clamp(min=0), limit)


def _count_pairs(boxes: Tensor, grid: Grid) -> int:
    first, last = inside_range(boxes, grid.strides, grid.shapes, grid.offset)
    return int((last - first).clamp(min=0).prod(dim=-1).sum())


def inside_range(
    boxes: Tensor, strides: Sequence[int], shapes: Sequence[tuple[int, int]], offset: float
) -> tuple[Tensor, Tensor]:
    """The rectangle of cells whose points lie strictly inside each box, per level.

    Returns:
        first, last: ``[G, L, 2]`` int64 (column, row), half-open; empty where ``last <= first``.
    """
    step = torch.tensor(strides, dtype=boxes.dtype, device=boxes.device)[:, None]
    limit = torch.tensor([(w, h) for h, w in shapes], device=boxes.device)
    low = boxes[:, None, :2] / step - offset
    high = boxes[:, None, 2:] / step - offset
    first = (low.floor().long() + 1).clamp(min=0)  # the smallest integer strictly above `low`
    last = torch.minimum(high.ceil().long(), limit)  # one past the largest integer strictly below `high`
    return first, torch.maximum(last, first)


@dataclass(frozen=True)
class Predictions:
    """What the detector says at every location. Detached, unless the assigner's `needs.grads` asks otherwise.

    Attributes:
        logits: ``[B, R, C]`` class logits.
        quality: ``[B, R]`` logit of the auxiliary branch.
        distances: ``[B, R, 4]`` left, top, right, bottom in pixels, >= 0.
        boxes: ``[B, R, 4]`` decoded xyxy.
        features: FPN maps ``[B, D, H_l, W_l]`` with gradient, for assigners that declare `needs.features`.
    """

    logits: Tensor
    quality: Tensor
    distances: Tensor
    boxes: Tensor
    features: tuple[Tensor, ...] = ()


@dataclass(frozen=True)
class Samples:
    """Weighted point samples at float map coordinates.

    Attributes:
        gt: ``[S]`` int64 index into `Targets.boxes`; the loss gathers box, class and image from there.
        level: ``[S]`` int64.
        uv: ``[S, 2]`` float32 (column, row) in cells of the level, within ``[0, W-1] x [0, H-1]``.
        ok: ``[S]`` bool. The other rows do not exist: finite dummies without weight.
        positive: ``[S]`` bool, a subset of `ok`: rows that count for the normalisers. The remaining rows are
            negatives at float coordinates (IQDet's rejected draws).
        label: ``[S]`` target of the own class, in [0, 1].
        class_weight, box_weight, quality_weight: ``[S]`` >= 0.
        on_grid: every coordinate is an integer: the reader indexes instead of interpolating (the same bits).
        owns: the loss takes the cells that a sample reads out of the negatives of its own class.
        all_classes: the other classes of a sample are supervised as zero at the sample itself. For assigners
            that give the grid around it no negative weight.
    """

    gt: Tensor
    level: Tensor
    uv: Tensor
    ok: Tensor
    positive: Tensor
    label: Tensor
    class_weight: Tensor
    box_weight: Tensor
    quality_weight: Tensor
    on_grid: bool = False
    owns: bool = True
    all_classes: bool = False

    @staticmethod
    def at_locations(grid: Grid, location: Tensor, gt: Tensor, ok: Tensor) -> Samples:
        """Hard positives (label and weights 1) at flat grid locations ``[S]``; rows with ``ok`` false are dummies."""
        level, uv = grid.map_coordinates(torch.where(ok, location, 0))
        weight = ok.to(uv.dtype)
        return Samples(
            gt=gt, level=level, uv=uv, ok=ok, positive=ok, label=weight,
            class_weight=weight, box_weight=weight, quality_weight=weight, on_grid=True,
        )  # fmt: skip


Term = tuple[Tensor, Tensor]
"""A 0-dim sum and the 0-dim count that divides it, both of this process alone."""


@dataclass(frozen=True)
class Assignment:
    """An assigner's whole answer.

    Attributes:
        samples: what to pull up (or, where not positive, down) and how strongly.
        negative_weight: ``[B, R]`` weight of a location as a negative of every class; 0 = ignored. It need not be
            cleared at positives: the loss does that, in the positive's own class channel.
        losses: further loss terms by name, summed over this process and not divided: ``(sum, count)``.
        statistics: detached ``(sum, count)`` pairs for the log.
    """

    samples: Samples
    negative_weight: Tensor
    losses: dict[str, Term] = field(default_factory=dict)
    statistics: dict[str, Term] = field(default_factory=dict)


@dataclass(frozen=True)
class Needs:
    """What an assigner reads, so that the detector can skip the rest."""

    predictions: bool = False
    grads: bool = False  # predictions keep their gradient (FreeAnchor, AutoAssign)
    features: bool = False  # FPN maps with gradient (SAPD, IQDet)


@dataclass(frozen=True)
class Declares:
    """What an assigner changes outside the assignment; a fair board shows it. ``None`` leaves it to the protocol."""

    replaces: frozenset[str] = frozenset()  # of {"class", "box", "quality"}: shared terms to skip
    quality: Literal["iou", "centerness", "objectness"] | None = None
    score: Literal["sqrt_product", "product"] | None = None
    normaliser: Literal["positives", "labels"] | None = None  # what divides the class loss
    nms: bool = True
    score_voting: bool = False  # boxes of detections are averaged over their neighbours


@dataclass(frozen=True)
class HeadInfo:
    """What an assigner may know of the detector when it is built."""

    num_classes: int
    channels: int  # of each FPN map
    strides: tuple[int, ...] = (8, 16, 32, 64, 128)


@dataclass(frozen=True)
class Step:
    """Where training stands: host numbers, so that schedules branch without a synchronisation."""

    seed: int = 0
    index: int = 0
    progress: float = 0.0  # in [0, 1]


class Assigner(nn.Module, ABC):
    """A label assigner. Parameters of its own live here and reach the optimiser.

    A subclass takes `HeadInfo` first and its options as keyword arguments with defaults; the registry fills
    `options` with all of them, and with the run's record they name the row of the leaderboard.
    """

    needs: ClassVar[Needs] = Needs()
    declares: Declares = Declares()  # may depend on options
    options: dict[str, object]

    @abstractmethod
    def forward(self, grid: Grid, targets: Targets, predictions: Predictions | None, step: Step) -> Assignment:
        """Assign one batch, in float32, without a host synchronisation and without a loop over boxes or images."""


def negatives_outside_ignore(grid: Grid, targets: Targets) -> Tensor:
    """Negative weight ``[B, R]``: 1, but 0 where the point lies in one of its image's ignore regions.

    The regions are rectangles of cells, so their union is a two-dimensional running sum of corner marks: work
    grows with regions + locations, never with their product.
    """
    if not targets.ignore.shape[0]:
        return grid.points.new_ones(targets.num_images, grid.num_locations)
    return (coverage(grid, targets.ignore, targets.ignore_image, targets.num_images) == 0).to(grid.points.dtype)


def coverage(grid: Grid, boxes: Tensor, image: Tensor, num_images: int) -> Tensor:
    """How many of the boxes ``[n, 4]`` (of images ``[n]``) hold each location strictly inside: ``[B, R]`` int32."""
    return cells_covered(grid, *inside_range(boxes, grid.strides, grid.shapes, grid.offset), image, num_images)


def cells_covered(grid: Grid, first: Tensor, last: Tensor, image: Tensor, num_images: int) -> Tensor:
    """`coverage` of rectangles of cells: (column, row) of their ends ``[n, L, 2]``, half-open, on the map."""
    maps = []
    for level, (height, width) in enumerate(grid.shapes):
        x0, y0 = first[:, level].unbind(-1)
        x1, y1 = last[:, level].unbind(-1)
        marks = torch.zeros(num_images * (height + 1) * (width + 1), dtype=torch.int32, device=image.device)
        base = image * (height + 1) * (width + 1)
        for row, column, sign in ((y0, x0, 1), (y0, x1, -1), (y1, x0, -1), (y1, x1, 1)):
            index = base + row.clamp(max=height) * (width + 1) + column.clamp(max=width)
            marks.index_add_(0, index, torch.full_like(index, sign, dtype=torch.int32))
        summed = marks.view(num_images, height + 1, width + 1).cumsum(1, dtype=torch.int32).cumsum(2, dtype=torch.int32)
        maps.append(summed[:, :height, :width].reshape(num_images, -1))
    return torch.cat(maps, dim=1)
