"""Plain tensors in somebody else's detector: the answer of the contract, and faults that name themselves."""

import re
import runpy
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import assigners
from assigners import Assigner, Assignment, HeadInfo, Needs, Samples, assign
from assigners.parts.negatives import negatives_outside_ignore
from assigners.registry import UnknownName, create
from tests.assigners.common import assigned, build, run
from tests.support.strategies import STRIDES, scenes

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "mmdet_style_head.py"
ROWS = ("level", "uv", "positive", "label", "class_weight", "box_weight", "quality_weight")


def plain(assigner, scene, **changes):
    """`assign` on a scene, given everything that it may want."""
    seen = scene.predictions()
    words = {
        "points": [scene.grid.points[scene.grid.level == level] for level in range(scene.grid.num_levels)],
        "strides": scene.strides,
        "boxes": [torch.from_numpy(b.copy()) for b in scene.boxes],
        "labels": [torch.from_numpy(label.copy()) for label in scene.labels],
        "logits": seen.logits,
        "predicted_boxes": seen.boxes,
        "quality": seen.quality,
        "features": seen.features,
        "sizes": scene.sizes,
        "image_ids": scene.image_ids,
        "step": scene.step(),
    }
    return assign(assigner, **{**words, **changes})


@pytest.mark.parametrize(
    ("name", "options"), [("center", {}), ("center", {"radius": 0}), ("atss", {"topk": 3}), ("paa", {})]
)
@given(scene=scenes())
@settings(max_examples=10)
def test_a_grid_assigner_answers_as_through_the_contract(name, options, scene):
    expected = run(build(name, scene, **options), scene)
    answer = plain(name, scene, **options)
    rows = expected.samples.ok
    for field in ROWS:
        assert torch.equal(getattr(answer, field), getattr(expected.samples, field)[rows]), field
    assert torch.equal(answer.negative_weight, expected.negative_weight)
    dense = answer.dense()
    assert np.array_equal(dense.assigned.numpy(), assigned(expected, scene.targets(), scene))
    for image in range(scene.num_images):
        own = dense.assigned[image] >= 0
        taken = dense.assigned[image, own]
        assert torch.equal(dense.class_id[image, own], torch.from_numpy(scene.labels[image])[taken])
        assert (dense.class_id[image, ~own] == -1).all()
    assert torch.equal(dense.label, (dense.assigned >= 0).float())
    assert torch.equal(dense.box_weight, dense.label)
    assert torch.equal(scene.grid.points[answer.location], answer.xy)


@given(scene=scenes())
@settings(max_examples=5)
def test_an_object_with_parameters_answers_as_through_the_contract(scene):
    assigner = build("iqdet", scene)
    expected, answer = run(assigner, scene), plain(assigner, scene)
    rows = expected.samples.ok
    for field in ("level", "positive", "class_weight"):
        assert torch.equal(getattr(answer, field), getattr(expected.samples, field)[rows]), field
    # Distances are taken from the boxes and back: the last bits of coordinates and labels may differ.
    torch.testing.assert_close(answer.uv, expected.samples.uv[rows], rtol=0, atol=1e-4)
    torch.testing.assert_close(answer.label, expected.samples.label[rows], rtol=0, atol=1e-4)
    assert answer.losses.keys() == expected.losses.keys() == {"iq"}
    torch.testing.assert_close(answer.losses["iq"], expected.losses["iq"], rtol=1e-3, atol=1e-4)
    assert answer.losses["iq"][0].requires_grad == expected.losses["iq"][0].requires_grad


def one_image(**changes):
    """One image of 64 x 64 px, three levels, one box."""
    words = {
        "points": [lattice(8, 8, 8), lattice(4, 4, 16), lattice(2, 2, 32)],
        "strides": (8, 16, 32),
        "boxes": [torch.tensor([[8.0, 8.0, 40.0, 44.0]])],
        "labels": [torch.tensor([1])],
    }
    return {**words, **changes}


def lattice(rows, columns, stride, offset=0.5):
    y, x = torch.meshgrid(
        (torch.arange(rows) + offset) * stride, (torch.arange(columns) + offset) * stride, indexing="ij"
    )
    return torch.stack((x.flatten(), y.flatten()), dim=1)


def test_positions_are_those_of_the_list_that_was_given():
    small, outside = [3.0, 3.0, 3.5, 30.0], [70.0, 0.0, 90.0, 20.0]
    boxes = [
        torch.tensor([small, [8.0, 8.0, 40.0, 44.0], outside, [20.0, 20.0, 60.0, 60.0]]),
        torch.zeros(0, 4),
        torch.tensor([outside, [4.0, 4.0, 30.0, 30.0]]),
    ]
    labels = [torch.tensor([0, 1, 2, 3]), torch.zeros(0, dtype=torch.long), torch.tensor([4, 5])]
    answer = assign("atss", **one_image(boxes=boxes, labels=labels))
    found = {(int(i), int(g), int(c)) for i, g, c in zip(answer.image, answer.gt, answer.class_id, strict=True)}
    assert found == {(0, 1, 1), (0, 3, 3), (2, 1, 5)}
    inside = torch.stack([boxes[i][g] for i, g in zip(answer.image, answer.gt, strict=True)])
    assert ((answer.xy > inside[:, :2]) & (answer.xy < inside[:, 2:])).all()
    assert (answer.dense().assigned[1] == -1).all()


