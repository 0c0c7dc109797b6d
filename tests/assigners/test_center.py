"""Center sampling against its oracle, and the invariants of the FCOS rule."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from harness.verify.published.oracles import fcos
from tests.assigners.common import assigned, build, expect_classes_to_stay, rows, run
from tests.assigners.images import one_image
from tests.support.strategies import Scene, scenes

RADII = st.sampled_from([0.0, 0.75, 1.5, 2.5])


def answer(scene: Scene, radius: float = 1.5):
    return assigned(run(build("center", scene, radius=radius), scene), scene.targets(), scene)


@given(scenes(), RADII)
def test_equals_the_oracle(scene, radius):
    ours = answer(scene, radius)
    for image in range(scene.num_images):
        boxes, labels = scene.boxes[image].astype(np.float64), scene.labels[image].tolist()
        theirs = fcos.assign(scene.points, boxes, labels, radius=radius)
        np.testing.assert_array_equal(ours[image], theirs)


@given(scenes(max_images=1), st.sampled_from([0.0, 0.25]))
def test_the_grid_alone_owns_the_offset(scene, offset):
    scene = replace(scene, offset=offset)
    theirs = fcos.assign(scene.points, scene.boxes[0].astype(np.float64), scene.labels[0].tolist())
    np.testing.assert_array_equal(answer(scene)[0], theirs)


@given(scenes())
def test_at_most_nine_per_box_and_level_and_all_else_negative(scene):
    result = run(build("center", scene), scene)
    table = rows(result)
    _, counts = np.unique(table[:, :2], axis=0, return_counts=True)
    assert (counts <= 9).all()
    assert (table[:, 4:] == 1).all()
    assert (result.negative_weight == 1).all()


@given(scenes(), st.floats(0.5, 4))
def test_a_larger_radius_keeps_every_positive_location(scene, radius):
    near, wide = answer(scene, radius), answer(scene, radius * 1.5)
    assert (wide[near >= 0] >= 0).all()


@given(scenes())
def test_a_radius_beyond_the_map_is_no_center_sampling(scene):
    np.testing.assert_array_equal(answer(scene, 49.0), answer(scene, 0.0))


@given(scenes(), RADII)
def test_mirror_image(scene, radius):
    width = scene.canvas[1]
    assume(all(len({tuple(b) for b in boxes}) == len(boxes) for boxes in scene.boxes))
    # Boxes of one area are told apart by their place, which the mirror changes.
    areas = [np.prod(boxes[:, 2:] - boxes[:, :2], axis=1) for boxes in scene.boxes]
    assume(all(len(np.unique(a)) == len(a) for a in areas))
    flipped = replace(
        scene, boxes=tuple((width - b[:, [2, 1, 0, 3]]) * [1, 0, 1, 0] + b * [0, 1, 0, 1] for b in scene.boxes)
    )
    flipped = replace(flipped, boxes=tuple(b.astype(np.float32) for b in flipped.boxes))
    plain, mirrored = answer(scene, radius), answer(flipped, radius)
    for (rows_, columns), start in zip(scene.shapes, scene.grid.starts, strict=True):
        level = slice(start, start + rows_ * columns)
        left = plain[:, level].reshape(-1, rows_, columns)
        right = mirrored[:, level].reshape(-1, rows_, columns)
        np.testing.assert_array_equal(left, right[:, :, ::-1])


@given(scenes(max_images=1, max_boxes=6), st.integers(0, 2), st.integers(0, 2), RADII)
def test_translation_by_the_coarsest_cell(scene, right, down, radius):
    canvas = (1024, 1024)
    here = replace(scene, canvas=canvas, sizes=(canvas,), boxes=(scene.boxes[0] + 256,))
    shift = np.array([right, down, right, down], dtype=np.float32) * 128
    there = replace(here, boxes=(here.boxes[0] + shift,))
    a, b = (
        rows(run(build("center", here, radius=radius), here)),
        rows(run(build("center", there, radius=radius), there)),
    )
    stride = np.array(here.strides)[a[:, 1].astype(int)]
    a[:, 2] += right * 128 / stride
    a[:, 3] += down * 128 / stride
    np.testing.assert_array_equal(a, b)


@given(scenes(max_images=1, max_boxes=6, sides=(128,)))
def test_a_box_far_away_changes_nothing(scene):
    here = replace(scene, canvas=(128, 384), sizes=((128, 384),))
    far = np.array([[250, 20, 370, 100]], dtype=np.float32)
    more = replace(here, boxes=(np.concatenate((here.boxes[0], far)),), labels=(np.append(here.labels[0], 2),))
    a, b = answer(here), answer(more)
    b[b == len(here.boxes[0])] = -1
    np.testing.assert_array_equal(a, b)


@given(scenes(max_images=1, min_boxes=1, max_boxes=6))
def test_a_duplicate_box_changes_no_class(scene):
    expect_classes_to_stay(scene, answer)


def test_a_reach_of_exactly_64_px_belongs_to_one_level():
    """P3 has it here; the authors' ranges give it to P3 and P4, torchvision's to neither."""
    scene = one_image([[52, 56, 132, 136]])
    ours = answer(scene, radius=0.0)[0]
    kinds = {
        c: fcos.assign(scene.points, scene.boxes[0], radius=0.0, convention=c)
        for c in ("half_open", "inclusive", "strict")
    }
    np.testing.assert_array_equal(ours, kinds["half_open"])
    assert (kinds["inclusive"] >= 0).sum() > (ours >= 0).sum() > (kinds["strict"] >= 0).sum()


def test_areas_are_told_apart_below_eight_square_pixels():
    """Larger box first, 0.125 px taller: ``1e8 - area`` in float32 would call it a tie."""
    scene = one_image([[40, 40, 80, 80.125], [40, 40, 80, 80]])
    assert set(answer(scene)[0].tolist()) == {-1, 1}


def test_the_smallest_box_wins_and_equal_areas_go_by_coordinates():
    scene = one_image([[40, 40, 104, 72], [40, 40, 72, 104]], labels=[0, 1])
    other = one_image([[40, 40, 72, 104], [40, 40, 104, 72]], labels=[1, 0])
    a, b = answer(scene, 0.0)[0], answer(other, 0.0)[0]
    shared = scene.grid.points.numpy()[:, 0] < 72
    assert (a[(a >= 0) & shared & (b >= 0)] != 0).any()
    np.testing.assert_array_equal(np.where(a >= 0, 1 - a, -1), b)


def test_a_large_flat_box_has_no_positive():
    """The rule's blind spot: its reach asks for P6 and P7, where no location lies inside."""
    assert (answer(one_image([[4, 70, 1020, 80]], size=(256, 1024))) == -1).all()


def test_bad_radius():
    with pytest.raises(ValueError, match="radius"):
        build("center", one_image([]), radius=-1.0)
