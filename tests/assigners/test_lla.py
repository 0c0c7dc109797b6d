"""LLA against brute force over all locations, and the invariants of its rule."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from assigners.contract import HeadInfo, Predictions
from assigners.registry import create
from harness.verify.published.oracles import lla
from tests.assigners.common import assigned, build, rows, run
from tests.assigners.images import HARD, hard_images, image_of_classes, one_image
from tests.support.strategies import Scene, draw_box, scenes

SMALL = {"sides": (128, 256), "max_images": 2, "max_boxes": 8}
ROUNDING = 2e-5  # of a cost, relative to 1 + cost


def answer(scene: Scene, predictions: Predictions | None = None, **options: object):
    """Slot of the box that each location learns ``[B, R]``, -1 where none."""
    predictions = predictions or scene.predictions(features=False)
    result = build("lla", scene, **options)(scene.grid, scene.targets(), predictions, scene.step())
    return assigned(result, scene.targets(), scene)


def oracle(scene: Scene, image: int, predictions: Predictions | None = None, **options) -> lla.Result:
    predictions = predictions or scene.predictions(features=False)
    return lla.examine(
        scene.points,
        scene.boxes[image].astype(np.float64),
        predictions.logits[image].double().numpy(),
        predictions.boxes[image].double().numpy(),
        labels=scene.labels[image].tolist(),
        **options,
    )


def is_fragile(scene: Scene, image: int, result: lla.Result, location: int, topk: int) -> bool:
    """May rounding move the location's boxes in or out of their best few, or one before another?"""
    costs = result.cost[:, location]
    for g in np.flatnonzero(np.isfinite(costs)):
        near = np.sort(result.cost[g])[topk - 1 : topk + 1]
        if (np.abs(near - costs[g]) <= ROUNDING * (1 + costs[g])).sum() > 1 and near[0] != near[1]:
            return True
        others = np.delete(costs, g)
        if ((np.abs(others - costs[g]) <= ROUNDING * (1 + costs[g])) & (others != costs[g])).any():
            return True
    return False


def assert_agree(scene: Scene, seen: Counter[str], predictions: Predictions | None = None, topk: int = 10) -> None:
    """Where the assigner differs from the oracle, two costs are within rounding of each other."""
    ours = answer(scene, predictions, topk=topk)
    for image in range(scene.num_images):
        result = oracle(scene, image, predictions, topk=topk)
        seen["positives"] += int((result.assigned >= 0).sum())
        wrong = np.flatnonzero(ours[image] != result.assigned)
        seen["fragile"] += len(wrong)
        assert all(is_fragile(scene, image, result, r, topk) for r in wrong), f"image {image}, locations {wrong}"


# ---- the rule -------------------------------------------------------------------------------------------------------


def test_equals_brute_force():
    seen: Counter[str] = Counter()

    @given(scenes(max_images=2), st.sampled_from([10, 1, 40]))
    @settings(max_examples=15)
    def check(scene, topk):
        assert_agree(scene, seen, topk=topk)

    check()
    assert seen["positives"] > 300
    assert seen["fragile"] <= 0.01 * seen["positives"]


@pytest.mark.parametrize("kind", HARD)
def test_hard_boxes_equal_brute_force(kind):
    seen: Counter[str] = Counter()
    for scene in hard_images(kind, 3):
        assert_agree(scene, seen)
    assert not seen["fragile"]


@pytest.mark.parametrize("classes", [1, 2, 80])
@pytest.mark.parametrize("offset", [0.5, 0.0])
def test_any_number_of_classes_and_any_grid(classes, offset):
    assert_agree(image_of_classes(classes, offset=offset), Counter())


def test_more_pairs_than_locations():
    """The class cost is summed per location then, not per pair."""
    scene = one_image([[0, 0, 256, 256]] * 3 + [[2, 2, 250, 250]])
    assert scene.targets().num_pairs > scene.grid.num_locations
    assert_agree(scene, Counter())


# ---- invariants -----------------------------------------------------------------------------------------------------


@given(scenes(), st.sampled_from([10, 3]))
@settings(max_examples=10)
def test_positives_are_hard_few_and_inside(scene, topk):
    result = run(build("lla", scene, topk=topk), scene)
    assert (result.negative_weight == 1).all()
    assert not result.losses
    table = rows(result)
    assert (table[:, 4:] == 1).all()
    assert (np.bincount(table[:, 0].astype(int), minlength=1) <= topk).all()
    ours = assigned(result, scene.targets(), scene)  # asserts at most one box per location
    for image, boxes in enumerate(scene.boxes):
        for location in np.flatnonzero(ours[image] >= 0):
            box, point = boxes[ours[image][location]], scene.points.xy[location]
            assert (box[:2] < point).all()
            assert (point < box[2:]).all()


@given(st.integers(0, 99))
@settings(max_examples=10)
def test_a_box_alone_has_all_it_may_have(seed):
    rng = np.random.default_rng(seed)
    box = draw_box("plain", 256, 256, [], rng)
    scene = replace(one_image([box]), seed=seed)
    points = scene.points.xy
    inside = ((points > box[:2]) & (points < box[2:])).all(axis=1).sum()
    assert (answer(scene)[0] >= 0).sum() == min(10, inside)


