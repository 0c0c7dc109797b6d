"""The types of the contract: what their constructors make, and what is written once for all rules."""

from __future__ import annotations

import ast
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given

from assigners.contract import HeadInfo, Samples, Step, Targets
from assigners.grid import Grid, count_inside
from assigners.parts.candidates import box_levels
from assigners.registry import catalogue, create, load
from tests.support.strategies import scenes

REPOSITORY = Path(__file__).resolve().parents[2]
GRID = Grid.build([(4, 6), (2, 3)], [8, 16])  # 32 x 48 px
READERS = [entry.name for entry in catalogue() if load(entry.name).needs.predictions]


def at_locations() -> Samples:
    """Two samples and a dummy whose location means nothing."""
    return Samples.at_locations(
        GRID, torch.tensor([7, 999, 27]), torch.tensor([1, 0, 0]), torch.tensor([True, False, True])
    )


def test_samples_at_locations_carry_them_and_dummies_lie_on_the_first():
    samples = at_locations()
    assert samples.on_grid
    assert samples.location.tolist() == [7, 0, 27]
    assert samples.level.tolist() == [0, 0, 1]
    assert samples.uv.tolist() == [[1, 1], [0, 0], [0, 1]]
    for name in ("label", "class_weight", "box_weight", "quality_weight"):
        assert getattr(samples, name).tolist() == [1, 0, 1]
    between = replace(samples, uv=samples.uv + 0.5, location=None)
    assert not between.on_grid


def test_samples_at_locations_take_what_is_not_hard_by_name():
    location, gt, ok = (
        torch.tensor([[7, 27], [3, 0]]),
        torch.tensor([[0], [1]]),
        torch.tensor([[True, True], [True, False]]),
    )
    label = torch.tensor([[0.5, 0.25], [1, 0]])
    samples = Samples.at_locations(GRID, location, gt, ok, label=label, box_weight=2 * label)
    assert samples.gt.tolist() == [0, 0, 1, 1]
    assert samples.label.tolist() == [0.5, 0.25, 1, 0]
    assert samples.box_weight.tolist() == [1, 0.5, 2, 0]
    assert samples.class_weight.tolist() == samples.quality_weight.tolist() == [1, 1, 1, 0]


@pytest.mark.parametrize("on_grid", [True, False])
def test_selected_samples_keep_everything_but_the_other_rows(on_grid):
    samples = replace(at_locations(), all_classes=True)
    samples = samples if on_grid else replace(samples, location=None)
    chosen = samples.select(samples.ok)
    assert chosen.all_classes
    assert chosen.on_grid == on_grid
    for field in fields(Samples):
        value = getattr(samples, field.name)
        if isinstance(value, torch.Tensor):
            assert torch.equal(getattr(chosen, field.name), value[[0, 2]])


def test_collated_boxes_are_clipped_counted_and_named():
    boxes = [torch.tensor([[-5.0, 2, 20, 50], [3, 3, 3.5, 20], [40, 0, 60, 9]]), torch.zeros(0), torch.ones(1, 4) * 30]
    boxes[2][0, 2:] = 48
    labels = [torch.tensor([2, 0, 1]), torch.zeros(0, dtype=torch.long), torch.tensor([3], dtype=torch.int32)]
    targets = Targets.collate(
        boxes, labels, GRID, sizes=[(32, 48), (32, 48), (30, 40)], image_ids=[9, 8, 7],
        ignore=[torch.ones(2, 4), torch.zeros(0, 4), torch.zeros(1, 4)],
    )  # fmt: skip
    assert targets.boxes.tolist() == [[0, 2, 20, 32], [40, 0, 48, 9]]
    assert targets.labels.tolist() == [2, 1]
    assert targets.image.tolist() == [0, 0]
    assert targets.slot.tolist() == [0, 1]
    assert targets.image_id.tolist() == [9, 8, 7]
    assert targets.ignore_image.tolist() == [0, 0, 2]
    assert targets.counts == (2, 0, 0)
    whole = [targets.labels, targets.image, targets.slot, targets.image_id, targets.ignore_image]
    assert {value.dtype for value in whole} == {torch.int64}


@pytest.mark.parametrize("images", [0, 2])
def test_a_batch_without_boxes_or_images_has_its_shapes(images):
    boxes, labels = [torch.zeros(0, 4)] * images, [torch.zeros(0, dtype=torch.long)] * images
    targets = Targets.collate(boxes, labels, GRID, sizes=[(32, 48)] * images)
    assert (targets.num_boxes, targets.num_images, targets.num_pairs) == (0, images, 0)
    assert targets.boxes.shape == targets.ignore.shape == (0, 4)
    assert targets.image_id.tolist() == list(range(images))
    for value in (targets.labels, targets.image, targets.slot, targets.ignore_image):
        assert (value.dtype, value.shape) == (torch.int64, (0,))


@pytest.mark.parametrize(
    ("boxes", "labels", "message"),
    [
        (torch.zeros(2, 5), torch.zeros(2), r"image 1: boxes must be \[n, 4\] with n labels, got \(2, 5\) and \(2,\)"),
        (torch.zeros(2, 4), torch.zeros(3), "image 1: boxes must be"),
        (torch.tensor([[0, 0, torch.nan, 9]]), torch.zeros(1), "image 1: boxes hold NaN or infinity"),
    ],
)
def test_boxes_that_cannot_be_are_refused_by_their_image(boxes, labels, message):
    with pytest.raises(ValueError, match=message):
        Targets.collate([torch.zeros(0, 4), boxes], [torch.zeros(0), labels], GRID, sizes=[(32, 48)] * 2)


@given(scenes())
def test_pairs_are_counted_as_brute_force_counts_them(scene):
    points, boxes = scene.grid.points.double().numpy(), scene.targets().boxes.double().numpy()
    held = ((points > boxes[:, None, :2]) & (points < boxes[:, None, 2:])).all(axis=2)
    levels = scene.grid.level.numpy()
    inside = [set(levels[row].tolist()) or {0} for row in held]
    targets = scene.targets()
    assert targets.num_pairs == np.count_nonzero(held)
    assert targets.num_box_levels == sum(map(len, inside))
    assert count_inside(scene.grid, targets.boxes) == (targets.num_pairs, targets.num_box_levels)
    expected = [box * scene.grid.num_levels + level for box, of in enumerate(inside) for level in sorted(of)]
    assert box_levels(scene.grid, targets).tolist() == expected


@pytest.mark.parametrize("name", READERS)
def test_who_needs_predictions_says_so_in_the_same_words(name):
    targets = Targets.collate([torch.tensor([[2.0, 3, 30, 29]])], [torch.zeros(1).long()], GRID, sizes=[(32, 48)])
    assigner = create(name, HeadInfo(2, 4, (8, 16)))
    with pytest.raises(ValueError, match=f"^{type(assigner).__name__} needs the detector's predictions"):
        assigner(GRID, targets, None, Step())


def test_the_flat_index_of_a_batch_is_written_once():
    found = [
        path.relative_to(REPOSITORY).as_posix()
        for package in ("assigners", "detector")
        for path in sorted((REPOSITORY / package).rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mult)
        for image, size in ((node.left, node.right), (node.right, node.left))
        if isinstance(size, ast.Attribute) and size.attr == "num_locations"
        if not (isinstance(image, ast.Attribute) and image.attr == "num_images")
    ]
    assert found == ["assigners/grid.py"]
