"""Hypothesis strategies of detection scenes.

A scene is drawn from a few structural choices (sizes, box counts, kinds) and one seed: the boxes and the dense
predictions come from NumPy generators of that seed, so that drawing is fast and shrinking lowers the counts first.
Boxes lie on a 1/8 px lattice, exact in float32, so that ties and border cases happen and are the same on any machine.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from hypothesis import strategies as st
from numpy.typing import NDArray

from assigners.contract import Grid, HeadInfo, Predictions, Step, Targets
from tests.oracles.geometry import Points, make_points

STRIDES = (8, 16, 32, 64, 128)
SIDES = (128, 256, 384)  # px
KINDS = ("plain", "tiny", "flat", "huge", "border", "nested", "duplicate")
LATTICE = 8.0  # steps per px
CHANNELS = 4

FloatArray = NDArray[np.float32]


@dataclass(frozen=True)
class Scene:
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
    num_classes: int = 5
    strides: tuple[int, ...] = STRIDES

    @property
    def num_images(self) -> int:
        return len(self.boxes)

    @cached_property
    def shapes(self) -> tuple[tuple[int, int], ...]:
        """Cells per level: halved level by level, rounding up."""
        height, width = self.canvas
        return tuple((-(-height // s), -(-width // s)) for s in self.strides)

    @property
    def head(self) -> HeadInfo:
        return HeadInfo(self.num_classes, CHANNELS, self.strides)

    @cached_property
    def points(self) -> Points:
        """The oracles' locations."""
        return make_points(self.shapes, self.strides, self.offset)

    @cached_property
    def grid(self) -> Grid:
        return Grid.build(self.shapes, self.strides, offset=self.offset)

    def targets(self) -> Targets:
        return Targets.collate(
            [torch.from_numpy(b.copy()) for b in self.boxes],
            [torch.from_numpy(label.copy()) for label in self.labels],
            self.grid,
            sizes=self.sizes,
            image_ids=self.image_ids,
        )

    def predictions(self, *, features: bool = True) -> Predictions:
        """Logits uniform in (-6, 6), distances log-uniform in 0.5..300 px; features with gradient.

        Every image draws from its own generator, named by seed and image id, so that splitting the batch changes
        none of them.
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
        reach = torch.from_numpy(np.stack(distances))
        points = self.grid.points
        return Predictions(
            logits=torch.from_numpy(np.stack(logits)),
            quality=torch.from_numpy(np.stack(quality)),
            distances=reach,
            boxes=torch.cat((points - reach[..., :2], points + reach[..., 2:]), dim=-1),
            features=tuple(torch.from_numpy(np.stack(m)).requires_grad_() for m in maps) if features else (),
        )

    def step(self, index: int = 0, seed: int = 0, progress: float = 0.5) -> Step:
        return Step(seed=seed, index=index, progress=progress)

    def single(self, image: int) -> Scene:
        """The scene of one image alone, on the same canvas."""
        return replace(
            self,
            boxes=(self.boxes[image],),
            labels=(self.labels[image],),
            sizes=(self.sizes[image],),
            image_ids=(self.image_ids[image],),
        )

    def empty(self) -> Scene:
        """The same images without boxes."""
        return replace(
            self,
            boxes=tuple(np.zeros((0, 4), np.float32) for _ in self.boxes),
            labels=tuple(np.zeros(0, np.int64) for _ in self.labels),
        )


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
) -> Scene:
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
        labels.append(rng.integers(0, 5, len(drawn)).astype(np.int64))
    return Scene(
        boxes=tuple(boxes),
        labels=tuple(labels),
        sizes=((height, width),) * count,
        image_ids=tuple(101 + 7 * i for i in range(count)),
        canvas=(height, width),
        seed=seed,
    )


@dataclass(frozen=True)
class MixtureParameters:
    """One quality distribution: mu, sigma ``[K, 2]``; pi ``[K]`` with a sum <= 1."""

    mu: NDArray[np.float64]
    sigma: NDArray[np.float64]
    pi: NDArray[np.float64]

    @property
    def log_pi(self) -> NDArray[np.float64]:
        return np.log(self.pi)


@st.composite
def mixtures(
    draw: st.DrawFn,
    *,
    components: int = 2,
    reach: float = 2.0,
    sigma: tuple[float, float] = (0.05, 3.0),
    peak: tuple[float, float] = (0.05, 0.999),
) -> MixtureParameters:
    """Mixtures whose means may lie outside the box."""
    rng = np.random.default_rng(draw(st.integers(0, 2**16)))
    share = rng.dirichlet(np.ones(components)) + 1e-3
    return MixtureParameters(
        mu=rng.uniform(-reach, reach, (components, 2)),
        sigma=np.exp(rng.uniform(np.log(sigma[0]), np.log(sigma[1]), (components, 2))),
        pi=share / share.sum() * rng.uniform(*peak),
    )