def test_boxes_are_clipped_to_the_sizes_or_else_to_the_points():
    words = one_image(boxes=[torch.tensor([[40.0, 40.0, 500.0, 500.0]])], labels=[torch.tensor([0])])
    cut = {**words, "boxes": [torch.tensor([[40.0, 40.0, 64.0, 64.0]])]}
    assert torch.equal(assign("atss", **words).xy, assign("atss", **cut).xy)
    smaller = assign("atss", **words, sizes=[(56, 56)])
    assert (smaller.xy < 56).all()
    assert len(smaller.xy)


def test_ignored_regions_are_neither_background_nor_lost_positives():
    answer = assign("atss", **one_image(), ignore=[torch.tensor([[0.0, 0.0, 30.0, 64.0]])])
    dense = answer.dense()
    points = answer.grid.points
    left = points[:, 0] < 30
    assert ((dense.assigned[0] == -2) == (left & (dense.assigned[0] < 0))).all()
    assert (dense.assigned[0, left] >= 0).any()
    assert torch.equal(dense.class_weight > 0, dense.assigned != -2)


@pytest.mark.parametrize("offset", [0.0, 0.5, 1.0, 0.3])
def test_the_grid_is_recovered_from_its_points(offset):
    shapes = [(5, 9), (3, 5), (1, 3), (2, 1), (1, 1)]
    points = [lattice(h, w, s, offset) for (h, w), s in zip(shapes, STRIDES, strict=True)]
    grid = assign("center", points, STRIDES, [torch.zeros(0, 4)], [torch.zeros(0, dtype=torch.long)]).grid
    assert (grid.shapes, grid.strides, grid.offset) == (tuple(shapes), STRIDES, offset)


@given(st.integers(0, 2), st.integers(0, 1), st.sampled_from([-3.0, 0.5]), st.randoms())
def test_a_point_off_the_grid_is_refused_by_its_level(level, axis, shift, random):
    words = one_image()
    row = random.randrange(len(words["points"][level]))
    words["points"][level][row, axis] += shift
    with pytest.raises(ValueError, match=f"points of level {level} are no regular grid"):
        assign("center", **words)


def picky():
    """Assigners that are no part of the zoo: one that reads the quality branch, one that shares locations."""

    class Picky(Assigner):
        needs = Needs(predictions=True)
        shared = False

        def forward(self, grid, targets, predictions, step):
            assert predictions.quality.dtype == torch.float32
            location = torch.arange(1 + self.shared) // 2
            gt = torch.zeros_like(location)
            samples = Samples.at_locations(grid, location, gt, torch.ones_like(gt, dtype=torch.bool))
            return Assignment(samples, negatives_outside_ignore(grid, targets))

    return Picky()


def test_what_an_assigner_reads_and_did_not_get_is_named():
    with pytest.raises(ValueError, match=re.escape("Picky reads quality: give assign(..., quality=...)")):
        assign(picky(), **one_image())
    answer = assign(picky(), **one_image(), quality=torch.zeros(1, 84, dtype=torch.float16))
    assert answer.location.tolist() == [0]
    iqdet = create("iqdet", HeadInfo(3, 4, (8, 16, 32)))
    with pytest.raises(ValueError, match=r"IQDet reads features: give assign\(..., features=...\) with 3 maps, got 0"):
        assign(iqdet, **one_image())
    maps = [torch.zeros(1, 4, side, side) for side in (8, 4, 2)]
    with pytest.raises(ValueError, match="IQDet reads predicted_boxes: give"):
        assign(iqdet, **one_image(), features=maps)


def test_losses_in_place_of_the_detectors_are_named_and_have_no_dense_form():
    answer = assign("free_anchor", **one_image(), logits=torch.zeros(1, 84, 3), predicted_boxes=torch.ones(1, 84, 4))
    assert answer.replaces == {"class", "box"}
    assert answer.losses.keys() == {"positive_bag", "negative_bag"}
    with pytest.raises(ValueError, match="free_anchor has losses in place of the box and class loss"):
        answer.dense()
    assert assign("center", **one_image()).replaces == frozenset()


