"""CenterNet against brute force over all locations and classes, and the invariants of its rule."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch.nn import functional as F

from assigners.ops.segments import consecutive
from detector.loss import LossSettings, detection_losses
from harness.verify.published.oracles import centernet
from tests.assigners.common import build, rows, run
from tests.assigners.images import one_image
from tests.support.rounding import assert_close_in_ulps
from tests.support.strategies import Scene, scenes

OPTIONS = st.sampled_from([{}, {"beta": 0.0}, {"beta": 1.5, "min_overlap": 0.5}, {"min_radius": 12.0}])
SMALL = {"max_images": 2, "max_boxes": 8, "sides": (128, 256)}
NEGLIGIBLE = 4.1e-4  # 1 - (1 - Y)^4 where Y counts as 0


@dataclass(frozen=True)
class Maps:
    """What the product asks for: positives and weights ``[B, R, C]``, and the slot of the box regressed ``[B, R]``."""

    positive: np.ndarray
    weight: np.ndarray
    regressed: np.ndarray


def answer(scene: Scene, **options: object) -> Maps:
    result, targets = run(build("centernet", scene, **options), scene), scene.targets()
    s, shape = result.samples, (scene.num_images, scene.grid.num_locations, scene.num_classes)
    assert s.location is not None
    assert (result.negative_weight == 1).all()
    positive, weight, spoken = np.zeros(shape, bool), np.ones(shape), np.zeros(shape, int)
    regressed = np.full(shape[:2], -1)
    for k in torch.nonzero(s.ok).flatten().tolist():
        gt = int(s.gt[k])
        place = int(targets.image[gt]), int(s.location[k])
        channel = (*place, int(targets.labels[gt]))
        assert (float(s.label[k]), float(s.quality_weight[k])) == ((1, 1) if s.positive[k] else (0, 0))
        positive[channel] |= bool(s.positive[k])
        # The samples of a location speak in place of the grid: their weights of one class add up.
        weight[channel] = (weight[channel] if spoken[channel] else 0) + float(s.class_weight[k])
        spoken[channel] += 1
        if s.box_weight[k] > 0:
            assert regressed[place] == -1, "two boxes share a location"
            assert s.box_weight[k] == 1
            regressed[place] = int(targets.slot[gt])
    return Maps(positive, weight, regressed)


def oracle(scene: Scene, image: int, **options) -> centernet.Maps:
    return centernet.examine(
        scene.points, scene.boxes[image].astype(np.float64), scene.labels[image].tolist(), scene.num_classes,
        offset=scene.offset, **options,
    )  # fmt: skip


def identity(scene: Scene, image: int, slots):
    """Boxes by what they are: two equal ones may stand for each other."""
    kinds = [
        (*box, label) for box, label in zip(scene.boxes[image].tolist(), scene.labels[image].tolist(), strict=True)
    ]
    return [None if slot < 0 else kinds[slot] for slot in slots.tolist()]


def assert_equal(scene: Scene, ours: Maps, **options) -> None:
    for image in range(scene.num_images):
        theirs = oracle(scene, image, **options)
        np.testing.assert_array_equal(ours.positive[image], theirs.positive)
        firm = ~theirs.unsure
        assert firm.mean() > 0.9
        np.testing.assert_allclose(ours.weight[image][firm], theirs.weight[firm], atol=1e-5)
        mine, yours = (identity(scene, image, slots[firm]) for slots in (ours.regressed[image], theirs.regressed))
        assert mine == yours


@given(scenes(**SMALL), OPTIONS)
def test_equals_brute_force(scene, options):
    assert_equal(scene, answer(scene, **options), **options)


@given(scenes(max_images=1, max_boxes=5, sides=(128,)), st.sampled_from([0.0, 0.25]))
def test_the_grid_alone_owns_the_offset(scene, offset):
    scene = replace(scene, offset=offset)
    assert_equal(scene, answer(scene))


@given(scenes(max_images=1, max_boxes=5, sides=(128,)), st.sampled_from([(8,), (16, 24, 40), (4, 8, 16, 32)]))
def test_any_pyramid(scene, strides):
    scene = replace(scene, strides=strides)
    assert_equal(scene, answer(scene))


@given(scenes())
def test_one_positive_per_box_and_level_nearest_to_its_centre(scene):
    table, strides = rows(run(build("centernet", scene), scene)), np.array(scene.strides)
    boxes = np.concatenate(scene.boxes).astype(np.float64)
    positives = table[table[:, 4] == 1]
    _, counts = np.unique(positives[:, :2], axis=0, return_counts=True)
    assert (counts == 1).all()
    box, stride = boxes[positives[:, 0].astype(int)], strides[positives[:, 1].astype(int), None]
    away = (positives[:, 2:4] + 0.5) * stride - (box[:, :2] + box[:, 2:]) / 2
    assert (np.abs(away) <= stride / 2).all()


@given(scenes())
def test_at_most_nine_places_per_box_and_level_learn_its_sides(scene):
    table = rows(run(build("centernet", scene), scene))
    learns = table[table[:, 7] > 0]
    _, counts = np.unique(learns[:, :2], axis=0, return_counts=True)
    assert (counts <= 9).all()
    assert (table[:, 5:9] <= 1).all()


@given(scenes(**SMALL), st.sampled_from([(1.0, 4.0), (2.0, 8.0)]))
def test_a_larger_beta_weakens_negatives_and_moves_nothing(scene, betas):
    weak, strong = (answer(scene, beta=beta) for beta in betas)
    np.testing.assert_array_equal(weak.positive, strong.positive)
    np.testing.assert_array_equal(weak.regressed, strong.regressed)
    assert (strong.weight <= weak.weight + 1e-6).all()


@given(scenes(**SMALL))
def test_without_beta_all_negatives_weigh_one(scene):
    assert (answer(scene, beta=0.0).weight == 1).all()


@given(scenes(max_images=1, min_boxes=1, max_boxes=5, sides=(128, 256)))
def test_only_the_classes_of_boxes_that_hold_a_location_are_weakened(scene):
    weight = answer(scene).weight[0]
    for r, c in np.argwhere(weight < 1 - NEGLIGIBLE).tolist():
        boxes = scene.boxes[0][scene.labels[0] == c]
        x, y = scene.points.xy[r]
        assert ((boxes[:, :2] < [x, y]) & (boxes[:, 2:] > [x, y])).all(axis=1).any()


@given(scenes(max_images=1, max_boxes=6))
def test_mirror_image(scene):
    width, boxes = scene.canvas[1], scene.boxes[0]
    centers = (boxes[:, 0] + boxes[:, 2]) / 2
    assume((centers % 8 != 0).all())  # on the edge of a cell the centre belongs to the right one
    assume(not oracle(scene, 0).unsure.any())
    flipped = np.stack((width - boxes[:, 2], boxes[:, 1], width - boxes[:, 0], boxes[:, 3]), axis=1)
    plain, mirrored = answer(scene), answer(replace(scene, boxes=(flipped,)))
    for (height, columns), start in zip(scene.shapes, scene.grid.starts, strict=True):
        level = slice(start, start + height * columns)
        for name, atol in (("positive", 0), ("weight", 1e-6)):
            left, right = (getattr(maps, name)[0, level].reshape(height, columns, -1) for maps in (plain, mirrored))
            np.testing.assert_allclose(left, right[:, ::-1], rtol=0, atol=atol)


@given(scenes(max_images=1, min_boxes=1, max_boxes=6, sides=(128, 256)))
def test_a_duplicate_box_changes_no_class(scene):
    boxes, labels = scene.boxes[0], scene.labels[0]
    twice = replace(scene, boxes=(np.concatenate((boxes, boxes[:1])),), labels=(np.append(labels, labels[0]),))
    a, b = answer(scene), answer(twice)
    np.testing.assert_array_equal(a.positive, b.positive)
    assert_close_in_ulps(a.weight, b.weight, size=1.0)  # of 1 - exp(-distance)
    np.testing.assert_array_equal(a.regressed >= 0, b.regressed >= 0)


def test_boxes_of_two_classes_share_their_centre():
    maps = answer(one_image([[64, 64, 128, 128], [56, 56, 136, 136]], labels=[1, 3]))
    both = maps.positive[0, :, 1] & maps.positive[0, :, 3]
    assert both.any()
    assert (maps.weight[0, both] == 1).all()
    assert (maps.positive[0].any(axis=1) <= (maps.regressed[0] >= 0)).all()


def test_a_large_box_weakens_the_fine_levels_where_it_has_no_positive():
    scene = one_image([[20, 20, 220, 220]])
    maps, level = answer(scene), scene.points.level
    assert not maps.positive[0, level == 0].any()
    assert maps.weight[0, level == 0, 0].min() < 1e-3
    assert (maps.weight[0, level == 0, 1] == 1).all()


def test_a_flat_box_learns_its_sides_where_its_gaussian_is_faint():
    """The neighbours of the centre cell are far away in radii: their weight as negatives stays 1, and is not lost."""
    scene = one_image([[0, 108, 256, 124]])
    maps = answer(scene)
    faint = (maps.regressed[0] >= 0) & ~maps.positive[0].any(axis=1) & (maps.weight[0, :, 0] > 1 - NEGLIGIBLE)
    assert faint.any()


def test_the_loss_is_the_heatmap_loss():
    """Negatives of all channels with their weights and positives at the centres: the focal loss of the paper."""
    scene = one_image([[64, 64, 128, 128], [56, 60, 140, 150], [10, 200, 60, 240]], labels=[1, 1, 3])
    targets, predictions, assigner = scene.targets(), scene.predictions(), build("centernet", scene)
    assignment = assigner(scene.grid, targets, predictions, scene.step())
    losses, _ = detection_losses(LossSettings(), scene.grid, targets, predictions, assignment)
    theirs, z = oracle(scene, 0), predictions.logits[0].double()
    positive, weight = torch.from_numpy(theirs.positive), torch.from_numpy(theirs.weight)
    positives = 0.25 * torch.sigmoid(-z) ** 2 * F.softplus(-z)
    negatives = 0.75 * torch.sigmoid(z) ** 2 * F.softplus(z)
    expected = torch.where(positive, positives, weight * negatives).sum() / positive.sum()
    assert losses["class"].item() == pytest.approx(expected.item(), rel=1e-3)


@given(st.lists(st.integers(0, 6), max_size=12))
def test_consecutive_numbers(keys):
    numbers = consecutive(torch.tensor(keys, dtype=torch.long)).tolist()
    assert numbers == [sorted(set(keys)).index(key) for key in keys]


@pytest.mark.parametrize("options", [{"beta": -1.0}, {"min_overlap": 1.0}, {"min_overlap": -0.1}, {"min_radius": 0.0}])
def test_bad_options(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        build("centernet", one_image([]), **options)
