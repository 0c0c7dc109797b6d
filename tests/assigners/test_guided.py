"""Guided anchoring's targets of locations against brute force, by hand, and the invariants of their rule."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from assigners.contract import Declares, HeadInfo, Needs
from assigners.grid import Grid
from assigners.parts.candidates import cells_between, shrunk
from assigners.rules.guided import Guided
from harness.verify.published.oracles import guided
from harness.verify.published.oracles.geometry import area, sides
from tests.assigners.common import assigned, build, expect_classes_to_stay, expect_mirrored, rows, run
from tests.assigners.images import HARD, hard_images, one_image
from tests.support.strategies import Scene, scenes

BACKGROUND, IGNORED = guided.BACKGROUND, guided.IGNORED
SMALL = {"max_images": 2, "max_boxes": 8, "sides": (128, 256)}
SHARES = st.sampled_from([(0.2, 0.5), (0.2, 0.2), (0.5, 1.0), (1.0, 1.0), (0.05, 0.3)])


def answer(scene: Scene, **options: object):
    """Slot of the box that each location learns ``[B, R]``, -1 where negative, -2 where ignored."""
    result = run(build("guided", scene, **options), scene)
    learnt, negative = assigned(result, scene.targets(), scene), result.negative_weight.numpy()
    assert set(np.unique(negative)) <= {0.0, 1.0}
    assert (negative[learnt >= 0] == 1).all(), "the other classes are negatives where one is learnt"
    return np.where((learnt == BACKGROUND) & (negative == 0), IGNORED, learnt)


def oracle(scene: Scene, image: int = 0, **options):
    return guided.assign(scene.points, scene.boxes[image].astype(np.float64), scene.labels[image].tolist(), **options)


def places(scene: Scene, found: np.ndarray, what: int) -> dict[int, set[tuple[float, float]]]:
    """Points in px by level where the answer ``[R]`` is `what`."""
    return {
        level: {tuple(xy) for xy in scene.points.xy[(found == what) & (scene.points.level == level)].tolist()}
        for level in np.unique(scene.points.level[found == what]).tolist()
    }


def square(*middles: float) -> set[tuple[float, float]]:
    return {(x, y) for x in middles for y in middles}


# ---- the rule -------------------------------------------------------------------------------------------------------


@given(scenes(**SMALL), SHARES, st.booleans())
def test_equals_brute_force(scene, shares, neighbours):
    options = {"center": shares[0], "ignore": shares[1], "neighbours": neighbours}
    ours = answer(scene, **options)
    for image in range(scene.num_images):
        np.testing.assert_array_equal(ours[image], oracle(scene, image, **options))


@pytest.mark.parametrize("kind", HARD)
def test_hard_boxes_equal_brute_force(kind):
    for scene in hard_images(kind, 3):
        np.testing.assert_array_equal(answer(scene)[0], oracle(scene))


@given(scenes(max_images=1, max_boxes=6, sides=(128,)), st.sampled_from([0.0, 0.25]))
def test_the_grid_alone_owns_the_offset(scene, offset):
    scene = replace(scene, offset=offset)
    np.testing.assert_array_equal(answer(scene)[0], oracle(scene))


@given(scenes(max_images=1, max_boxes=6, sides=(128,)), st.sampled_from([(8,), (16, 24, 40), (4, 8, 16, 32, 64, 128)]))
def test_any_pyramid(scene, strides):
    scene = replace(scene, strides=strides)
    np.testing.assert_array_equal(answer(scene)[0], oracle(scene))


# ---- by hand --------------------------------------------------------------------------------------------------------


def test_a_box_whose_centre_region_holds_one_cell():
    """80 px between the anchors of 64 and 128 px, nearer to 64: P4. CR is 92 to 108 px, IR 80 to 120 px."""
    scene = one_image([[60, 60, 140, 140]])
    found = answer(scene)[0]
    assert places(scene, found, 0) == {1: {(104, 104)}}
    assert places(scene, found, IGNORED) == {
        0: square(84, 92, 100, 108, 116),
        1: square(88, 104, 120) - {(104, 104)},
        2: square(80, 112),  # on the edge of the region
    }
    assert places(scene, answer(scene, neighbours=False)[0], IGNORED) == {1: square(88, 104, 120) - {(104, 104)}}
    assert not places(scene, answer(scene, neighbours=False, ignore=0.2)[0], IGNORED)


def test_a_centre_region_without_a_cell_has_the_nearest_ones():
    """CR is 89.6 to 102.4 px on P4, whose points are at 88 and 104: both are 8 px from the centre."""
    scene = one_image([[64, 64, 128, 128]])
    found = answer(scene)[0]
    assert places(scene, found, 0) == {1: square(88, 104)}
    assert places(scene, found, IGNORED) == {0: square(84, 92, 100, 108), 2: square(80, 112)}
    shifted = one_image([[66, 64, 130, 128]])  # 104 is nearer to 98
    assert places(shifted, answer(shifted)[0], 0) == {1: {(104, 88), (104, 104)}}


def test_a_flat_box_has_a_row_of_its_region():
    """200 x 10 px: the root of the area is 44.7 px, P3; CR is 80 to 120 px wide and 1 px high, between rows."""
    scene = one_image([[0, 59, 200, 69]])
    assert places(scene, answer(scene)[0], 0) == {0: {(x, y) for x in (84, 92, 100, 108, 116) for y in (60, 68)}}
    below = one_image([[0, 57, 200, 67]])
    assert places(below, answer(below)[0], 0) == {0: {(x, 60) for x in (84, 92, 100, 108, 116)}}


def test_a_box_between_the_points_of_its_level_learns_nothing_and_is_no_background():
    scene = one_image([[37, 37, 41, 41]])
    found = answer(scene)[0]
    assert not (found >= 0).any()
    assert places(scene, found, IGNORED) == {0: {(36, 36)}, 1: {(40, 40)}}


@pytest.mark.parametrize(
    ("edge", "level"), [(4, 0), (45.25, 0), (45.375, 1), (90.5, 1), (90.625, 2), (181, 2), (181.125, 3), (256, 3)]
)
def test_a_box_is_on_the_level_whose_anchor_is_nearest_by_ratio(edge, level):
    scene = one_image([[0, 0, edge, edge]])
    assert set(rows(run(build("guided", scene, center=1.0, ignore=1.0), scene))[:, 1].tolist()) <= {level}
    assert guided.own_level(scene.points, [0, 0, edge, edge]) == level


def test_halfway_between_two_anchors_it_is_on_the_coarser_one():
    scene = one_image([[0, 0, 32, 64]])  # an area of 32 x 64 px
    assert set(places(scene, answer(scene)[0], 0)) == {1}
    scene = one_image([[0, 0, 32, 63.875]])
    assert set(places(scene, answer(scene)[0], 0)) == {0}


def test_centre_regions_go_before_ignore_regions_whichever_box_they_are_of():
    """64 px on P4 and 128 px on P5 around one centre: each ignores its region on the other's level."""
    scene = one_image([[64, 64, 128, 128], [32, 32, 160, 160]])
    found = answer(scene)[0]
    assert places(scene, found, 0) == {1: square(88, 104)}
    assert places(scene, found, 1) == {2: square(80, 112)}
    assert places(scene, found, IGNORED) == {
        0: square(84, 92, 100, 108),
        1: square(72, 88, 104, 120) - square(88, 104),
        3: {(96, 96)},
    }


