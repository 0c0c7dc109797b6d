"""RFLA by windows against brute force over all locations, and the invariants of its rule."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from assigners.rules.rfla import receptive_field
from harness.verify.published.oracles import rfla
from tests.assigners.common import assigned, build, rows, run
from tests.assigners.images import one_image
from tests.support.strategies import Scene, scenes

ROUNDING = 1e-5


def answer(scene: Scene, **options: object) -> np.ndarray:
    return assigned(run(build("rfla", scene, **options), scene), scene.targets(), scene)


def decided_by_rounding(scene: Scene, image: int, topk: int, supplement: int, decay: float) -> bool:
    """Is a divergence so near another, though not equal, that float32 may order them otherwise?"""
    for count, scale in ((topk, 1.0), (supplement, decay)):
        distances = rfla.table(scene.points, scene.boxes[image].astype(np.float64), scale)
        for table, most in ((distances.T, count), (distances, 1)):  # places of a box, boxes of a place
            ordered = np.sort(table, axis=1)
            low, high = ordered[:, :-1][:, :most], ordered[:, 1:][:, :most]
            finite = np.isfinite(high)
            gap = np.subtract(high, low, where=finite, out=np.full_like(high, np.inf)) / (1 + np.where(finite, low, 0))
            if ((gap > 1e-12) & (gap < ROUNDING)).any():
                return True
    return False


@given(
    scenes(sides=(128, 256), max_images=2, max_boxes=8), st.sampled_from([1, 2, 3, 4, 6]), st.sampled_from([0, 1, 3]),
    st.sampled_from([0.9, 0.5]),
)  # fmt: skip
def test_equals_brute_force(scene, topk, supplement, decay):
    options = {"topk": topk, "supplement": supplement, "decay": decay}
    ours = answer(scene, **options)
    for image in range(scene.num_images):
        if not len(scene.boxes[image]) or decided_by_rounding(scene, image, topk, supplement, decay):
            continue
        boxes, labels = scene.boxes[image].astype(np.float64), scene.labels[image].tolist()
        np.testing.assert_array_equal(ours[image], rfla.assign(scene.points, boxes, labels, **options))


@pytest.mark.parametrize("box", [[0, 0, 1, 120], [3, 4, 250, 9], [100, 0, 102, 256], [0.5, 0.5, 255, 255]])
@pytest.mark.parametrize("topk", [1, 2, 3, 5, 9])
def test_flat_boxes_find_the_same_in_the_window(box, topk):
    """The nearest places of a flat box lie along its long side, far beyond a round neighbourhood."""
    scene = one_image([box])
    theirs = rfla.assign(scene.points, np.array([box], dtype=np.float64), [0], topk=topk)
    np.testing.assert_array_equal(answer(scene, topk=topk)[0], theirs)


@given(scenes())
@settings(max_examples=10)
def test_few_hard_positives(scene):
    result = run(build("rfla", scene), scene)
    table = rows(result)
    assert (table[:, 4:] == 1).all()
    assert (result.negative_weight == 1).all()
    _, counts = np.unique(table[:, 0], return_counts=True)
    assert (counts <= 4).all()


@given(scenes(max_images=1, min_boxes=1, max_boxes=1, sides=(128, 256)))
@settings(max_examples=15)
def test_a_box_alone_gets_its_nearest(scene):
    box = scene.boxes[0][0]
    held = sum(min(p - box[:2]) > 0 and min(box[2:] - p) > 0 for p in scene.points.xy)
    assert (answer(scene, supplement=0) == 0).sum() == min(3, held)
    assert min(3, held) <= (answer(scene) == 0).sum() <= min(4, held)


@given(scenes(max_images=1, min_boxes=2, max_boxes=8))
@settings(max_examples=10)
def test_the_second_round_takes_nothing_away(scene):
    first, both = answer(scene, supplement=0)[0], answer(scene, supplement=3)[0]
    np.testing.assert_array_equal(both[first >= 0], first[first >= 0])


def test_larger_boxes_learn_on_coarser_levels():
    levels = []
    for side in (24, 90, 240, 500):
        low = 256 - side / 2 + 3.5
        scene = one_image([[low, low, low + side, low + side]], size=(512, 512))
        levels.append(scene.points.level[np.flatnonzero(answer(scene, topk=1, supplement=0)[0] == 0)].max())
    assert levels == sorted(levels)
    assert levels[0] == 0
    assert levels[-1] > levels[0]


def test_a_shared_place_goes_to_the_box_it_fits_best():
    """Both boxes are centred on one location; the field of its level is 45.5 px wide."""
    point = np.array([36.0, 36.0])
    boxes = [[*(point - r), *(point + r)] for r in (30.0, 22.0)]
    scene = one_image(boxes, size=(128, 128))
    place = int(np.flatnonzero((scene.points.xy == point).all(axis=1))[0])
    assert answer(scene, topk=1, supplement=0)[0][place] == 1


def test_two_equal_boxes_share_one_set_of_places():
    scene = one_image([[20, 20, 90, 80]] * 2, labels=[1, 1])
    alone = answer(one_image([[20, 20, 90, 80]]))[0]
    np.testing.assert_array_equal(answer(scene)[0] >= 0, alone >= 0)


def test_a_box_between_the_points_gets_none():
    assert (answer(one_image([[12.5, 12.5, 15.5, 15.5]])) == -1).all()


def test_receptive_fields():
    assert [receptive_field(stride) for stride in (4, 8, 16, 32, 64, 128, 256)] == list(rfla.FIELDS.values())
    assigner = build("rfla", one_image([]), fraction=0.25)
    torch.testing.assert_close(assigner.widths, torch.tensor([91, 267, 427, 555, 811]) / 4)


@pytest.mark.parametrize("option", [{"topk": 0}, {"supplement": -1}, {"decay": 0.0}, {"decay": 1.5}, {"fraction": 0.0}])
def test_bad_options(option):
    with pytest.raises(ValueError, match=next(iter(option))):
        build("rfla", one_image([]), **option)


@pytest.mark.parametrize("strides", [(2, 4), (8, 24)])
def test_unknown_strides(strides):
    with pytest.raises(ValueError, match="powers of two"):
        build("rfla", replace(one_image([]), strides=strides))
