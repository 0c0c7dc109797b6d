"""RoIAlign on all levels, forward and backward: our embedding bag beside torchvision's kernel."""

from __future__ import annotations

import pytest
import torch
from torchvision.ops import roi_align

from assigners.parts.roi_features import Rows, roi_align_rows
from harness.bench.scene import make_scene


def ours(features, grid, targets):
    return roi_align_rows(features, grid, Rows.all(targets, grid.num_levels), 7, 2)


def torchvision(features, grid, targets):
    rois = torch.cat((targets.image[:, None].float(), targets.boxes), dim=1)
    return torch.stack(
        [roi_align(f, rois, 7, 1 / s, 2, aligned=True) for f, s in zip(features, grid.strides, strict=True)], dim=1
    )


@pytest.mark.benchmark(group="roi")
@pytest.mark.parametrize("pool", [ours, torchvision])
def test_forward_and_backward(benchmark, pool):
    scene = make_scene(2, 30, 80)
    grid, targets, predictions = scene.grid, scene.targets, scene.predictions
    features = tuple(f[:, :64].clone().requires_grad_() for f in predictions.features)

    def both():
        return torch.autograd.grad(pool(features, grid, targets).square().sum(), features)

    gradients = benchmark(both)
    assert all(g.abs().sum() > 0 for g in gradients)