def test_the_smallest_box_has_a_cell_of_two_centre_regions():
    """104 px, on the edge of the larger one's region, which has three more."""
    scene = one_image([[72, 72, 152, 152], [64, 64, 128, 128]])
    found = answer(scene)[0]
    assert places(scene, found, 1) == {1: square(88, 104)}
    assert places(scene, found, 0) == {1: square(104, 120) - {(104, 104)}}


# ---- invariants -----------------------------------------------------------------------------------------------------


@given(scenes(max_images=1))
def test_a_positive_lies_in_its_box_on_one_level_and_counts_in_full(scene):
    table, boxes = rows(run(build("guided", scene), scene)), scene.boxes[0].astype(np.float64).tolist()
    for gt, level, column, row, *weights in table.tolist():
        box, stride = boxes[int(gt)], scene.strides[int(level)]
        point = ((column + 0.5) * stride, (row + 0.5) * stride)
        assert min(sides(point, box)) > 0
        assert level == guided.own_level(scene.points, box)
        for axis in (0, 1):  # in the centre region, or within half a cell of the centre
            off = abs(2 * point[axis] - (box[axis] + box[axis + 2])) / 2
            assert off <= max(0.1 * (box[axis + 2] - box[axis]), stride / 2)
        assert weights == [1] * len(weights)


