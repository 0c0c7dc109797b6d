"""The synthetic scenes that assigners are timed on: boxes of all sizes, and a detector that has learnt something."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil

import torch
from torch import Tensor

from assigners.contract import HeadInfo, Predictions, Step, Targets
from assigners.grid import Grid
from assigners.ops.boxes import decode, ltrb
from assigners.ops.records import map_tensors
from assigners.parts.candidates import inside_pairs

STRIDES = HeadInfo.strides
SIZE = (800, 1344)  # px; 22,400 locations
CHANNELS = 256  # of the maps
SMALLEST, LARGEST = 8.0, 600.0  # px, sides of boxes
NOISE = 0.3  # of log-distances, in standard deviations: an IoU of about 0.6 with the box
STEP = Step(seed=0, index=1, progress=0.75)  # past every warm-up


@dataclass(frozen=True)
class BenchScene:
    """A batch and what the detector predicts for it."""

    grid: Grid
    targets: Targets
    predictions: Predictions
    classes: int

    @property
    def head(self) -> HeadInfo:
        """The detector that it is for."""
        return HeadInfo(self.classes, self.predictions.features[0].shape[1], self.grid.strides)


def make_scene(
    images: int,
    boxes: int,
    classes: int,
    *,
    size: tuple[int, int] = SIZE,
    channels: int = CHANNELS,
    device: torch.device | str = "cpu",
    seed: int = 0,
) -> BenchScene:
    """`boxes` boxes in each of `images` images, sides log-uniform; the same numbers give the same scene.

    An image is as much work as the next one, so that batches of any size compare: all hold the boxes of the first, in
    turns as they are, mirrored along x, along y and along both. A location within boxes predicts one of them with
    noise, any other a random one. `size` is the height and width of the images in pixels.
    """
    generator = torch.Generator().manual_seed(seed)

    def uniform(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator)

    height, width = size
    shapes = [(ceil(height / stride), ceil(width / stride)) for stride in STRIDES]
    grid = Grid.build(shapes, STRIDES)
    extent = torch.tensor([float(width), float(height)])
    sides = SMALLEST * (LARGEST / SMALLEST) ** uniform(boxes, 2)
    low = uniform(boxes, 2) * (extent - SMALLEST)
    high = torch.minimum(low + sides, extent)
    mirrored = (torch.arange(images)[:, None, None] >> torch.arange(2)) % 2 == 1  # [images, 1, 2], along x and y
    truth = torch.cat((torch.where(mirrored, extent - high, low), torch.where(mirrored, extent - low, high)), dim=-1)
    labels = torch.randint(classes, (images, boxes), generator=generator)
    targets = Targets.collate(list(truth), list(labels), grid, sizes=[size] * images)
    predictions = _predict(grid, targets, classes, channels, generator)
    moved = Grid.build(shapes, STRIDES, device=device)
    return BenchScene(moved, targets.to(device), map_tensors(predictions, lambda maps: maps.to(device)), classes)


def _predict(grid: Grid, targets: Targets, classes: int, channels: int, generator: torch.Generator) -> Predictions:
    batch = (targets.num_images, grid.num_locations)
    pairs = inside_pairs(grid, targets)
    cell = grid.cell(targets.image[pairs.gt], pairs.location)
    box = torch.full((batch[0] * batch[1],), -1).scatter_reduce(0, cell, pairs.gt, "amax").view(batch)
    sides = ltrb(grid.points, targets.boxes[box.clamp(min=0)]) if targets.num_boxes else torch.ones(*batch, 4)
    distances = torch.where(box[..., None] >= 0, sides, 100.0)
    distances = distances * (NOISE * torch.randn(*batch, 4, generator=generator)).exp()
    features = tuple(torch.randn(batch[0], channels, h, w, generator=generator) for h, w in grid.shapes)
    return Predictions(
        torch.randn(*batch, classes, generator=generator) - 2,
        torch.randn(*batch, generator=generator),
        distances,
        decode(grid.points, distances),
        features,
    )
