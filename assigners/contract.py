"""The contract between a dense detector and a label assigner.

The detector yields dense maps (`Predictions`); an assigner answers what to supervise and how strongly
(`Assignment`); one shared loss turns the answer into numbers. Here are the types that pass between them, and nothing
that knows a particular assigner; where the locations are is in `assigners.grid`.

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
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from assigners.grid import Grid, count_inside
from assigners.ops.boxes import within_image
from assigners.ops.records import map_tensors
from assigners.ops.segments import ragged


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
            rules over whole boxes get a flat list of known length (`inside_pairs`) without a synchronisation.
        num_box_levels: number of (box, level) that these pairs are of, at least one a box (`box_levels`), likewise.
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
    num_box_levels: int

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
        kept_boxes, kept_labels = [torch.zeros(0, 4)], [torch.zeros(0, dtype=torch.long)]
        for index, (box, label, size) in enumerate(zip(boxes, labels, sizes, strict=True)):
            clipped, keep = within_image(_checked(box, label, index), *size)
            kept_boxes.append(clipped[keep])
            kept_labels.append(label.detach().cpu()[keep].long())
        regions = [region.detach().cpu().float().reshape(-1, 4) for region in (() if ignore is None else ignore)]
        count = torch.tensor([len(box) for box in kept_boxes[1:]], dtype=torch.long)
        kept = torch.cat(kept_boxes)
        num_pairs, num_box_levels = count_inside(grid, kept)
        image, slot = ragged(count, len(kept))
        return Targets(
            boxes=kept,
            labels=torch.cat(kept_labels),
            image=image,
            slot=slot,
            image_id=torch.tensor(list(range(len(count)) if image_ids is None else image_ids), dtype=torch.long),
            ignore=torch.cat((torch.zeros(0, 4), *regions)),
            ignore_image=torch.repeat_interleave(torch.tensor([len(region) for region in regions], dtype=torch.long)),
            counts=tuple(count.tolist()),
            num_pairs=num_pairs,
            num_box_levels=num_box_levels,
        )

    @property
    def index(self) -> Tensor:
        """Position ``[G]`` of each box among all."""
        return torch.arange(self.num_boxes, device=self.boxes.device)

    @property
    def num_boxes(self) -> int:
        """Number G of ground-truth boxes in the whole batch."""
        return self.boxes.shape[0]

    @property
    def num_images(self) -> int:
        """Number B of images in the batch."""
        return len(self.counts)

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Targets:
        """The same targets with every tensor on `device`."""
        return map_tensors(self, lambda tensor: tensor.to(device, non_blocking=non_blocking))


def _checked(boxes: Tensor, labels: Tensor, image: int) -> Tensor:
    """The boxes of an image in float32 on the CPU."""
    boxes = boxes.detach().to("cpu", torch.float32)
    boxes = boxes if boxes.numel() else boxes.reshape(-1, 4)
    if boxes.ndim != 2 or boxes.shape[1] != 4 or len(labels) != len(boxes):
        got = f"{tuple(boxes.shape)} and {tuple(labels.shape)}"
        raise ValueError(f"image {image}: boxes must be [n, 4] with n labels, got {got}")
    if not bool(torch.isfinite(boxes).all()):
        raise ValueError(f"image {image}: boxes hold NaN or infinity; every coordinate must be finite")
    return boxes


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
    """Weighted point samples at float map coordinates; where all lie on the grid, `at_locations` makes them.

    Attributes:
        gt: ``[S]`` int64 index into `Targets.boxes`; the loss gathers box, class and image from there.
        level: ``[S]`` int64.
        uv: ``[S, 2]`` float32 (column, row) in cells of the level, within ``[0, W-1] x [0, H-1]``.
        ok: ``[S]`` bool. The other rows do not exist: finite dummies without weight.
        positive: ``[S]`` bool, a subset of `ok`: rows that count for the normalisers. The remaining rows are
            negatives at float coordinates (IQDet's rejected draws).
        label: ``[S]`` target of the own class, in [0, 1].
        class_weight, box_weight, quality_weight: ``[S]`` >= 0.
        location: ``[S]`` int64 flat index of the same place within the image where every sample lies on the grid:
            maps are indexed there instead of interpolated (the same bits). None where some may lie between.
        all_classes: the other classes of a sample are supervised as zero at the sample itself. For assigners
            that give the grid around it no negative weight. Neither rows nor a loss of the assigner can say that: a
            row speaks for the class of its box alone, and the form of the class loss is the protocol's.
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
    location: Tensor | None = None
    all_classes: bool = False

    @staticmethod
    def at_locations(grid: Grid, location: Tensor, gt: Tensor, ok: Tensor, **columns: Tensor) -> Samples:
        """Positives at flat grid locations, a row for each; all broadcast to one shape.

        Rows with ``ok`` false are dummies. The others are hard, label and weights 1, but for `columns`: fields by name,
        of that shape, which are 0 in dummies.
        """
        location, gt, ok = (t.flatten() for t in torch.broadcast_tensors(torch.where(ok, location, 0), gt, ok))
        level, uv = grid.map_coordinates(location)
        weight = ok.to(uv.dtype)
        hard = dict.fromkeys(("label", "class_weight", "box_weight", "quality_weight"), weight)
        rows: dict[str, Any] = hard | {name: column.flatten() for name, column in columns.items()}
        return Samples(gt=gt, level=level, uv=uv, ok=ok, positive=ok, location=location, **rows)

    @property
    def on_grid(self) -> bool:
        """Every sample lies on a location."""
        return self.location is not None

    def select(self, rows: Tensor) -> Samples:
        """The rows of a mask ``[S]``, in their order; the host waits for the device."""
        return map_tensors(self, lambda column: column[rows])


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
    normaliser: Literal["positives", "labels", "weights"] | None = None  # what divides the class loss
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

    Raises:
        ValueError: when made with an option out of its range (`assigners.parts.bounds`).
    """

    needs: ClassVar[Needs] = Needs()
    declares: Declares = Declares()  # may depend on options
    options: dict[str, object]

    def required(self, grid: Grid, predictions: Predictions | None) -> Predictions:
        """The predictions, for a rule that `needs` them.

        Raises:
            ValueError: if there are none, or not one feature map per level for a rule that needs features.
        """
        if predictions is None or (self.needs.features and len(predictions.features) != grid.num_levels):
            maps = " and one feature map per level" if self.needs.features else ""
            raise ValueError(f"{type(self).__name__} needs the detector's predictions{maps}")
        return predictions

    @abstractmethod
    def forward(self, grid: Grid, targets: Targets, predictions: Predictions | None, step: Step) -> Assignment:
        """Assign one batch, in float32, without a host synchronisation and without a loop over boxes or images.

        Raises:
            ValueError: without what the rule `needs`.
        """
