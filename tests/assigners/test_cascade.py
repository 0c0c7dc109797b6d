"""Rising thresholds on predicted boxes against loops over all locations, by hand, and the invariants of the rule."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from assigners.contract import Assignment, Declares, Needs, Predictions, Step
from harness.verify.answers import expect_equal
from harness.verify.published.oracles import cascade, fcos
from harness.verify.published.oracles.geometry import iou
from tests.assigners.common import assigned, build, run
from tests.assigners.images import HARD, golden_image, hard_images, one_image
from tests.assigners.test_dynamic_k import trained
from tests.support.strategies import Scene, scenes

ROUNDING = 1e-6  # of a predicted coordinate, relative
JITTERS = 16  # each has an even chance to miss a tie
SMALL = {"sides": (128, 256), "max_images": 2, "max_boxes": 8}
FEW = settings(max_examples=10)
FALLBACKS = st.sampled_from(["center", "best", "none"])


def ask(scene: Scene, predictions: Predictions, progress: float = 0.0, **options: object) -> Assignment:
    answer: Assignment = build("cascade", scene, **options)(
        scene.grid, scene.targets(), predictions, Step(progress=progress)
    )
    return answer


def answer(scene: Scene, predictions: Predictions, progress: float = 0.0, **options: object) -> np.ndarray:
    """Slot of the box that each location learns ``[B, R]``, -1 where none."""
    return assigned(ask(scene, predictions, progress, **options), scene.targets(), scene)


def loops(scene: Scene, image: int, predictions: Predictions, shake: int | None = None, **options) -> cascade.Result:
    boxes = predictions.boxes[image].double().numpy()
    if shake is not None:
        boxes = boxes + ROUNDING * np.abs(boxes).max() * np.random.default_rng(shake).uniform(-1, 1, boxes.shape)
    truth, labels = scene.boxes[image].astype(np.float64), scene.labels[image].tolist()
    return cascade.examine(scene.points, truth, boxes, labels=labels, **options)


def assert_agree(scene: Scene, predictions: Predictions, threshold: float, **options) -> None:
    """Equal to the loops; where not, a change of the predictions by rounding must change the answer there."""
    ours = answer(scene, predictions, thresholds=str(threshold), **options)
    for image in range(scene.num_images):
        expected = loops(scene, image, predictions, threshold=threshold, **options)
        firm = np.ones(len(scene.points), dtype=bool)
        for seed in range(JITTERS if (ours[image] != expected.assigned).any() else 0):
            again = loops(scene, image, predictions, seed, threshold=threshold, **options)
            firm &= again.assigned == expected.assigned
        assert firm.mean() > 0.9
        np.testing.assert_array_equal(ours[image][firm], expected.assigned[firm])


def statistics(scene: Scene, predictions: Predictions, progress: float = 0.0, **options: object) -> dict[str, float]:
    found = ask(scene, predictions, progress, **options).statistics
    assert all(count == sum(map(len, scene.boxes)) for _, count in found.values())
    return {name: float(total) for name, (total, _) in found.items()}


def predicting(scene: Scene, boxes: dict[tuple[float, float], list[float]]) -> Predictions:
    """Predictions without area but at the points given."""
    predictions = scene.predictions(features=False)
    predicted = torch.zeros_like(predictions.boxes)
    for point, box in boxes.items():
        (r,) = np.flatnonzero((scene.points.xy == point).all(axis=1)).tolist()
        predicted[0, r] = torch.tensor(box)
    return replace(predictions, boxes=predicted)


def learnt(scene: Scene, found: np.ndarray, box: int) -> set[tuple[float, float]]:
    return {tuple(xy) for xy in scene.points.xy[found == box].tolist()}


# ---- the rule -------------------------------------------------------------------------------------------------------


@given(scenes(max_images=2), st.sampled_from([0.5, 0.6, 0.7, 0.9]), st.booleans())
def test_equals_loops(scene, threshold, good):
    assert_agree(scene, trained(scene) if good else scene.predictions(features=False), threshold)


@given(scenes(**SMALL), st.sampled_from([0.3, 0.6, 0.8]), FALLBACKS, st.sampled_from([0.0, 0.75, 1.5]))
@FEW
def test_options_equal_loops(scene, threshold, fallback, radius):
    assert_agree(scene, trained(scene), threshold, fallback=fallback, radius=radius)


@pytest.mark.parametrize("kind", HARD)
@pytest.mark.parametrize("fallback", ["center", "best"])
def test_hard_boxes_equal_loops(kind, fallback):
    for scene in hard_images(kind, 2):
        assert_agree(scene, trained(scene), 0.6, fallback=fallback)


@pytest.mark.parametrize(
    "name", ["p01_one_256", "p02_empty_256", "p03_seven_320x416", "p06_tiny_512", "p11_offset0_384"]
)
def test_trained_predictions_equal_loops(name):
    scene, predictions, _ = golden_image(name)
    assert_agree(scene, predictions, 0.7)


# ---- by hand --------------------------------------------------------------------------------------------------------

BOX = [8.0, 8.0, 48.0, 48.0]  # its centre is a point of P3; center sampling allows the 3 x 3 points around
GOOD, FAIR, POOR = [8.0, 8.0, 48.0, 37.0], [8.0, 8.0, 48.0, 33.0], [8.0, 8.0, 48.0, 27.0]
AROUND = {(x, y) for x in (20.0, 28.0, 36.0) for y in (20.0, 28.0, 36.0)}


def test_positives_vanish_as_the_threshold_rises():
    scene = one_image([BOX])
    assert [iou(p, BOX) for p in (GOOD, FAIR, POOR)] == [0.725, 0.625, 0.475]
    # The last two locations are in the box, but too far from the centre, and on another level.
    predictions = predicting(
        scene, {(20, 20): BOX, (28, 36): GOOD, (36, 36): FAIR, (20, 36): POOR, (20, 44): BOX, (24, 24): BOX}
    )
    expected = {
        0.0: {(20, 20), (28, 36), (36, 36)},
        0.4: {(20, 20), (28, 36), (36, 36)},
        0.7: {(20, 20), (28, 36)},
        1.0: {(20, 20), (28, 36)},
    }
    for progress, where in expected.items():
        assert learnt(scene, answer(scene, predictions, progress)[0], 0) == where
        assert statistics(scene, predictions, progress) == {"positives_at_threshold": len(where), "fallback": 0}
    assert learnt(scene, answer(scene, predictions, thresholds="0.9")[0], 0) == {(20, 20)}
    assert learnt(scene, answer(scene, predictions, 0.7, radius=0.0)[0], 0) == expected[0.7] | {(20, 44)}


def test_center_sampling_stands_in_where_nothing_is_good():
    scene = one_image([BOX])
    predictions = predicting(scene, {(36, 20): POOR})
    assert learnt(scene, answer(scene, predictions)[0], 0) == AROUND
    assert statistics(scene, predictions) == {"positives_at_threshold": 0, "fallback": 1}
    assert learnt(scene, answer(scene, predictions, fallback="best")[0], 0) == {(36, 20)}
    assert not learnt(scene, answer(scene, predictions, fallback="none")[0], 0)
    assert statistics(scene, predictions, fallback="none") == statistics(scene, predictions)


def test_of_equal_predictions_the_best_is_the_nearest_to_the_centre():
    scene = one_image([BOX])
    assert learnt(scene, answer(scene, predicting(scene, {}), fallback="best")[0], 0) == {(28, 28)}


def test_a_location_learns_the_box_that_it_overlaps_most():
    wide = [8.0, 8.0, 56.0, 48.0]  # its centre is at 32, 28
    scene = one_image([BOX, wide])
    found = answer(scene, predicting(scene, {(28, 20): BOX, (36, 28): wide, (28, 28): [8, 8, 52, 48]}))[0]
    assert learnt(scene, found, 0) == {(28, 20)}
    assert learnt(scene, found, 1) == {(36, 28), (28, 28)}  # 44 / 48 to 40 / 44


def test_of_equal_overlaps_the_smallest_box_is_learnt():
    outer, inner, between = [0.0, 0.0, 64.0, 64.0], [16.0, 16.0, 48.0, 48.0], [16.0, 0.0, 48.0, 64.0]
    scene = one_image([outer, inner])
    assert iou(between, outer) == iou(between, inner) == 0.5
    assert learnt(scene, answer(scene, predicting(scene, {(28, 28): between}))[0], 1) == {(28, 28)}
    twins = one_image([BOX, BOX], labels=[3, 1])
    found = answer(twins, predicting(twins, {(28, 28): BOX}))[0]
    assert learnt(twins, found, 1) == {(28, 28)}  # of equal boxes the one of the smaller class
    assert learnt(twins, found, 0) == AROUND - {(28, 28)}  # and the other one is on the fall-back


def test_a_box_on_the_fall_back_takes_nothing_from_others():
    """The inner box has no good prediction, and two predictions of the outer one stand by its centre."""
    outer, inner = [0.0, 0.0, 60.0, 60.0], BOX
    scene = one_image([outer, inner])
    for fallback, expected in (("center", AROUND - {(28, 28), (36, 36)}), ("best", {(28, 20)})):
        found = answer(scene, predicting(scene, {(28, 28): outer, (36, 36): outer}), fallback=fallback)[0]
        assert learnt(scene, found, 0) == {(28, 28), (36, 36)}
        assert learnt(scene, found, 1) == expected  # of the four nearest ones the first


# ---- invariants -----------------------------------------------------------------------------------------------------


@given(scenes(**SMALL), st.sampled_from([0.4, 0.5, 0.7]), st.sampled_from([0.0, 1.5]))
@FEW
def test_positives_by_the_threshold_are_good_and_all_good_ones_are_positive(scene, threshold, radius):
    predictions = trained(scene)
    found = answer(scene, predictions, thresholds=str(threshold), fallback="none", radius=radius)
    for image, boxes in enumerate(scene.boxes):
        best = np.zeros(len(scene.points))
        for box in boxes.astype(np.float64).tolist():
            for r in fcos.candidates(scene.points, box, radius, len(scene.strides)):
                best[r] = max(best[r], iou(predictions.boxes[image, r].double().tolist(), box))
        firm = np.abs(best - threshold) > 1e-5
        np.testing.assert_array_equal((found[image] >= 0)[firm], (best >= threshold)[firm])


@given(scenes(**SMALL))
@FEW
def test_a_higher_threshold_keeps_no_new_positive(scene):
    predictions = trained(scene)
    counts = []
    low = answer(scene, predictions, thresholds="0.4", fallback="none")
    for threshold in ("0.5", "0.6", "0.8"):
        high = answer(scene, predictions, thresholds=threshold, fallback="none")
        np.testing.assert_array_equal(high[high >= 0], low[high >= 0])
        counts.append(statistics(scene, predictions, thresholds=threshold)["positives_at_threshold"])
        low = high
    assert counts == sorted(counts, reverse=True)


@given(scenes(**SMALL), FALLBACKS)
@FEW
def test_the_fall_back_serves_boxes_without_a_positive_alone(scene, fallback):
    predictions = trained(scene)
    without, found = (answer(scene, predictions, 0.5, fallback=way) for way in ("none", fallback))
    kept = without >= 0
    np.testing.assert_array_equal(found[kept], without[kept])
    missing = 0
    for image, boxes in enumerate(scene.boxes):
        served = set(without[image][kept[image]].tolist())
        assert not served & set(found[image][~kept[image]].tolist())
        missing += len(boxes) - len(served)
    told = statistics(scene, predictions, 0.5, fallback=fallback)
    assert told == {"positives_at_threshold": kept.sum(), "fallback": missing}


@given(scenes())
def test_useless_predictions_leave_center_sampling(scene):
    predictions = scene.predictions(features=False)
    useless = replace(predictions, boxes=torch.zeros_like(predictions.boxes))
    center = run(build("center", scene), scene)
    np.testing.assert_array_equal(answer(scene, useless), assigned(center, scene.targets(), scene))


@given(scenes(**SMALL))
@FEW
def test_the_fall_back_is_where_fcos_would_learn(scene):
    found = answer(scene, trained(scene), 1.0)
    without = answer(scene, trained(scene), 1.0, fallback="none")
    for image, boxes in enumerate(scene.boxes):
        for r in np.flatnonzero((found[image] >= 0) & (without[image] < 0)).tolist():
            assert r in fcos.candidates(scene.points, boxes[found[image][r]].astype(np.float64).tolist(), 1.5, 5)


@given(scenes())
def test_hard_labels_and_no_ignored_location(scene):
    result = run(build("cascade", scene), scene)
    s = result.samples
    assert (result.negative_weight == 1).all()
    assert not result.losses
    for weight in (s.label, s.class_weight, s.box_weight, s.quality_weight):
        assert torch.equal(weight, s.ok.float())


@given(scenes(max_images=1, min_boxes=1, max_boxes=4))
@FEW
def test_classes_and_scores_do_not_matter(scene):
    predictions = trained(scene)
    other = replace(predictions, logits=-predictions.logits, quality=-predictions.quality)
    np.testing.assert_array_equal(answer(scene, predictions, 0.5), answer(scene, other, 0.5))


def test_predictions_that_are_no_numbers_overlap_nothing():
    scene = one_image([BOX])
    for poison in (float("nan"), float("inf"), -float("inf")):
        predictions = predicting(scene, {(20, 20): [poison] * 4, (28, 28): [8, 8, poison, 48], (36, 36): BOX})
        assert learnt(scene, answer(scene, predictions)[0], 0) == {(36, 36)}


# ---- schedule -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, {0.0: 0.5, 0.33: 0.5, 0.34: 0.6, 0.66: 0.6, 0.67: 0.7, 1.0: 0.7}),
        ({"thresholds": "0.7"}, {0.0: 0.7, 1.0: 0.7}),
        ({"thresholds": "0.4:0.8"}, {0.0: 0.4, 0.49: 0.4, 0.5: 0.8, 1.0: 0.8}),
        ({"switch": "0.2:0.9"}, {0.0: 0.5, 0.19: 0.5, 0.2: 0.6, 0.89: 0.6, 0.9: 0.7}),
        ({"switch": "0:0"}, {0.0: 0.7, 1.0: 0.7}),
        ({"switch": "1:1"}, {0.0: 0.5, 0.99: 0.5, 1.0: 0.7}),
    ],
    ids=str,
)
def test_the_threshold_rises_in_stages(options, expected):
    scene = one_image([BOX])
    assigner = build("cascade", scene, **options)
    assert {progress: assigner.threshold(progress) for progress in expected} == expected
    for progress, threshold in expected.items():
        assert cascade.threshold(assigner.thresholds, assigner.switch, progress) == threshold
    predictions = trained(scene)
    for progress, threshold in expected.items():
        now, fixed = ask(scene, predictions, progress, **options), ask(scene, predictions, thresholds=str(threshold))
        expect_equal(now, fixed, f"progress {progress}")


# ---- options --------------------------------------------------------------------------------------------------------


def test_it_changes_nothing_but_the_assignment():
    assigner = build("cascade", one_image([]))
    assert assigner.declares == Declares()
    assert assigner.needs == Needs(predictions=True)


@pytest.mark.parametrize(
    "options",
    [
        {"thresholds": ""}, {"thresholds": "0.5,0.6"}, {"thresholds": "0:0.5"}, {"thresholds": "0.5:1"},
        {"thresholds": "0.6:0.5"}, {"thresholds": "nan"}, {"thresholds": "0.5:nan:0.7"}, {"switch": ""},
        {"switch": "0.5"}, {"switch": "0.6:0.5"}, {"switch": "-0.1:0.5"}, {"switch": "0.5:1.1"}, {"switch": "nan:0.5"},
        {"switch": "later"}, {"fallback": "worst"}, {"radius": -1.0},
    ],
    ids=str,
)  # fmt: skip
def test_bad_options(options):
    with pytest.raises(ValueError, match=next(iter(options))) as caught:
        build("cascade", one_image([]), **options)
    assert "\n" not in str(caught.value)


def test_it_needs_predictions():
    scene = one_image([BOX])
    with pytest.raises(ValueError, match="predictions"):
        build("cascade", scene)(scene.grid, scene.targets(), None, Step())
