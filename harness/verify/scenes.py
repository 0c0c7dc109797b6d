"""Detection scenes, and hypothesis strategies of them.

A scene is drawn from a few structural choices (sizes, box counts, kinds) and one seed: the boxes and the dense
predictions come from NumPy generators of that seed, so that drawing is fast and shrinking lowers the counts first.
Boxes lie on a 1/8 px lattice, exact in float32, so that ties and border cases happen and are the same on any machine.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Self

import numpy as np
import torch
from hypothesis import strategies as st
from numpy.typing import NDArray

from assigners.contract import HeadInfo, Predictions, Step, Targets
from assigners.grid import Grid
from assigners.ops.boxes import decode

STRIDES = HeadInfo.strides
SIDES = (128, 256, 384)  # px
KINDS = ("plain", "tiny", "flat", "huge", "border", "nested", "duplicate")
LATTICE = 8.0  # steps per px
CHANNELS = 4
CLASSES = 5
SHOWN_BOXES = 4  # in a description; the rest is counted

FloatArray = NDArray[np.float32]


@dataclass(frozen=True)
class VerifyScene:
    """A batch of images with boxes, and the seed of what a detector says about it.

    Attributes:
        boxes: per image ``[n, 4]`` xyxy px; labels: per image ``[n]``.
        sizes: per image (height, width) in px.
        image_ids: per image.
        canvas: (height, width) in px of the padded batch.
        seed: of predictions and features.
        offset: position of a location within its cell.
    """

    boxes: tuple[FloatArray, ...]
    labels: tuple[NDArray[np.int64], ...]
    sizes: tuple[tuple[int, int], ...]
    image_ids: tuple[int, ...]
    canvas: tuple[int, int]
    seed: int
    offset: float = 0.5
    num_classes: int = CLASSES
    strides: tuple[int, ...] = STRIDES

    @property
    def num_images(self) -> int:
        """Number B of images in the scene."""
        return len(self.boxes)

    @property
    def key(self) -> tuple[object, ...]:
        """What tells scenes apart."""
        boxes, labels = (tuple(array.tobytes() for array in arrays) for arrays in (self.boxes, self.labels))
        return (boxes, labels, self.image_ids, self.canvas, self.seed, self.strides, self.num_classes)

    @cached_property
    def shapes(self) -> tuple[tuple[int, int], ...]:
        """Cells per level: halved level by level, rounding up."""
        height, width = self.canvas
        return tuple((-(-height // s), -(-width // s)) for s in self.strides)

    @property
    def head(self) -> HeadInfo:
        """The detector that the scene is for."""
        return HeadInfo(self.num_classes, CHANNELS, self.strides)

    @cached_property
    def grid(self) -> Grid:
        """Its locations, on the CPU."""
        return Grid.build(self.shapes, self.strides, offset=self.offset)

    def targets(self, ignore: list[torch.Tensor] | None = None) -> Targets:
        """Fresh tensors of the ground truth; `ignore` holds ``[m, 4]`` regions per image."""
        return Targets.collate(
            [torch.from_numpy(b.copy()) for b in self.boxes],
            [torch.from_numpy(label.copy()) for label in self.labels],
            self.grid,
            sizes=self.sizes,
            image_ids=self.image_ids,
            ignore=ignore,
        )

    def predictions(self, *, features: bool = True, grads: bool = False) -> Predictions:
        """Logits uniform in (-6, 6), distances log-uniform in 0.5..300 px; features with gradient.

        Every image draws from its own generator, named by seed and image id, so that splitting the batch changes
        none of them.

        Args:
            features: whether there are FPN maps.
            grads: whether logits, quality and distances are leaves with gradient, and boxes are decoded from them.
        """
        logits, quality, distances = [], [], []
        maps: list[list[FloatArray]] = [[] for _ in self.shapes]
        for image in self.image_ids:
            rng = np.random.default_rng((self.seed, image))
            r = self.grid.num_locations
            logits.append(rng.uniform(-6, 6, (r, self.num_classes)).astype(np.float32))
            quality.append(rng.uniform(-6, 6, r).astype(np.float32))
            distances.append(np.exp(rng.uniform(np.log(0.5), np.log(300), (r, 4))).astype(np.float32))
            for level, (height, width) in enumerate(self.shapes):
                maps[level].append(rng.standard_normal((CHANNELS, height, width)).astype(np.float32))
        reach = torch.from_numpy(np.stack(distances)).requires_grad_(grads)
        return Predictions(
            logits=torch.from_numpy(np.stack(logits)).requires_grad_(grads),
            quality=torch.from_numpy(np.stack(quality)).requires_grad_(grads),
            distances=reach,
            boxes=decode(self.grid.points, reach),
            features=tuple(torch.from_numpy(np.stack(m)).requires_grad_() for m in maps) if features else (),
        )

    def step(self, index: int = 0, seed: int = 0, progress: float = 0.5) -> Step:
        """A moment of training."""
        return Step(seed=seed, index=index, progress=progress)

    def single(self, image: int) -> Self:
        """The scene of one image alone, on the same canvas."""
        per_image = ("boxes", "labels", "sizes", "image_ids")
        alone: dict[str, Any] = {name: (getattr(self, name)[image],) for name in per_image}
        return replace(self, **alone)

    def describe(self) -> str:
        """The scene in one line, complete unless it has many boxes."""
        images = []
        for boxes, labels in zip(self.boxes, self.labels, strict=True):
            shown = [
                f"{label}@({','.join(f'{value:g}' for value in box)})"
                for box, label in zip(boxes[:SHOWN_BOXES].tolist(), labels.tolist(), strict=False)
            ]
            more = len(boxes) - len(shown)
            images.append(" ".join(shown) + (f" and {more} more" if more else "") or "no box")
        height, width = self.canvas
        strides = "" if self.strides == STRIDES else f", strides {','.join(map(str, self.strides))}"
        classes = "" if self.num_classes == CLASSES else f", {self.num_classes} classes"
        return f"{width}x{height} px{strides}{classes}, seed {self.seed}; class@(box) per image: {' | '.join(images)}"


def draw_box(kind: str, height: int, width: int, others: list[FloatArray], rng: np.random.Generator) -> FloatArray:
    """A box of the given kind within the image, sides >= 1 px, on the lattice."""
    if kind == "duplicate" and others:
        return others[int(rng.integers(len(others)))].copy()
    frame = np.array([0, 0, width, height], dtype=np.float64)
    if kind == "nested" and others:
        frame = others[int(rng.integers(len(others)))].astype(np.float64)
    room = frame[2:] - frame[:2]
    low, high = {"tiny": (1.0, 8.0), "huge": (0.6 * room.min(), room.max())}.get(kind, (1.0, 0.6 * room.max()))
    side = np.exp(rng.uniform(np.log(low), np.log(max(high, low + 1e-3)), 2))
    if kind == "flat":
        side = np.array([rng.uniform(0.5, 1.0) * room[0], rng.uniform(1, 8)])[:: 1 if rng.random() < 0.5 else -1]
    side = np.clip(np.round(side * LATTICE) / LATTICE, 1.0, np.maximum(room, 1.0))
    free = np.maximum(room - side, 0)
    corner = rng.uniform(0, 1, 2) * free
    if kind == "border":
        axis = int(rng.integers(2))
        corner[axis] = free[axis] * rng.integers(2)
    corner = np.round((frame[:2] + corner) * LATTICE) / LATTICE
    corner = np.minimum(corner, np.array([width, height]) - side)
    return np.concatenate((corner, corner + side)).astype(np.float32)


@st.composite
def scenes(
    draw: st.DrawFn,
    *,
    min_images: int = 1,
    max_images: int = 3,
    max_boxes: int = 12,
    min_boxes: int = 0,
    sides: tuple[int, ...] = SIDES,
    kinds: tuple[str, ...] = KINDS,
    num_classes: int = CLASSES,
) -> VerifyScene:
    """A batch of images of one size with different numbers of boxes."""
    height, width = draw(st.sampled_from(sides)), draw(st.sampled_from(sides))
    seed = draw(st.integers(0, 2**16))
    count = draw(st.integers(min_images, max_images))
    boxes, labels = [], []
    for image in range(count):
        chosen = draw(st.lists(st.sampled_from(kinds), min_size=min_boxes, max_size=max_boxes))
        rng = np.random.default_rng((seed, image, 7))
        drawn: list[FloatArray] = []
        for kind in chosen:
            drawn.append(draw_box(kind, height, width, drawn, rng))
        boxes.append(np.stack(drawn) if drawn else np.zeros((0, 4), np.float32))
        labels.append(rng.integers(0, num_classes, len(drawn)).astype(np.int64))
    return VerifyScene(
        boxes=tuple(boxes),
        labels=tuple(labels),
        sizes=((height, width),) * count,
        image_ids=tuple(101 + 7 * i for i in range(count)),
        canvas=(height, width),
        seed=seed,
        num_classes=num_classes,
    )


def crowd(count: int = 3000, side: int = 1024) -> VerifyScene:
    """One image of `side` px with `count` small boxes."""
    rng = np.random.default_rng(5)
    corner = rng.uniform(0, side - 24, (count, 2))
    boxes = np.concatenate((corner, corner + rng.uniform(2, 24, (count, 2))), axis=1).astype(np.float32)
    return VerifyScene(
        boxes=(boxes,),
        labels=(rng.integers(0, CLASSES, count),),
        sizes=((side, side),),
        image_ids=(1,),
        canvas=(side, side),
        seed=1,
    )


def odd_pyramids() -> list[VerifyScene]:
    """A single level, and other strides and uneven maps than the usual five."""
    boxes = np.array([[3, 5, 60, 40], [0, 0, 90, 70], [50, 20, 53, 23]], dtype=np.float32)
    return [
        VerifyScene(
            boxes=(boxes, boxes[:1]), labels=(np.array([0, 1, 2]), np.array([3])), sizes=((70, 90),) * 2,
            image_ids=(4, 9), canvas=(72, 96), seed=3, strides=strides,
        )
        for strides in ((8,), (4, 8, 16), (8, 16, 32, 64, 128, 256))
    ]  # fmt: skip
