"""What the assigner tests share: building, running and comparing."""

from __future__ import annotations

from dataclasses import fields, replace

import numpy as np
import torch
from numpy.typing import NDArray

from assigners.contract import Assigner, Assignment, Predictions, Targets
from assigners.registry import create
from tests.strategies import Scene


def build(name: str, scene: Scene, **options: object) -> Assigner:
    """An assigner whose own parameters, where it has any, are not near their uniform start."""
    generator = torch.Generator().manual_seed(scene.seed)
    torch.manual_seed(0)
    assigner = create(name, scene.head, **options)
    with torch.no_grad():
        for parameter in assigner.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
    return assigner


def run(assigner: Assigner, scene: Scene, *, index: int = 0, seed: int = 0) -> Assignment:
    return assigner(scene.grid, scene.targets(), scene.predictions(), scene.step(index=index, seed=seed))


def assert_equal(a: Assignment, b: Assignment) -> None:
    """Bit for bit, losses and statistics included."""
    for name in (f.name for f in fields(a.samples)):
        left, right = getattr(a.samples, name), getattr(b.samples, name)
        assert torch.equal(left, right) if isinstance(left, torch.Tensor) else left == right, name
    assert torch.equal(a.negative_weight, b.negative_weight)
    for mine, yours in ((a.losses, b.losses), (a.statistics, b.statistics)):
        assert mine.keys() == yours.keys()
        for key in mine:
            assert all(torch.equal(x, y) for x, y in zip(mine[key], yours[key], strict=True)), key


def rows(assignment: Assignment, gt_order: torch.Tensor | None = None) -> NDArray[np.float64]:
    """The existing samples, one per row, sorted: gt, level, u, v, positive, label and the three weights."""
    s = assignment.samples
    gt = s.gt if gt_order is None else gt_order[s.gt]
    columns = [gt, s.level, *s.uv.unbind(1), s.positive, s.label, s.class_weight, s.box_weight, s.quality_weight]
    table = torch.stack([c.detach().double() for c in columns], dim=1)[s.ok].numpy()
    return table[np.lexsort(table.T[::-1])]


def assert_close_rows(a: NDArray[np.float64], b: NDArray[np.float64], atol: float) -> None:
    """The same samples up to rounding: coordinates and labels within `atol`, the rest exactly."""
    assert a.shape == b.shape
    np.testing.assert_allclose(a, b, rtol=0, atol=atol)


def assigned(assignment: Assignment, targets: Targets, scene: Scene) -> NDArray[np.int64]:
    """For grid assigners: slot of the box that each location learns ``[B, R]``, -1 where none; none may have two."""
    s = assignment.samples
    assert s.on_grid
    assert torch.equal(s.uv, s.uv.round())
    result = np.full((scene.num_images, scene.grid.num_locations), -1, dtype=np.int64)
    location = scene.grid.level_start[s.level] + (s.uv[:, 1] * scene.grid.level_width[s.level] + s.uv[:, 0]).long()
    for k in torch.nonzero(s.ok).flatten().tolist():
        image, slot = int(targets.image[s.gt[k]]), int(targets.slot[s.gt[k]])
        assert result[image, int(location[k])] == -1, "two boxes share a location"
        result[image, int(location[k])] = slot
    return result


def pixels(assignment: Assignment, scene: Scene) -> torch.Tensor:
    """Pixel position ``[S, 2]`` of the samples, in float64."""
    s = assignment.samples
    return (s.uv.double() + scene.offset) * scene.grid.level_stride[s.level].double().unsqueeze(1)


def map_tensors(predictions: Predictions, change) -> Predictions:  # type: ignore[no-untyped-def]
    """The predictions with `change` applied to every map."""
    return Predictions(
        logits=change(predictions.logits),
        quality=change(predictions.quality),
        distances=change(predictions.distances),
        boxes=change(predictions.boxes),
        features=tuple(change(f) for f in predictions.features),
    )


def permuted(targets: Targets, order: torch.Tensor) -> Targets:
    """The boxes in another order within their images, each keeping the slot that names it."""
    return replace(
        targets,
        boxes=targets.boxes[order],
        labels=targets.labels[order],
        image=targets.image[order],
        slot=targets.slot[order],
    )
