"""One image as a dense rule sees it, and the tables that most of them begin with."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from assigners import Grid, Predictions, Targets

NEGATIVE, IGNORED = -1, -2


@dataclass(frozen=True)
class Picture:
    """The ground truth and the predictions of one image."""

    grid: Grid
    boxes: Tensor  # [n, 4]
    labels: Tensor  # [n]
    logits: Tensor  # [R, C]
    quality: Tensor  # [R]
    predicted: Tensor  # [R, 4] decoded boxes

    @property
    def points(self) -> Tensor:
        """Locations ``[R, 2]`` in pixels."""
        return self.grid.points

    @property
    def anchors(self) -> Tensor:
        """[R, 4], one square of 8 strides per location."""
        half = 4 * self.grid.stride[:, None]
        return torch.cat((self.points - half, self.points + half), dim=1)

    @property
    def centers(self) -> Tensor:
        """Centres ``[n, 2]`` of the boxes in pixels."""
        return (self.boxes[:, :2] + self.boxes[:, 2:]) / 2

    @property
    def areas(self) -> Tensor:
        """Areas ``[n]`` of the boxes in square pixels."""
        return (self.boxes[:, 2] - self.boxes[:, 0]) * (self.boxes[:, 3] - self.boxes[:, 1])

    def levels(self) -> Iterator[slice]:
        """The locations of each level."""
        for start, (height, width) in zip(self.grid.starts, self.grid.shapes, strict=True):
            yield slice(start, start + height * width)

    def sides(self) -> Tensor:
        """Distances from every location to the sides of every box, [R, n, 4]."""
        low = self.points[:, None] - self.boxes[None, :, :2]
        high = self.boxes[None, :, 2:] - self.points[:, None]
        return torch.cat((low, high), dim=-1)

    def inside(self) -> Tensor:
        """Which locations lie strictly inside which box, ``[R, n]``."""
        return self.sides().amin(dim=-1) > 0

    def strides_away(self) -> Tensor:
        """Offset of every location from every centre, in its own strides, [R, n, 2]."""
        return (self.points[:, None] - self.centers[None]) / self.grid.stride[:, None, None]

    def near(self, radius: float) -> Tensor:
        """Which locations lie within a square about a box's centre, ``[R, n]``."""
        return self.strides_away().abs().amax(dim=-1) < radius


def pictures(grid: Grid, targets: Targets, predictions: Predictions) -> Iterator[Picture]:
    """The images of a batch, one after another."""
    boxes, labels = targets.boxes.split(targets.counts), targets.labels.split(targets.counts)
    for index in range(targets.num_images):
        yield Picture(
            grid, boxes[index], labels[index],
            predictions.logits[index], predictions.quality[index], predictions.boxes[index],
        )  # fmt: skip


@dataclass(frozen=True)
class Answer:
    """What one image learns.

    Attributes:
        assigned: [R] box of each location, NEGATIVE or IGNORED.
        label: [R] soft label of the assigned locations, 0 elsewhere; None where labels are hard.
    """

    assigned: Tensor
    label: Tensor | None = None


def nothing(picture: Picture) -> Answer:
    """An image without boxes."""
    return Answer(torch.full((picture.grid.num_locations,), NEGATIVE, device=picture.points.device))


def cheapest_box(cost: Tensor) -> Tensor:
    """Box of the smallest finite cost of each location; cost: [R, n]."""
    best, box = cost.min(dim=1)
    return torch.where(best.isfinite(), box, NEGATIVE)
