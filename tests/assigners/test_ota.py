"""OTA against its textbook over all locations, the published answers, and the invariants of its rule."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from assigners.contract import HeadInfo, Predictions
from assigners.parts.candidates import near_center
from assigners.parts.sinkhorn import transport
from assigners.registry import create
from assigners.rules.ota import OTA
from harness.verify.published.oracles import ota
from tests.assigners.common import assigned, build, rows, run
from tests.assigners.images import HARD, golden_image, hard_images, image_of_classes, one_image
from tests.support.strategies import Scene, draw_box, scenes
from tests.verify import test_oracles as golden

SMALL = {"sides": (128, 256), "max_images": 2, "max_boxes": 8}
ROUNDING = 1e-5  # px and logits, by which inputs move to see where rounding decides
JITTERS = 16  # each has an even chance to miss a tie
PEER = [name for name in golden.CASES if "megvii_ota/assigned" in golden.load(name).arrays]


def answer(scene: Scene, predictions: Predictions | None = None, **options: object):
    """Slot of the box that each location learns ``[B, R]``, -1 where none."""
    predictions = predictions or scene.predictions(features=False)
    result = build("ota", scene, **options)(scene.grid, scene.targets(), predictions, scene.step())
    return assigned(result, scene.targets(), scene)


def oracle(
    scene: Scene, image: int, predictions: Predictions | None = None, jitter: int | None = None, **options
) -> ota.Result:
    predictions = predictions or scene.predictions(features=False)
    rng = np.random.default_rng(jitter or 0)

    def moved(values: np.ndarray) -> np.ndarray:
        return values if jitter is None else values + rng.uniform(-ROUNDING, ROUNDING, values.shape)

    return ota.examine(
        scene.points,
        scene.boxes[image].astype(np.float64),
        moved(predictions.logits[image].double().numpy()),
        moved(predictions.boxes[image].double().numpy()),
        labels=scene.labels[image].tolist(),
        **options,
    )


def assert_agree(scene: Scene, seen: Counter[str], predictions: Predictions | None = None, **options) -> None:
    """Where the assigner differs from the oracle, rounding decides; count the boxes of such images."""
    ours = answer(scene, predictions, **options)
    for image, boxes in enumerate(scene.boxes):
        theirs = oracle(scene, image, predictions, **options).assigned
        seen["boxes"] += len(boxes)
        seen["positives"] += int((theirs >= 0).sum())
        wrong = ours[image] != theirs
        if wrong.any():
            seen["fragile"] += len(boxes)
            for seed in range(JITTERS):
                if not wrong.any():
                    break
                wrong &= oracle(scene, image, predictions, seed, **options).assigned == theirs
            assert not wrong.any(), f"image {image}, locations {np.flatnonzero(wrong)}"


# ---- the rule -------------------------------------------------------------------------------------------------------


def test_equals_the_textbook():
    seen: Counter[str] = Counter()

    @given(
        scenes(sides=(128, 256), max_images=2),
        st.sampled_from([2.5, 1.5, 4.0]),
        st.sampled_from([20, 5]),
        st.sampled_from([0.1, 1.0]),
        st.sampled_from([50, 3, 1]),
    )
    @settings(max_examples=15)
    def check(scene, radius, topk, regularisation, iterations):
        assert_agree(scene, seen, radius=radius, topk=topk, regularisation=regularisation, iterations=iterations)

    check()
    assert min(seen["positives"], seen["boxes"]) > 50
    assert seen["fragile"] <= 0.1 * seen["boxes"]


@pytest.mark.parametrize("kind", HARD)
def test_hard_boxes_equal_the_textbook(kind):
    seen: Counter[str] = Counter()
    for scene in hard_images(kind, 2):
        assert_agree(scene, seen)
    assert not seen["fragile"]


@pytest.mark.parametrize("classes", [1, 2, 80])
def test_any_number_of_classes(classes):
    assert_agree(image_of_classes(classes), Counter())


def test_a_grid_of_another_offset():
    scene = one_image([[3, 5, 90, 120], [40, 33, 47, 41.5], [100, 20, 240, 250]])
    assert_agree(replace(scene, offset=0.0), Counter())


@pytest.mark.parametrize("value", [50.0, -50.0, 300.0])
def test_saturated_logits_equal_the_textbook(value):
    """Costs that differ by hundreds of nats, which the log domain of the textbook holds by itself."""
    rng = np.random.default_rng(1)
    drawn = [draw_box("plain", 256, 256, [], rng) for _ in range(6)]
    scene = one_image([*drawn, *drawn[:2]])
    predictions = scene.predictions(features=False)
    assert_agree(scene, Counter(), replace(predictions, logits=value * predictions.logits.sign()))


# ---- published answers ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PEER)
def test_the_oracle_equals_the_authors_code(name):
    case = golden.load(name)
    result = ota.examine(case.points, case.boxes, case.logits, case.predicted, labels=case.labels, convention="megvii")
    same = case.comparable("megvii_ota")
    np.testing.assert_array_equal(result.assigned[same], case.arrays["megvii_ota/assigned"][same])
    np.testing.assert_allclose(result.soft[same], case.arrays["megvii_ota/soft"][same], atol=1e-3)
    assert (result.assigned >= 0).any() == (len(case.boxes) > 0)


def test_the_authors_code_is_compared():
    assert len(PEER) >= 6


@pytest.mark.parametrize("name", ["p03_seven_320x416", "p10_classes80_256", "p11_offset0_384"])
def test_trained_predictions_equal_the_textbook(name):
    """Predictions that are good near their boxes: overlaps that add up to many labels, and a plan to the last unit."""
    scene, predictions, _ = golden_image(name)
    seen: Counter[str] = Counter()
    assert_agree(scene, seen, predictions)
    result = oracle(scene, 0, predictions)
    assert result.supply.max() > 5
    # Far from converged: rows are exact, as they come last, and columns nearly so.
    np.testing.assert_allclose(result.plan[:-1].sum(1), result.supply, rtol=1e-3)
    assert np.abs(result.plan.sum(0) - 1).max() < 0.2

    targets = scene.targets()
    assigner = OTA(scene.head)
    location, ok = near_center(scene.grid, targets.boxes, assigner.radius)
    extra, _ = assigner._costs(targets, predictions, location)
    ours = transport(
        -extra / 0.1, location, ok, torch.from_numpy(result.supply), targets.image, (1, scene.grid.num_locations), 50
    )
    theirs = np.take_along_axis(result.plan[:-1], location.numpy(), axis=1)
    np.testing.assert_allclose(ours.boxes.numpy(), np.where(ok, theirs, 0), atol=1e-3)
    np.testing.assert_allclose(ours.background[0].numpy(), result.plan[-1], atol=1e-3)


# ---- the parts ------------------------------------------------------------------------------------------------------


@given(scenes(**SMALL, min_boxes=1))
@settings(max_examples=6)
def test_the_factorised_cost_equals_the_explicit_one(scene):
    targets, predictions = scene.targets(), scene.predictions(features=False)
    assigner = OTA(scene.head)
    location, ok = near_center(scene.grid, targets.boxes, assigner.radius)
    cell = targets.image[:, None] * scene.grid.num_locations + location
    extra, _ = assigner._costs(targets, predictions, cell)
    for image in range(scene.num_images):
        result = oracle(scene, image, iterations=1)
        mine = targets.image == image
        for g, slot in zip(torch.nonzero(mine).flatten().tolist(), targets.slot[mine].tolist(), strict=True):
            here = location[g][ok[g]].numpy()
            np.testing.assert_array_equal(np.sort(here), np.flatnonzero(result.allowed[slot]))
            explicit = result.cost[slot, here] - result.cost[-1, here]
            np.testing.assert_allclose(extra[g][ok[g]].numpy(), explicit, rtol=1e-4, atol=1e-4)


@given(scenes(**SMALL, min_boxes=1))
@settings(max_examples=8)
def test_a_class_that_no_box_has_changes_nothing(scene):
    """It adds the same to what a location costs every box and the background."""
    predictions = scene.predictions(features=False)
    more = torch.from_numpy(np.random.default_rng(scene.seed).uniform(-9, 9, predictions.quality.shape)).float()
    wider = replace(predictions, logits=torch.cat((predictions.logits, more[..., None]), dim=-1))
    plain = answer(scene, predictions)
    np.testing.assert_array_equal(plain, answer(replace(scene, num_classes=scene.num_classes + 1), wider))


# ---- invariants -----------------------------------------------------------------------------------------------------


@given(scenes(), st.sampled_from([2.5, 1.5]))
@settings(max_examples=10)
def test_positives_are_hard_and_near_the_centre(scene, radius):
    result = run(build("ota", scene, radius=radius), scene)
    assert (result.negative_weight == 1).all()
    assert not result.losses
    table = rows(result)
    assert (table[:, 4:] == 1).all()
    _, counts = np.unique(table[:, :2], axis=0, return_counts=True)
    assert (counts <= np.ceil(2 * radius) ** 2).all()
    ours = assigned(result, scene.targets(), scene)  # asserts at most one box per location
    for image, boxes in enumerate(scene.boxes):
        for location in np.flatnonzero(ours[image] >= 0):
            box = boxes[ours[image][location]].astype(float)
            point, stride = scene.points.xy[location], scene.points.stride[location]
            assert (box[:2] < point).all()
            assert (point < box[2:]).all()
            assert (np.abs(point - (box[:2] + box[2:]) / 2) < radius * stride).all()


@given(scenes(**SMALL, min_boxes=1))
@settings(max_examples=10)
def test_only_rivals_take_a_boxs_best_location(scene):
    """The background never does."""
    ours = answer(scene)
    for image in range(scene.num_images):
        result = oracle(scene, image)
        for g in np.flatnonzero(result.allowed.any(axis=1)):
            best = result.share[g].argmax()
            assert ours[image][best] == g or result.allowed[ours[image][best], best]
            assert ours[image][best] >= 0


def test_rescaling_leaves_a_box_of_equal_candidates_with_positives():
    """Where all candidates cost the same, each has a small part of the label, and the background the rest."""
    scene = one_image([[32, 32, 96, 96]], labels=[2])
    predictions = scene.predictions(features=False)
    flat = replace(
        predictions,
        logits=torch.full_like(predictions.logits, -2.0),
        boxes=scene.grid.points.new_tensor([32.0, 32.0, 96.0, 80.0]).expand_as(predictions.boxes),
    )
    result = oracle(scene, 0, flat)
    assert result.plan[0].max() < 0.5 < result.plan[-1][result.allowed[0]].min()
    ours = answer(scene, flat)[0]
    np.testing.assert_array_equal(ours >= 0, result.allowed[0])


def test_a_better_prediction_is_preferred():
    scene = one_image([[32, 32, 160, 160]], labels=[3])
    predictions = scene.predictions(features=False)
    good = torch.zeros(scene.grid.num_locations, dtype=torch.bool)
    good[np.flatnonzero((np.abs(scene.points.xy - 100) < 9).all(axis=1) & (scene.points.stride == 8))] = True
    logits = torch.where(good[:, None], -6.0, 2.0).repeat(1, 5)
    logits[good, 3] = 6.0
    truth = torch.tensor([32.0, 32.0, 160.0, 160.0])
    points = scene.grid.points
    boxes = torch.where(good[:, None], truth, torch.cat((points - 9, points + 9), dim=1))
    ours = answer(scene, replace(predictions, logits=logits[None], boxes=boxes[None]))[0]
    np.testing.assert_array_equal(ours >= 0, good.numpy())
    assert good.sum() == 9


def test_a_location_that_serves_two_boxes_alike_goes_to_the_smaller():
    """Both boxes have their one candidate at (68, 68); the larger comes first in the list."""
    boxes = [[65.5, 65.5, 71.0, 71.0], [66.0, 66.0, 70.0, 70.0]]
    for order in ([0, 1], [1, 0]):
        scene = one_image([boxes[i] for i in order], labels=[1, 1])
        ours = answer(scene)[0]
        assert [order[g] for g in ours[ours >= 0]] == [1]
        at = int(np.flatnonzero(ours >= 0)[0])
        assert scene.points.xy[at].tolist() == [68, 68]


# ---- extremes -------------------------------------------------------------------------------------------------------


def test_duplicates_share_their_positives():
    one = one_image([[32, 32, 160, 160]], labels=[3])
    two = one_image([[32, 32, 160, 160]] * 2, labels=[3, 3])
    ours = answer(two)[0]
    assert (ours == 0).any()
    assert not (ours == 1).any()  # whatever one wants the other wants as much: the first has them all
    assert set(np.flatnonzero(answer(one)[0] == 0)) <= set(np.flatnonzero(ours == 0))


@given(scenes(**SMALL, min_boxes=1), st.sampled_from([float("nan"), float("inf"), -float("inf")]))
@settings(max_examples=6)
def test_predictions_that_are_no_numbers_stay_out(scene, value):
    """They count as locations whose box misses altogether; where nothing else is at hand they still do."""
    predictions = scene.predictions(features=False)
    broken = torch.from_numpy(np.random.default_rng(scene.seed).random(predictions.quality.shape) < 0.3)
    assert_agree(scene, Counter(), replace(predictions, boxes=torch.where(broken[..., None], value, predictions.boxes)))
    ours = answer(scene, replace(predictions, boxes=torch.full_like(predictions.boxes, value)))
    for image in range(scene.num_images):
        assert (ours[image] >= 0).any() == oracle(scene, image, iterations=1).allowed.any()


def test_boxes_that_hold_no_location_learn_nothing():
    assert (answer(one_image([[0, 0, 3, 3], [9, 9, 11, 11]])) == -1).all()
    assert (answer(one_image([])) == -1).all()


def test_more_labels_than_locations():
    """Two hundred boxes, each with several labels to give, on a map of 341 locations."""
    rng = np.random.default_rng(0)
    corner = rng.uniform(0, 60, (200, 2))
    boxes = np.round(np.concatenate((corner, corner + rng.uniform(20, 60, (200, 2))), axis=1) * 8) / 8
    scene = one_image(boxes, labels=rng.integers(0, 5, 200), size=(128, 128))
    predictions = scene.predictions(features=False)
    assert_agree(
        scene, seen := Counter(), replace(predictions, boxes=torch.from_numpy(boxes[:1]).float().expand(341, 4)[None])
    )
    assert seen["positives"] > 100


@pytest.mark.parametrize(
    ("option", "value"),
    [("radius", 0), ("topk", 0), ("iou_weight", -1), ("regularisation", 0), ("iterations", 0), ("radius", -2.5)],
)
def test_bad_options(option, value):
    with pytest.raises(ValueError, match=option):
        create("ota", HeadInfo(5, 4), **{option: value})


def test_without_predictions():
    scene = one_image([[32, 32, 160, 160]])
    with pytest.raises(ValueError, match="predictions"):
        build("ota", scene)(scene.grid, scene.targets(), None, scene.step())