def test_a_dense_form_that_would_lose_something_is_refused():
    shared = picky()
    shared.shared = True
    answer = assign(shared, **one_image(), quality=torch.zeros(1, 84))
    with pytest.raises(ValueError, match="Picky gives one location to two boxes"):
        answer.dense()
    iqdet = create("iqdet", HeadInfo(3, 4, (8, 16, 32)))
    maps = [torch.zeros(1, 4, side, side) for side in (8, 4, 2)]
    answer = assign(iqdet, **one_image(), features=maps, predicted_boxes=torch.ones(1, 84, 4))
    assert not answer.on_grid
    for use in (answer.dense, lambda: answer.location):
        with pytest.raises(ValueError, match="IQDet samples between the locations"):
            use()


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("iqdet", {}, "'iqdet' learns parameters of its own.*assigners.create"),
        ("center", {"strides": (8, 16)}, "one entry per level, got 3 and 2"),
        ("center", {"points": [], "strides": []}, "one entry per level, got 0 and 0"),
        ("center", {"strides": (8, 16, 0)}, "stride of level 2 must be a whole number of pixels above 0, got 0"),
        ("center", {"strides": (8, 16.5, 32)}, "stride of level 1 must be a whole number"),
        ("center", {"strides": (8, 8, 32)}, "points of level 1 are no regular grid"),
        ("center", {"points": [torch.zeros(0, 2)] * 3}, "points of level 0 must be \\[n, 2\\]"),
        ("center", {"points": [torch.zeros(2, 8, 8)] * 3}, "points of level 0 must be \\[n, 2\\]"),
        ("center", {"points": [lattice(8, 8, 8)[:-1], lattice(4, 4, 16), lattice(2, 2, 32)]}, "last row is not full"),
        ("center", {"points": [lattice(8, 8, 8), lattice(4, 4, 16, 0.0), lattice(2, 2, 32)]}, "level 1 are no regular"),
        ("center", {"points": [lattice(8, 8, 8).flip(1), lattice(4, 4, 16), lattice(2, 2, 32)]}, "level 0 are no"),
        ("center", {"points": [lattice(8, 8, 8, 9.0)] * 3}, "first point of level 0 must lie in its first cell"),
        ("center", {"points": [torch.full((64, 2), torch.nan)] * 3}, "level 0"),
        ("center", {"boxes": [], "labels": []}, "boxes is empty: one tensor for each image"),
        ("center", {"labels": []}, "labels has 0 entries for 1 images"),
        ("center", {"sizes": [(64, 64)] * 2}, "sizes has 2 entries for 1 images"),
        ("center", {"boxes": [torch.zeros(1, 5)]}, "boxes of image 0 must be \\[n, 4\\] xyxy.*got \\[1, 5\\]"),
        ("center", {"boxes": [torch.zeros(4)]}, "boxes of image 0 must be \\[n, 4\\]"),
        ("center", {"boxes": [torch.tensor([[0.0, 0.0, torch.nan, 4.0]])]}, "boxes of image 0 hold NaN or infinity"),
        ("center", {"ignore": [torch.tensor([[0.0, 0.0, torch.inf, 4.0]])]}, "ignore regions of image 0 hold NaN"),
        ("center", {"labels": [torch.tensor([1, 2])]}, "labels of image 0 must be \\[1\\] whole numbers, got \\[2\\]"),
        ("center", {"labels": [torch.tensor([1.0])]}, "labels of image 0 must be \\[1\\] whole numbers.*float32"),
        ("center", {"labels": [torch.tensor([-1])]}, "labels of image 0 must be class ids 0..C-1"),
        ("center", {"logits": torch.zeros(1, 84, 1)}, "labels of image 0 must be class ids 0..0"),
        (picky(), {"logits": torch.zeros(1, 83, 2)}, "logits must be \\[B, R, C\\] with B 1 and R 84, got"),
        (picky(), {"predicted_boxes": torch.zeros(1, 84, 5)}, "predicted_boxes must be \\[B, R, 4\\]"),
        (picky(), {"quality": torch.zeros(1, 84, 1)}, "quality must be \\[B, R\\]"),
        (picky(), {"topk": 3}, "option 'topk' goes to assigners.create"),
    ],
)  # fmt: skip
def test_a_fault_is_one_line_that_names_it(name, changes, message):
    with pytest.raises(ValueError, match=message) as caught:
        assign(name, **one_image(**changes))
    assert "\n" not in str(caught.value)


def test_unknown_names_suggest_the_nearest():
    with pytest.raises(UnknownName, match="did you mean 'atss'"):
        assign("ats", **one_image())
    with pytest.raises(UnknownName, match="did you mean 'topk'"):
        assign("atss", **one_image(), topj=3)


def test_autocast_of_the_caller_does_not_reach_the_rule():
    expected = assign("atss", **one_image()).dense().assigned
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(assign("atss", **one_image()).dense().assigned, expected)


def test_it_is_reached_through_the_package():
    assert assigners.assign is assign
    assert assigners.PlainAssignment.__module__ == "assigners.adapters.plain"


@pytest.mark.parametrize("name", ["atss", "center"])
def test_the_example_of_a_head_in_another_style_learns(name, capsys):
    history = runpy.run_path(str(EXAMPLE))["train"](name, steps=12)
    assert np.isfinite(history).all()
    assert np.mean(history[-3:]) < 0.8 * np.mean(history[:3])
    assert "loss_bbox" in capsys.readouterr().out