@given(scenes(max_images=1, min_boxes=1, max_boxes=6))
def test_a_box_learns_where_it_holds_the_nearest_cell_unless_smaller_boxes_do(scene):
    found = answer(scene)[0]
    for g, box in enumerate(scene.boxes[0].astype(np.float64).tolist()):
        near = np.flatnonzero(guided.region(scene.points, guided.own_level(scene.points, box), box, 0.2))
        held = [r for r in near if min(sides(scene.points.xy[r], box)) > 0]
        for r in held:
            assert found[r] >= 0
            assert area(scene.boxes[0][found[r]]) <= area(scene.boxes[0][g])


@given(scenes(**SMALL), st.sampled_from([(0.2, 0.5), (0.3, 0.8), (0.5, 1.0)]))
def test_a_wider_ignore_region_touches_no_positive_and_leaves_fewer_negatives(scene, ignores):
    some, more = (answer(scene, ignore=ignore) for ignore in ignores)
    np.testing.assert_array_equal(np.maximum(some, -1), np.maximum(more, -1))
    assert (more[some == IGNORED] == IGNORED).all()


@given(scenes(**SMALL))
def test_neighbours_add_ignored_locations_alone(scene):
    without, usual = answer(scene, neighbours=False), answer(scene)
    changed = without != usual
    assert (without[changed] == BACKGROUND).all()
    assert (usual[changed] == IGNORED).all()


@given(scenes(**SMALL))
def test_a_wider_centre_region_keeps_every_positive_location(scene):
    narrow, wide = answer(scene, center=0.2, ignore=1.0), answer(scene, center=0.4, ignore=1.0)
    assert (wide[narrow >= 0] >= 0).all()


@given(scenes(max_images=1, min_boxes=2, max_boxes=8, sides=(256,)))
def test_another_box_takes_no_positive_away_and_makes_no_negative(scene):
    fewer = replace(scene, boxes=(scene.boxes[0][:-1],), labels=(scene.labels[0][:-1],))
    before, after = answer(fewer)[0], answer(scene)[0]
    assert (after[before >= 0] >= 0).all()
    assert (after[before == IGNORED] != BACKGROUND).all()


@given(scenes(max_images=1, max_boxes=6))
def test_mirror_image(scene):
    expect_mirrored(scene, answer)


@given(scenes(max_images=1, min_boxes=1, max_boxes=6))
def test_a_duplicate_box_changes_no_class(scene):
    expect_classes_to_stay(scene, answer)


# ---- the length of the list -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("strides", [(8, 16, 32, 64, 128), (8, 12), (16,)])
@pytest.mark.parametrize("center", [0.05, 0.2, 0.5, 1.0])
def test_no_box_has_more_cells_than_promised(strides, center):
    """The length of the list is fixed before a box is seen."""
    height, width = 384, 640
    rng = np.random.default_rng(0)
    size = np.exp(rng.uniform(0, np.log((width, height)), (2000, 2)))
    size[::3] = (width, 1) + rng.uniform(0, 1, (len(size[::3]), 1)) * (0, 40)  # as flat as can be
    corner = rng.uniform(0, 1, size.shape) * ((width, height) - size)
    corner[::2] = np.round(corner[::2] / 8) * 8 - size[::2] % 8 / 2
    boxes = torch.from_numpy(np.concatenate((corner, corner + size), axis=1).clip(0, (width, height) * 2)).float()
    grid = Grid.build([(-(-height // s), -(-width // s)) for s in strides], strides)
    assigner = Guided(HeadInfo(5, 4, strides), center=center, ignore=1.0)
    first, last = cells_between(grid, boxes, *shrunk(grid, boxes, center))
    assert (last > first).all()
    own = (assigner._levels_apart(grid, boxes) == 0).squeeze(-1)
    assert (own.sum(dim=1) == 1).all()
    assert (last - first).prod(dim=-1)[own].max() <= assigner._most_cells(grid)


# ---- options --------------------------------------------------------------------------------------------------------


def test_it_changes_nothing_but_the_assignment():
    assigner = build("guided", one_image([]))
    assert assigner.declares == Declares()
    assert assigner.needs == Needs()


@pytest.mark.parametrize("options", [{"center": 0.0}, {"center": 0.6}, {"ignore": 0.1}, {"ignore": 1.1}], ids=str)
def test_bad_options(options):
    with pytest.raises(ValueError, match="0 < center <= ignore <= 1"):
        build("guided", one_image([]), **options)
