"""The pooled features of boxes against torchvision's RoIAlign and RoIPool."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.ops import roi_align, roi_pool

from assigners.parts.roi_features import Rows, box_features, roi_align_rows, roi_pool_levels
from tests.support.strategies import CHANNELS, scenes


def aligned(features, grid, targets, side, ratio):
    """Every box on every level, ``[N, L, side * side, D]``."""
    rows = Rows.all(targets, grid.num_levels)
    return roi_align_rows(features, grid, rows, side, ratio).unflatten(0, (targets.num_boxes, grid.num_levels))


@given(scenes(), st.sampled_from([1, 3, 7]), st.sampled_from([1, 2]))
def test_equals_torchvision(scene, side, ratio):
    targets, features = scene.targets(), scene.predictions().features
    ours = aligned(features, scene.grid, targets, side, ratio)
    assert ours.shape == (targets.num_boxes, len(features), side * side, CHANNELS)
    rois = torch.cat((targets.image[:, None].float(), targets.boxes), dim=1)
    for level, (feature, stride) in enumerate(zip(features, scene.strides, strict=True)):
        theirs = roi_align(feature, rois, side, spatial_scale=1 / stride, sampling_ratio=ratio, aligned=True)
        torch.testing.assert_close(ours[:, level], theirs.flatten(2).transpose(1, 2), rtol=0, atol=1e-4)


@given(scenes(max_boxes=5, min_boxes=1))
@settings(max_examples=10)
def test_gradient_equals_torchvision(scene):
    targets, features = scene.targets(), scene.predictions().features
    probe = torch.randn(targets.num_boxes, len(features), 49, CHANNELS, generator=torch.Generator().manual_seed(1))
    ours = torch.autograd.grad((aligned(features, scene.grid, targets, 7, 2) * probe).sum(), features)
    rois = torch.cat((targets.image[:, None].float(), targets.boxes), dim=1)
    total = torch.zeros(())
    for level, (feature, stride) in enumerate(zip(features, scene.strides, strict=True)):
        theirs = roi_align(feature, rois, 7, spatial_scale=1 / stride, sampling_ratio=2, aligned=True)
        total = total + (theirs.flatten(2).transpose(1, 2) * probe[:, level]).sum()
    for mine, yours in zip(ours, torch.autograd.grad(total, features), strict=True):
        torch.testing.assert_close(mine, yours, rtol=1e-4, atol=1e-4)


@given(scenes(), st.sampled_from([1, 3, 7, 14]))
@settings(max_examples=20)
def test_roi_pool_equals_torchvision_with_its_gradient(scene, side):
    targets, features = scene.targets(), scene.predictions().features
    ours = roi_pool_levels(features, scene.grid, targets.boxes, targets.image, side)
    rois = torch.cat((targets.image[:, None].float(), targets.boxes), dim=1)
    levels = zip(features, scene.strides, strict=True)
    theirs = torch.stack([roi_pool(f, rois, side, 1 / s).flatten(2).transpose(1, 2) for f, s in levels], dim=1)
    assert torch.equal(ours, theirs)
    if targets.num_boxes:
        for mine, yours in zip(
            torch.autograd.grad(ours.square().sum(), features), torch.autograd.grad(theirs.square().sum(), features),
            strict=True,
        ):  # fmt: skip
            torch.testing.assert_close(mine, yours, rtol=1e-4, atol=1e-3)


@given(scenes(min_boxes=1))
@settings(max_examples=5)
def test_the_mean_leaves_nothing_of_where(scene):
    targets, features = scene.targets(), scene.predictions().features
    rows = Rows.all(targets, scene.grid.num_levels)
    mean = box_features(features, scene.grid, rows, 7, 2, "roi_align_mean")
    assert mean.shape == (targets.num_boxes * len(features), 1, CHANNELS)
    mirrored = box_features(features, scene.grid, rows, 7, 2, "roi_align").flip(1).mean(dim=1, keepdim=True)
    torch.testing.assert_close(mean, mirrored)
