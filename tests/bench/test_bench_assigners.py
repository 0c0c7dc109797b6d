"""Time of each assigner's forward on 2 images of 800 x 1344 (22,400 locations, 80 classes): ``make bench``."""

from __future__ import annotations

import pytest
import torch

from assigners import Grid, HeadInfo, Predictions, Step, Targets, catalogue, create

STRIDES = (8, 16, 32, 64, 128)
SHAPES = ((100, 168), (50, 84), (25, 42), (13, 21), (7, 11))
SIZE = (800, 1344)
IMAGES, CLASSES, CHANNELS = 2, 80, 256
NAMES = [entry.name for entry in catalogue()]


def scene(boxes: int) -> tuple[Grid, Targets, Predictions]:
    """`boxes` boxes an image, sides log-uniform from 8 to 600 px."""
    generator = torch.Generator().manual_seed(0)
    grid = Grid.build(SHAPES, STRIDES)
    sides = 8 * 75 ** torch.rand(IMAGES, boxes, 2, generator=generator)
    extent = torch.tensor([float(SIZE[1]), float(SIZE[0])])
    corner = torch.rand(IMAGES, boxes, 2, generator=generator) * (extent - 8)
    boxes_xyxy = torch.cat((corner, torch.minimum(corner + sides, extent)), dim=-1)
    labels = torch.randint(CLASSES, (IMAGES, boxes), generator=generator)
    targets = Targets.collate(list(boxes_xyxy), list(labels), grid, sizes=[SIZE] * IMAGES)
    distances = 300 * torch.rand(IMAGES, grid.num_locations, 4, generator=generator)
    predictions = Predictions(
        torch.randn(IMAGES, grid.num_locations, CLASSES, generator=generator),
        torch.randn(IMAGES, grid.num_locations, generator=generator),
        distances,
        torch.cat((grid.points - distances[..., :2], grid.points + distances[..., 2:]), dim=-1),
        tuple(torch.randn(IMAGES, CHANNELS, h, w, generator=generator) for h, w in SHAPES),
    )
    return grid, targets, predictions


@pytest.mark.parametrize("boxes", [7, 30, 100, 500])
@pytest.mark.parametrize("name", NAMES)
def test_forward(benchmark, name, boxes):
    grid, targets, predictions = scene(boxes)
    assigner = create(name, HeadInfo(CLASSES, CHANNELS))
    answer = benchmark(assigner, grid, targets, predictions, Step())
    assert answer.samples.positive.any()
