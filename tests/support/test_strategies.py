"""The scenes are what the property tests take them for."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given

from tests.support.strategies import KINDS, LATTICE, draw_box, scenes


@given(scenes())
def test_boxes_are_exact_and_within_their_image(scene):
    height, width = scene.canvas
    for boxes in scene.boxes:
        np.testing.assert_array_equal(boxes * LATTICE, np.round(boxes * LATTICE))
        assert (boxes >= 0).all()
        assert (boxes <= np.array([width, height, width, height])).all()
        assert (boxes[:, 2:] - boxes[:, :2] >= 1).all()
    assert scene.targets().counts == tuple(len(b) for b in scene.boxes)


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_is_what_it_says(kind):
    rng = np.random.default_rng(1)
    other = np.array([32, 40, 200, 180], dtype=np.float32)
    for _ in range(50):
        box = draw_box(kind, 256, 384, [other], rng)
        sides = box[2:] - box[:2]
        if kind == "tiny":
            assert sides.max() <= 8
        if kind == "flat":
            assert sides.min() <= 8
            assert sides.max() >= 128
        if kind == "huge":
            assert sides.min() >= 150
        if kind == "border":
            assert (box[:2] == 0).any() or (box[2:] == (384, 256)).any()
        if kind == "nested":
            assert (box[:2] >= other[:2]).all()
            assert (box[2:] <= other[2:]).all()
        if kind == "duplicate":
            np.testing.assert_array_equal(box, other)


@given(scenes(min_images=2))
def test_an_image_alone_has_the_predictions_it_has_in_the_batch(scene):
    together, alone = scene.predictions(), scene.single(1).predictions()
    assert together.logits[1].equal(alone.logits[0])
    assert together.features[2][1].equal(alone.features[2][0])
