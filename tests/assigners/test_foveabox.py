"""FoveaBox against brute force over all locations, and the invariants of its rule."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from assigners.contract import HeadInfo
from assigners.grid import Grid
from assigners.rules.foveabox import FoveaBox
from harness.verify.published.oracles import foveabox
from harness.verify.published.oracles.geometry import area
from tests.assigners.common import assigned, build, expect_classes_to_stay, expect_mirrored, rows, run
from tests.assigners.images import one_image
from tests.support.strategies import Scene, scenes

OPTIONS = st.fixed_dictionaries({"sigma": st.sampled_from([0.25, 0.4, 1.0]), "eta": st.sampled_from([1.0, 2.0, 3.0])})
SMALL = {"max_images": 2, "max_boxes": 8, "sides": (128, 256)}


def answer(scene: Scene, **options: object):
    return assigned(run(build("foveabox", scene, **options), scene), scene.targets(), scene)


def oracle(scene: Scene, image: int = 0, **options):
    return foveabox.assign(scene.points, scene.boxes[image].astype(np.float64), scene.labels[image].tolist(), **options)


@given(scenes(**SMALL), OPTIONS)
def test_equals_brute_force(scene, options):
    ours = answer(scene, **options)
    for image in range(scene.num_images):
        np.testing.assert_array_equal(ours[image], oracle(scene, image, **options))


@given(scenes(max_images=1, max_boxes=6, sides=(128,)), st.sampled_from([0.0, 0.25]))
def test_the_grid_alone_owns_the_offset(scene, offset):
    scene = replace(scene, offset=offset)
    np.testing.assert_array_equal(answer(scene)[0], oracle(scene))


@given(scenes(max_images=1, max_boxes=6, sides=(128,)), st.sampled_from([(8,), (16, 24, 40), (4, 8, 16, 32, 64, 128)]))
def test_any_pyramid(scene, strides):
    scene = replace(scene, strides=strides)
    np.testing.assert_array_equal(answer(scene)[0], oracle(scene))


@given(scenes(max_images=1))
def test_a_positive_lies_in_the_fovea_on_a_level_of_the_boxs_size(scene):
    table, boxes, strides = rows(run(build("foveabox", scene), scene)), scene.boxes[0], np.array(scene.strides)
    for gt, level, column, row, *weights in table.tolist():
        box, stride = boxes[int(gt)].astype(np.float64), strides[int(level)]
        point = (np.array([column, row]) + 0.5) * stride
        assert (np.abs(point - (box[:2] + box[2:]) / 2) <= 0.2 * (box[2:] - box[:2])).all()
        side = area(box.tolist()) ** 0.5
        assert level == 0 or side >= 2 * stride
        assert level == len(strides) - 1 or side <= 8 * stride
        assert weights == [1] * len(weights)


@given(scenes(**SMALL), st.sampled_from([(0.2, 0.4), (0.4, 0.8), (0.5, 1.0)]))
def test_a_wider_fovea_keeps_every_positive_location(scene, sigmas):
    narrow, wide = (answer(scene, sigma=sigma) for sigma in sigmas)
    assert (wide[narrow >= 0] >= 0).all()
    assert (wide >= 0).sum() >= (narrow >= 0).sum()


@given(scenes(**SMALL), st.sampled_from([(1.0, 1.5), (1.5, 2.0), (2.0, 4.0)]))
def test_wider_scales_keep_every_positive_location(scene, etas):
    narrow, wide = (answer(scene, eta=eta) for eta in etas)
    assert (wide[narrow >= 0] >= 0).all()


@given(scenes(max_images=1, min_boxes=2, max_boxes=6, sides=(256,)))
def test_the_smallest_box_wins(scene):
    ours, boxes = answer(scene)[0], scene.boxes[0]
    singles = [slice(g, g + 1) for g in range(len(boxes))]
    alone = [oracle(replace(scene, boxes=(boxes[g],), labels=(scene.labels[0][g],))) for g in singles]
    for r in np.flatnonzero(ours >= 0).tolist():
        claims = [g for g in range(len(boxes)) if alone[g][r] == 0]
        assert area(boxes[ours[r]].tolist()) == min(area(boxes[g].tolist()) for g in claims)
    np.testing.assert_array_equal(ours >= 0, np.any([a == 0 for a in alone], axis=0))


@given(scenes(max_images=1, max_boxes=6))
def test_mirror_image(scene):
    expect_mirrored(scene, answer)


@given(scenes(max_images=1, min_boxes=1, max_boxes=6))
def test_a_duplicate_box_changes_no_class(scene):
    expect_classes_to_stay(scene, answer)


@given(scenes())
def test_all_else_is_negative(scene):
    assert (run(build("foveabox", scene), scene).negative_weight == 1).all()


@pytest.mark.parametrize(("edge", "levels"), [(20, {0}), (40, {0, 1}), (64, {0, 1, 2}), (80, {1, 2}), (128, {1, 2, 3})])
def test_a_box_is_on_the_levels_whose_basic_edge_is_within_a_factor_of_two(edge, levels):
    scene = one_image([[128 - edge / 2, 128 - edge / 2, 128 + edge / 2, 128 + edge / 2]])
    assert set(rows(run(build("foveabox", scene, sigma=1.0), scene))[:, 1].astype(int).tolist()) == levels


@pytest.mark.parametrize("strides", [(8, 16, 32, 64, 128), (8, 12), (16,)])
@pytest.mark.parametrize("sigma", [0.05, 0.4, 1.0])
@pytest.mark.parametrize("eta", [1.0, 2.0, 8.0])
def test_no_box_has_more_cells_than_promised(strides, sigma, eta):
    """The length of the list is fixed before a box is seen."""
    height, width = 384, 640
    rng = np.random.default_rng(0)
    size = np.exp(rng.uniform(0, np.log((width, height)), (2000, 2)))
    size[::3] = (width, 1) + rng.uniform(0, 1, (len(size[::3]), 1)) * (0, 40)  # as flat as can be
    corner = rng.uniform(0, 1, size.shape) * ((width, height) - size)
    corner[::2] = np.round(corner[::2] / 8) * 8 - size[::2] % 8 / 2
    boxes = np.concatenate((corner, corner + size), axis=1).clip(0, (width, height) * 2)
    grid = Grid.build([(-(-height // s), -(-width // s)) for s in strides], strides)
    assigner = FoveaBox(HeadInfo(5, 4, strides), sigma=sigma, eta=eta)
    first, last = assigner._foveas(grid, torch.from_numpy(boxes).float())
    assert (last - first).clamp(min=0).prod(dim=-1).sum(dim=1).max() <= assigner._most_cells(grid)


@pytest.mark.parametrize("options", [{"sigma": 0.0}, {"sigma": -0.4}, {"sigma": 1.1}, {"eta": 0.9}])
def test_bad_options(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        build("foveabox", one_image([]), **options)
