"""What an assigner answers for one image: every sample, a row per box, and the mixture of those that have one.

Works for any assigner, those of other packages included: it is asked through the contract alone. Boxes are numbered
as the data set lists them, so that a box which never reaches the assigner has a number too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from assigners.contract import Predictions, Samples, Step, Targets
from assigners.grid import Grid
from assigners.ops.boxes import aligned_iou, decode
from assigners.ops.records import map_tensors
from assigners.parts.map_reader import MapReader
from assigners.rules.iqdet.box_points import offset_in_half_sides, usable_levels
from assigners.rules.iqdet.encoder import Mixture
from assigners.rules.iqdet.pipeline import QualitySampling
from assigners.samplers.negatives import unsampled
from detector import FCOS
from harness.core.errors import UserError, did_you_mean
from harness.data.base import Annotations, ImageSet
from harness.data.transforms import roles
from harness.inspection.forward import forward
from harness.protocol.protocol import Protocol

FIRST_LEVEL = 3  # the finest map is called P3


@dataclass(frozen=True)
class View:
    """One image and its objects as detector and assigner meet them; G boxes reach the assigner.

    Attributes:
        name: of the image in its data set.
        pixels: ``[h, w, 3]`` uint8, the image after resizing; all coordinates here are pixels of it.
        original: ``(height, width)`` before resizing; scale: (x, y) factors of the resize.
        objects: the n objects of the data set, in original pixels.
        classes: names.
        rows: ``[G]`` the object that each box is.
        ignored: rows of objects that are regions without negatives.
        dropped: rows of objects that the protocol leaves out.
        targets: the G boxes.
        grid, predictions: of the detector for this image.
    """

    name: str
    pixels: npt.NDArray[np.uint8]
    original: tuple[int, int]
    scale: tuple[float, float]
    objects: Annotations
    classes: tuple[str, ...]
    rows: tuple[int, ...]
    ignored: tuple[int, ...]
    dropped: tuple[int, ...]
    targets: Targets
    grid: Grid
    predictions: Predictions

    @property
    def size(self) -> tuple[int, int]:
        """``(height, width)`` after resizing."""
        return self.pixels.shape[0], self.pixels.shape[1]

    def scaled(self, row: int) -> list[float]:
        """An object's box in pixels of the resized image."""
        x, y = self.scale
        return [float(value) * factor for value, factor in zip(self.objects.boxes[row], (x, y, x, y), strict=True)]

    def class_name(self, row: int) -> str:
        """Name of an object's class."""
        return self.classes[int(self.objects.labels[row])]

    def subset(self, keep: Sequence[int], boxes: Tensor | None = None) -> Targets:
        """The targets as if only the boxes `keep` (positions in 0..G-1) were there, or `boxes` in their stead.

        They keep their slots, and with them their noise: whatever then changes is due to the others' absence.
        """
        index, every = torch.tensor(keep, dtype=torch.long), self.targets
        chosen = every.boxes.cpu()[index] if boxes is None else boxes
        targets = Targets.collate(
            [chosen], [every.labels.cpu()[index]], self.grid, sizes=[self.size],
            image_ids=[int(every.image_id[0])], ignore=[every.ignore],
        )  # fmt: skip
        return replace(targets, slot=index).to(every.boxes.device)


def find_image(images: ImageSet, wanted: str) -> int:
    """The position of an image, by name, file name, stem or number, in this order.

    Raises:
        UserError: if there is none.
    """
    names = [images.name(index) for index in range(len(images))]
    files = [name.rpartition("/")[2] for name in names]
    for known in (names, files, [file.rpartition(".")[0] or file for file in files]):
        if wanted in known:
            return known.index(wanted)
    if wanted.isdecimal() and int(wanted) < len(images):
        return int(wanted)
    raise UserError(
        f"no image {wanted!r} in split {images.split!r} of {images.title}{did_you_mean(wanted, files)}; "
        f"name one, or give a number from 0 to {len(images) - 1}"
    )


