"""A small pyramid, random predictions on it, and samples written as rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import nn

from assigners.contract import Assignment, Predictions, Samples, Targets
from assigners.grid import Grid
from assigners.ops.boxes import decode

SHAPES, STRIDES = ((4, 6), (2, 3)), (8, 16)
SIZE = (32, 48)  # px, height and width of the grid's canvas
CLASSES = 4


@dataclass(frozen=True)
class Row:
    """One sample, with the defaults of a hard positive."""

    gt: int
    level: int
    u: float
    v: float
    label: float = 1.0
    class_weight: float = 1.0
    box_weight: float = 1.0
    quality_weight: float = 1.0
    ok: bool = True
    positive: bool = True


def make_grid():
    return Grid.build(SHAPES, STRIDES)


def make_targets(grid, boxes=(((2, 3, 30, 29), (20, 1, 46, 20)), ((5, 5, 21, 27),)), labels=((1, 3), (0,))):
    """Two images by default, the first with two boxes; pass empty tuples for images without boxes."""
    return Targets.collate(
        [torch.tensor(b, dtype=torch.float32).reshape(-1, 4) for b in boxes],
        [torch.tensor(label, dtype=torch.long) for label in labels],
        grid,
        sizes=[SIZE] * len(boxes),
    )


def make_predictions(grid, images=2, *, seed=0, classes=CLASSES):
    """Leaves with gradient, so that a loss can be differentiated by every map."""
    generator = torch.Generator().manual_seed(seed)
    draw = lambda *shape: torch.randn(*shape, generator=generator)  # noqa: E731
    logits = (2 * draw(images, grid.num_locations, classes)).requires_grad_()
    quality = draw(images, grid.num_locations).requires_grad_()
    distances = (10 * draw(images, grid.num_locations, 4).exp()).requires_grad_()
    return Predictions(logits, quality, distances, decode(grid.points, distances))


def make_samples(rows: Sequence[Row], **flags) -> Samples:
    def column(name, dtype=torch.float32):
        return torch.tensor([getattr(row, name) for row in rows], dtype=dtype)

    return Samples(
        gt=column("gt", torch.long),
        level=column("level", torch.long),
        uv=torch.tensor([(row.u, row.v) for row in rows], dtype=torch.float32).reshape(-1, 2),
        ok=column("ok", torch.bool),
        positive=column("positive", torch.bool),
        label=column("label"),
        class_weight=column("class_weight"),
        box_weight=column("box_weight"),
        quality_weight=column("quality_weight"),
        **flags,
    )


def make_assignment(grid, rows, images=2, *, negative=None, losses=None, on_grid=False, **flags) -> Assignment:
    """`on_grid`: the rows lie on locations, and say so."""
    weight = torch.ones(images, grid.num_locations) if negative is None else negative
    samples = make_samples(rows, **flags)
    if on_grid:
        samples = replace(samples, location=grid.location(samples.level, samples.uv))
    return Assignment(samples, weight, losses or {})


def first_input(model, batch):
    """What the backbone's first convolution gets of a batch, in float64."""
    inputs = []
    first = next(m for m in model.backbone.body.modules() if isinstance(m, nn.Conv2d))
    with torch.inference_mode(), first.register_forward_pre_hook(lambda _, given: inputs.append(given[0].double())):
        model.eval()(batch)
    return inputs[0]
