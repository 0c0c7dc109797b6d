"""ATSS by windows against brute force over all locations, and the invariants of its rule."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from harness.verify.published.oracles import atss
from tests.assigners.common import assigned, build, expect_classes_to_stay, expect_mirrored, rows, run
from tests.assigners.images import one_image
from tests.support.strategies import Scene, scenes

ROUNDING = 1e-5  # of IoU


def answer(scene: Scene, **options: object):
    return assigned(run(build("atss", scene, **options), scene), scene.targets(), scene)


def fragile(scene: Scene, image: int, topk: int) -> set[int]:
    """Locations of boxes with an IoU so near their threshold that float32 may decide otherwise."""
    found: set[int] = set()
    for box in scene.boxes[image].astype(np.float64):
        result = atss.examine(scene.points, box, topk=topk)
        if result.margin() < ROUNDING:
            found.update(result.candidates)
    return found


def disagreements(scene: Scene, ours, **options) -> set[int]:
    wrong: set[int] = set()
    for image in range(scene.num_images):
        boxes, labels = scene.boxes[image].astype(np.float64), scene.labels[image].tolist()
        theirs = atss.assign(scene.points, boxes, labels, **options)
        here = set(np.flatnonzero(ours[image] != theirs).tolist())
        wrong |= here - (fragile(scene, image, options.get("topk", 9)) if here else set())
    return wrong


@given(scenes(), st.sampled_from([1, 4, 9, 15]))
def test_equals_brute_force(scene, topk):
    assert not disagreements(scene, answer(scene, topk=topk), topk=topk)


@given(scenes(), st.sampled_from([4, 9]))
def test_fallback_equals_brute_force(scene, topk):
    ours = answer(scene, topk=topk, fallback_max=True)
    assert not disagreements(scene, ours, topk=topk, fallback_max=True)


@given(st.integers(1, 6), st.integers(1, 40), st.booleans(), st.integers(0, 999))
def test_narrow_maps(short, long, upright, seed):
    """Windows on maps thinner than the window: strips of a few cells."""
    sides = (short * 8, long * 8) if upright else (long * 8, short * 8)
    rng = np.random.default_rng(seed)
    corner = rng.uniform(0, 1, (3, 2)) * (np.array(sides[::-1]) - 4)
    boxes = np.concatenate((corner, np.minimum(corner + rng.uniform(2, 90, (3, 2)), sides[::-1])), axis=1)
    boxes = (np.round(boxes * 8) / 8).astype(np.float32)
    boxes[:, 2:] = np.maximum(boxes[:, 2:], boxes[:, :2] + 1)
    scene = Scene(
        boxes=(boxes,),
        labels=(np.array([0, 1, 2]),),
        sizes=(sides,),
        image_ids=(1,),
        canvas=sides,
        seed=0,
        strides=(8, 16),
    )
    assert not disagreements(scene, answer(scene))


@given(scenes())
def test_counts_and_weights(scene):
    result = run(build("atss", scene), scene)
    table = rows(result)
    _, counts = np.unique(table[:, :2], axis=0, return_counts=True)
    assert (counts <= 9).all()
    assert (table[:, 4:] == 1).all()
    assert (result.negative_weight == 1).all()


@given(scenes(max_images=1))
def test_positives_overlap_more_than_the_mean(scene):
    ours = answer(scene)[0]
    for index, box in enumerate(scene.boxes[0].astype(np.float64)):
        result = atss.examine(scene.points, box)
        mean = np.mean(result.ious)
        overlap = dict(zip(result.candidates, result.ious, strict=True))
        for location in np.flatnonzero(ours == index):
            assert location in overlap
            assert overlap[location] >= mean - ROUNDING


@given(scenes(max_images=1, max_boxes=6), st.integers(0, 2), st.integers(0, 2))
def test_translation_by_the_coarsest_cell(scene, right, down):
    canvas = (1408, 1408)
    here = replace(scene, canvas=canvas, sizes=(canvas,), boxes=(scene.boxes[0] + 512,))
    shift = np.array([right, down, right, down], dtype=np.float32) * 128
    there = replace(here, boxes=(here.boxes[0] + shift,))
    a, b = rows(run(build("atss", here), here)), rows(run(build("atss", there), there))
    stride = np.array(here.strides)[a[:, 1].astype(int)]
    a[:, 2] += right * 128 / stride
    a[:, 3] += down * 128 / stride
    np.testing.assert_array_equal(a, b)


@given(scenes(max_images=1, max_boxes=5))
def test_mirror_image(scene):
    results = [atss.examine(scene.points, box) for box in scene.boxes[0].astype(np.float64)]
    # Equidistant cells go by index and equal overlaps by place; the mirror changes both.
    assume(not any(r.tied or r.margin() < ROUNDING for r in results))
    expect_mirrored(scene, answer)


@given(scenes(max_images=1, min_boxes=1, max_boxes=6))
def test_a_duplicate_box_changes_no_class(scene):
    expect_classes_to_stay(scene, answer)


def test_fallback_serves_boxes_that_the_rule_leaves_empty():
    rng = np.random.default_rng(3)
    corner = rng.uniform(0, 100, (300, 2))
    boxes = np.concatenate((corner, corner + rng.uniform((8, 2), (150, 7), (300, 2))), axis=1)
    empty = with_fallback = 0
    for box in np.round(boxes * 8) / 8:
        scene = one_image([box])
        result = atss.examine(scene.points, box)
        if not result.positives and any(result.inside):
            empty += 1
            assert (answer(scene) == -1).all()
            with_fallback += int((answer(scene, fallback_max=True) == 0).sum() == 1)
        if empty == 5:
            break
    assert empty > 0
    assert with_fallback == empty


def test_one_candidate_in_all_has_no_spread():
    """The unbiased deviation of one value is not a number; the box is still learnt."""
    scene = replace(one_image([[10, 20, 100, 110]], size=(128, 128)), strides=(128,))
    assert (answer(scene)[0] == [0]).all()


def test_bad_topk():
    with pytest.raises(ValueError, match="topk"):
        build("atss", one_image([]), topk=0)