def look(model: FCOS, images: ImageSet, index: int, protocol: Protocol) -> View:
    """Bring an image to the detector (`forward`), which has its assigner."""
    assert model.assigner is not None
    result = forward(model, images, [index], protocol, grads=model.assigner.needs.grads)
    (sample,), (objects,) = result.samples, result.objects
    learnt, regions = roles(objects, protocol.data)
    return View(
        name=images.name(index),
        pixels=np.ascontiguousarray(sample.image.permute(1, 2, 0).numpy()),
        original=images.size(index),
        scale=sample.scale,
        objects=objects,
        classes=images.classes,
        rows=tuple(result.rows.tolist()),
        ignored=tuple(np.flatnonzero(regions).tolist()),
        dropped=tuple(np.flatnonzero(~learnt & ~regions).tolist()),
        targets=result.targets,
        grid=result.grid,
        predictions=result.predictions,
    )


@dataclass(frozen=True)
class ImageAssignment:
    """The samples that exist, on the host; S of them.

    Attributes:
        box: ``[S]`` position among the boxes that were assigned, 0..G-1 of the view.
        level: ``[S]`` 0 is the finest.
        xy: ``[S, 2]`` pixels of the resized image.
        label: ``[S]`` soft label.
        positive: ``[S]`` bool.
        iou: ``[S]`` of the prediction there with the sample's box.
    """

    box: npt.NDArray[np.int64]
    level: npt.NDArray[np.int64]
    xy: npt.NDArray[np.float32]
    label: npt.NDArray[np.float32]
    positive: npt.NDArray[np.bool_]
    iou: npt.NDArray[np.float32]

    def of(self, box: int) -> npt.NDArray[np.int64]:
        """The positives of a box, as positions ``[k]``."""
        return np.flatnonzero(self.positive & (self.box == box))

    def per_level(self, box: int, levels: int) -> list[int]:
        """How many positives a box has on each level."""
        return [int(count) for count in np.bincount(self.level[self.of(box)], minlength=levels)]


def assign(model: FCOS, view: View, step: Step, keep: Sequence[int], boxes: Tensor | None = None) -> ImageAssignment:
    """Ask the assigner about some of the boxes, or about others in their stead (see `View.subset`)."""
    assert model.assigner is not None
    targets, grid = view.subset(keep, boxes), view.grid
    with torch.autocast(grid.points.device.type, enabled=False):
        samples: Samples = model.assigner(grid, targets, model.visible(view.predictions), step).samples
    rows = samples.select(samples.ok)
    xy = grid.pixels(rows.level, rows.uv)
    with torch.no_grad():
        reader = MapReader.build(grid, torch.zeros_like(rows.gt), rows.level, rows.uv, rows.location)
        iou = aligned_iou(decode(xy, reader.read(view.predictions.distances)), targets.boxes[rows.gt])
    position = torch.tensor(keep, dtype=torch.long, device=xy.device)[rows.gt]
    host: list[Any] = [
        tensor.detach().cpu().numpy() for tensor in (position, rows.level, xy, rows.label, rows.positive, iou)
    ]
    return ImageAssignment(*host)


def mixtures(model: FCOS, view: View) -> tuple[Mixture, Tensor] | None:
    """The quality distributions ``[G, L]`` and which levels ``[G, L]`` a box may use, on the host, if there are any."""
    assigner = unsampled(model.assigner)
    if not isinstance(assigner, QualitySampling):
        return None
    with torch.no_grad(), torch.autocast(view.grid.points.device.type, enabled=False):
        quality = assigner.quality(view.grid, view.targets, model.visible(view.predictions))
    usable = usable_levels(view.grid, view.targets, assigner.level_gate)
    return map_tensors(quality, Tensor.cpu), usable.cpu()