@given(scenes(**SMALL, min_boxes=1))
@settings(max_examples=8)
def test_a_box_is_left_without_only_by_rivals(scene):
    """Every location that a box takes is learnt, by it or by one that it costs less."""
    ours = answer(scene)
    for image in range(scene.num_images):
        result = oracle(scene, image)
        for g, taken in enumerate(result.taken):
            for r in taken:
                if not is_fragile(scene, image, result, r, 10):
                    assert ours[image][r] >= 0
                    assert result.cost[ours[image][r], r] <= result.cost[g, r]


@given(scenes(**SMALL, min_boxes=1))
@settings(max_examples=8)
def test_a_class_that_every_location_predicts_alike_changes_nothing(scene):
    predictions = scene.predictions(features=False)
    more = replace(scene, num_classes=scene.num_classes + 1)
    wider = torch.cat((predictions.logits, torch.full_like(predictions.logits[..., :1], 0.75)), dim=-1)
    plain, other = answer(scene, predictions), answer(more, replace(predictions, logits=wider))
    for image in range(scene.num_images):
        result = oracle(scene, image)
        for r in np.flatnonzero(plain[image] != other[image]):
            assert is_fragile(scene, image, result, r, 10)


def test_a_better_prediction_is_preferred():
    """Wherever it lies in the box: there is no prior of place."""
    scene = one_image([[32, 32, 160, 160]], labels=[3])
    predictions = scene.predictions(features=False)
    good = torch.zeros(scene.grid.num_locations, dtype=torch.bool)
    corner = (scene.points.xy > 136).all(axis=1) & (scene.points.xy < 160).all(axis=1) & (scene.points.stride == 8)
    good[np.flatnonzero(corner)] = True
    logits = torch.where(good[:, None], -6.0, 2.0).repeat(1, 5)
    logits[good, 3] = 6.0
    truth, points = torch.tensor([32.0, 32.0, 160.0, 160.0]), scene.grid.points
    boxes = torch.where(good[:, None], truth, torch.cat((points - 9, points + 9), dim=1))
    ours = answer(scene, replace(predictions, logits=logits[None], boxes=boxes[None]), topk=9)[0]
    assert good.sum() == 9
    np.testing.assert_array_equal(ours >= 0, good.numpy())


def test_the_authors_give_a_contested_location_to_a_box_that_did_not_take_it():
    """The departure from their code: cost is what their rule compares, whoever took the location."""
    cost = np.array([[1.0, 5.0, 9.0], [8.0, 5.5, 2.0], [0.5, 4.0, 0.2]])
    boxes, labels = np.array([[0.0, 0, 8, 8], [0, 0, 9, 9], [0, 0, 7, 7]]), [0, 0, 0]
    zoo = lla.choose(cost, boxes, labels, 2, "zoo")
    authors = lla.choose(cost, boxes, labels, 2, "authors")
    assert zoo.taken == [[0, 1], [2, 1], [2, 0]]
    assert zoo.assigned.tolist() == [2, 0, 2]
    assert authors.assigned.tolist() == [2, 2, 2]


# ---- ties and extremes ----------------------------------------------------------------------------------------------


def test_equal_costs_go_by_place_and_then_by_area():
    """A location that several boxes take alike goes to the smallest; of equal locations a box takes the first."""
    scene = one_image([[32, 32, 160, 160], [40, 40, 80, 80]], labels=[1, 1])
    predictions = scene.predictions(features=False)
    flat = replace(predictions, logits=torch.zeros_like(predictions.logits), boxes=torch.zeros_like(predictions.boxes))
    ours = answer(scene, flat)[0]
    inside = [((scene.points.xy > box[:2]) & (scene.points.xy < box[2:])).all(axis=1) for box in scene.boxes[0]]
    first, second = (np.flatnonzero(mask)[:10] for mask in inside)
    assert set(np.flatnonzero(ours == 1)) == set(second)
    assert set(np.flatnonzero(ours == 0)) == set(first) - set(second)


@given(scenes(**SMALL, min_boxes=1), st.sampled_from([float("nan"), float("inf"), -float("inf")]))
@settings(max_examples=6)
def test_predictions_that_are_no_numbers_stay_out(scene, value):
    """They count as locations whose box misses altogether."""
    predictions = scene.predictions(features=False)
    broken = torch.from_numpy(np.random.default_rng(scene.seed).random(predictions.quality.shape) < 0.3)
    spoilt = replace(predictions, boxes=torch.where(broken[..., None], value, predictions.boxes))
    assert_agree(scene, Counter(), spoilt)
    for image in range(scene.num_images):
        result, clean = oracle(scene, image, spoilt), oracle(scene, image)
        there = np.isfinite(result.cost) & broken[image].numpy()
        assert (result.cost[there] >= clean.cost[there]).all()


def test_boxes_that_hold_no_location_learn_nothing():
    assert (answer(one_image([[0, 0, 3, 3], [9, 9, 11, 11]])) == -1).all()
    assert (answer(one_image([])) == -1).all()


@pytest.mark.parametrize(("option", "value"), [("topk", 0), ("iou_weight", -0.5)])
def test_bad_options(option, value):
    with pytest.raises(ValueError, match=option):
        create("lla", HeadInfo(5, 4), **{option: value})


def test_without_predictions():
    scene = one_image([[32, 32, 160, 160]])
    with pytest.raises(ValueError, match="predictions"):
        build("lla", scene)(scene.grid, scene.targets(), None, scene.step())
