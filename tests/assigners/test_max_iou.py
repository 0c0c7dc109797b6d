"""Max-IoU matching by windows and pairs against brute force over all anchors, and the invariants of its rule."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from assigners.grid import Grid
from assigners.ops.boxes import aligned_iou, square_anchors
from assigners.rules.max_iou import most_overlapping, overlapping_range
from harness.verify.published.oracles import max_iou
from harness.verify.published.oracles.geometry import sides
from tests.assigners.common import assigned, build, expect_classes_to_stay, expect_mirrored, rows, run
from tests.assigners.images import one_image
from tests.support.strategies import Scene, scenes
from tests.verify import test_oracles as golden

ROUNDING = 1e-6  # of IoU
BACKGROUND, IGNORED = max_iou.BACKGROUND, max_iou.IGNORED
SMALL = {"max_images": 2, "max_boxes": 8, "sides": (128, 256)}
OPTIONS = st.sampled_from([{}, {"pos_iou": 0.6, "neg_iou": 0.25}, {"low_quality": False}, {"pos_iou": 0.4}])


def answer(scene: Scene, **options: object):
    """Slot of the box that each location learns ``[B, R]``, -1 where negative, -2 where ignored."""
    result = run(build("max_iou", scene, **options), scene)
    learnt, negative = assigned(result, scene.targets(), scene), result.negative_weight.numpy()
    assert set(np.unique(negative)) <= {0.0, 1.0}
    assert (negative[learnt >= 0] == 1).all(), "the other classes are negatives where one is learnt"
    return np.where((learnt == BACKGROUND) & (negative == 0), IGNORED, learnt)


def oracle(scene: Scene, image: int, pos_iou: float = 0.5, neg_iou: float = 0.4, low_quality: bool = True):
    return max_iou.assign(
        scene.points, scene.boxes[image].astype(np.float64), scene.labels[image].tolist(),
        pos=pos_iou, neg=neg_iou, low_quality=low_quality,
    )  # fmt: skip


def table(scene: Scene, image: int = 0):
    return max_iou.table_of(scene.points, scene.boxes[image].astype(np.float64))


def fragile(scene: Scene, image: int, thresholds: tuple[float, ...]):
    """Locations ``[R]`` with an overlap near a threshold, or nearly but not exactly tied with another one."""
    ious = table(scene, image)
    if ious.shape[1] == 0:
        return np.zeros(len(ious), dtype=bool)

    def near(a, b):
        return (a != b) & (np.abs(a - b) < ROUNDING)

    unsure = near(ious, ious.max(axis=0)).any(axis=1)
    for threshold in thresholds:
        unsure |= (np.abs(ious - threshold) < ROUNDING).any(axis=1)
    return unsure | near(ious[:, :, None], ious[:, None]).any(axis=(1, 2))


@given(scenes(**SMALL), OPTIONS)
def test_equals_brute_force(scene, options):
    ours = answer(scene, **options)
    for image in range(scene.num_images):
        wrong = ours[image] != oracle(scene, image, **options)
        if wrong.any():
            wrong &= ~fragile(scene, image, (options.get("pos_iou", 0.5), options.get("neg_iou", 0.4)))
        assert not wrong.any()


@given(scenes(max_images=1, max_boxes=5, sides=(128,)), st.sampled_from([0.0, 0.25]))
def test_the_grid_alone_owns_the_offset(scene, offset):
    scene = replace(scene, offset=offset)
    wrong = answer(scene)[0] != oracle(scene, 0)
    assert not (wrong & ~fragile(scene, 0, (0.5, 0.4))).any()


@pytest.mark.parametrize("name", golden.CASES)
def test_the_oracle_equals_the_peer(name):
    case = golden.load(name)
    theirs = case.arrays["mmdet_maxiou/assigned"].astype(np.int64)
    comparable = case.comparable("mmdet_maxiou")
    assert comparable.mean() > 0.95
    ours = max_iou.assign(case.points, case.boxes, case.labels, convention="mmdet")
    np.testing.assert_array_equal(ours[comparable], theirs[comparable])


def test_the_peers_have_ignored_locations():
    assert any((golden.load(name).arrays["mmdet_maxiou/assigned"] == IGNORED).any() for name in golden.CASES)


@given(scenes(**SMALL), st.floats(0.4, 0.9), st.floats(1.01, 1.1))
def test_a_higher_threshold_adds_no_positive(scene, pos, factor):
    low = answer(scene, pos_iou=pos, low_quality=False)
    high = answer(scene, pos_iou=pos * factor, low_quality=False)
    assert (low[high >= 0] >= 0).all()
    np.testing.assert_array_equal(low == BACKGROUND, high == BACKGROUND)


@given(scenes(**SMALL), st.floats(0.15, 0.45))
def test_a_lower_negative_threshold_ignores_more_and_touches_no_positive(scene, neg):
    some, more = answer(scene, neg_iou=0.45), answer(scene, neg_iou=neg)
    np.testing.assert_array_equal(some >= 0, more >= 0)
    assert (more[some == IGNORED] == IGNORED).all()


@given(scenes(max_images=1, max_boxes=8, sides=(128, 256)))
def test_low_quality_matches_take_nothing_from_the_rest(scene):
    """They add positives and ignored locations, and otherwise change owners alone."""
    plain, more = answer(scene, low_quality=False)[0], answer(scene)[0]
    assert (more[plain >= 0] >= 0).all()
    assert (more[plain == IGNORED] != BACKGROUND).all()


@given(scenes(max_images=1, min_boxes=1, max_boxes=8, sides=(128, 256)))
def test_a_box_that_holds_one_of_its_best_anchors_learns_unless_others_took_them(scene):
    ours, ious = answer(scene)[0], table(scene).astype(np.float32)
    firm = ~fragile(scene, 0, (0.5, 0.4))
    for g, box in enumerate(scene.boxes[0].astype(np.float64)):
        best = np.flatnonzero((ious[:, g] == ious[:, g].max()) & (ious[:, g] > 0) & firm)
        held = [r for r in best if min(sides(scene.points.xy[r], box)) > 0]
        assert all(ours[r] >= 0 for r in held)
        rivals = {int(ours[r]) for r in held} - {g}
        if held and not (ours == g).any():
            assert rivals
            assert all((ious[held, h] == ious[:, h].max()).any() for h in rivals)


@given(scenes(max_images=1, max_boxes=6, sides=(128, 256)))
def test_every_overlapped_location_is_positive_or_ignored(scene):
    ours, ious = answer(scene)[0], table(scene)
    most = ious.max(axis=1, initial=0)
    assert (ours[most >= 0.4 + ROUNDING] != BACKGROUND).all()
    claimed = (np.abs(ious - ious.max(axis=0, initial=0)) < ROUNDING).any(axis=1)
    assert (ours[(most < 0.4 - ROUNDING) & ~claimed] == BACKGROUND).all()


@given(scenes(max_images=1, max_boxes=5, sides=(128, 256)))
def test_mirror_image(scene):
    assume(not fragile(scene, 0, (0.5, 0.4)).any())
    expect_mirrored(scene, answer)


@given(scenes(max_images=1, min_boxes=1, max_boxes=6))
def test_a_duplicate_box_changes_no_class(scene):
    expect_classes_to_stay(scene, answer)


@given(scenes())
def test_hard_labels_of_weight_one(scene):
    assert (rows(run(build("max_iou", scene), scene))[:, 4:] == 1).all()


def test_a_tiny_box_has_the_anchors_that_hold_it():
    """16 px within the 64 px anchors of 6 x 6 points: 2 x 2 of these points lie in the box, the others are ignored."""
    scene = one_image([[64, 64, 80, 80]])
    ours = answer(scene)[0]
    assert (ours == 0).sum() == 4
    assert (ours == IGNORED).sum() == 32
    assert (answer(scene, low_quality=False) == BACKGROUND).all()


def test_a_flat_box_ignores_a_stripe():
    scene = one_image([[8, 96, 248, 104.5]])
    ours = answer(scene)[0]
    np.testing.assert_array_equal(ours, oracle(scene, 0))
    assert (ours == 0).sum() > 10
    assert (ours == IGNORED).sum() > 3 * (ours == 0).sum()


def test_a_location_outside_its_best_box_goes_to_one_that_holds_it():
    """Its anchor is mostly covered by the first box, which begins right of the point, and by the second one less."""
    scene = one_image([[37, 36, 68, 100], [2, 26, 90, 128]])
    here = int(np.flatnonzero((scene.points.xy == [36, 68]).all(axis=1))[0])
    first, second = table(scene)[here]
    assert first > second > 0.4
    assert answer(scene, pos_iou=0.4, low_quality=False)[0, here] == 1
    assert answer(scene, pos_iou=0.47, low_quality=False)[0, here] == IGNORED


@settings(max_examples=10)
@given(st.sampled_from([0.1, 0.2, 1 / 3, 0.4, 0.5, 0.8]), st.sampled_from([(8, 16, 32, 64), (8, 12), (16,)]), st.data())
def test_windows_hold_every_overlapping_anchor_and_no_more_than_promised(iou, strides, data):
    rng = np.random.default_rng(data.draw(st.integers(0, 999)))
    grid = Grid.build([(-(-512 // s), -(-640 // s)) for s in strides], strides)
    count = 200
    size = 64 * np.exp(rng.uniform(-2.5, 2.5, (count, 1)) + rng.uniform(-0.8, 0.8, (count, 2)))
    size[: count // 2] = np.round(size[: count // 2] / 8) * 8 + 1  # near the grid, where most fit in
    center = rng.uniform(0, (640, 512), (count, 2))
    center[: count // 4] = np.round(center[: count // 4] / 4) * 4
    boxes = torch.from_numpy(np.concatenate((center - size / 2, center + size / 2), axis=1)).float()
    first, last = overlapping_range(grid, boxes, iou)
    cells = (last - first).prod(dim=-1)
    assert (last >= first).all()
    assert cells.sum(dim=1).max() <= most_overlapping(iou, strides)
    level, uv = grid.map_coordinates(torch.arange(grid.num_locations))
    overlap = aligned_iou(square_anchors(grid.points, grid.stride), boxes[:, None])  # [G, R]
    held = ((uv >= first[:, level]) & (uv < last[:, level])).all(dim=-1)
    assert (overlap >= iou).any()
    assert not ((overlap >= iou) & ~held).any()


@pytest.mark.parametrize(
    "options", [{"pos_iou": 0.3}, {"neg_iou": 0.6}, {"pos_iou": 1.5}, {"neg_iou": 0.0}, {"pos_iou": -1, "neg_iou": -2}]
)
def test_bad_thresholds(options):
    with pytest.raises(ValueError, match="neg_iou <= pos_iou"):
        build("max_iou", one_image([]), **options)