def quality_map(view: View, mixture: Mixture, shown: Tensor) -> npt.NDArray[np.float64]:
    """Largest Q ``[h, w]`` at every pixel over the boxes and levels where `shown` ``[G, L]``, in [0, 1]."""
    height, width = view.size
    largest = torch.zeros(height, width)
    for box, corners in enumerate(view.targets.boxes.cpu()):
        if not bool(shown[box].any()):
            continue
        x1, y1 = (int(value) for value in corners[:2].floor())
        x2, y2 = (int(value) for value in corners[2:].ceil())
        y, x = torch.meshgrid(torch.arange(y1, y2) + 0.5, torch.arange(x1, x2) + 0.5, indexing="ij")
        xy = torch.stack((x, y), dim=-1).flatten(0, 1)
        d = offset_in_half_sides(xy, corners)
        levels = shown[box].nonzero().flatten()
        q = mixture[torch.full_like(levels, box), levels].density(d.expand(len(levels), *d.shape)).amax(dim=0)
        q = torch.where((d.abs() <= 1).all(dim=-1), q, 0).view(y2 - y1, x2 - x1)
        largest[y1:y2, x1:x2] = torch.maximum(largest[y1:y2, x1:x2], q)
    return largest.clamp(0, 1).numpy().astype(np.float64)


def fate(view: View, row: int) -> str:
    """What became of an object before the assigner: assigned, ignored, too small, or left out as crowd or difficult."""
    if row in view.rows:
        return "assigned"
    if row in view.ignored:
        return "ignored"
    if row in view.dropped:
        return "crowd" if view.objects.crowd[row] else "difficult"
    return "too small"


def box_rows(view: View, drawn: ImageAssignment) -> list[dict[str, Any]]:
    """A row per object of the data set, as plain JSON values."""
    rows = []
    for row in range(len(view.objects)):
        status = fate(view, row)
        corners = [round(float(value), 3) for value in view.objects.boxes[row]]
        scaled = view.scaled(row)
        entry: dict[str, Any] = {
            "box": row, "class": view.class_name(row), "fate": status, "corners": corners,
            "size": [round(corners[2] - corners[0], 3), round(corners[3] - corners[1], 3)],
            "input_size": [round(scaled[2] - scaled[0], 3), round(scaled[3] - scaled[1], 3)],
        }  # fmt: skip
        if status == "assigned":
            position = view.rows.index(row)
            positives = drawn.of(position)
            entry["positives"] = drawn.per_level(position, view.grid.num_levels)
            entry["other_samples"] = int((drawn.box == position).sum() - len(positives))
            entry["label"], entry["iou"] = _spread(drawn.label[positives]), _spread(drawn.iou[positives])
        rows.append(entry)
    return rows


def sample_rows(view: View, drawn: ImageAssignment) -> list[dict[str, Any]]:
    """Every sample as plain JSON values; places are in pixels of the resized image."""
    return [
        {
            "box": view.rows[int(drawn.box[i])],
            "level": int(drawn.level[i]),
            "x": round(float(drawn.xy[i, 0]), 4),
            "y": round(float(drawn.xy[i, 1]), 4),
            "label": round(float(drawn.label[i]), 6),
            "positive": bool(drawn.positive[i]),
            "iou": round(float(drawn.iou[i]), 6),
        }
        for i in range(len(drawn.box))
    ]


def mixture_rows(view: View, mixture: Mixture, usable: Tensor) -> list[dict[str, Any]]:
    """Every component as plain JSON values: mean and sigma in half sides from the box centre, weight pi."""
    weight = mixture.log_pi.exp()
    return [
        {
            "box": view.rows[box],
            "level": level,
            "usable": bool(usable[box, level]),
            "mu": mixture.mu[box, level].tolist(),
            "sigma": mixture.sigma[box, level].tolist(),
            "pi": weight[box, level].tolist(),
        }
        for box in range(weight.shape[0])
        for level in range(weight.shape[1])
    ]


def _spread(values: npt.NDArray[np.float32]) -> dict[str, float] | None:
    if not len(values):
        return None
    numbers = {"min": values.min(), "mean": values.mean(), "max": values.max()}
    return {name: round(float(value), 6) for name, value in numbers.items()}
