"""Task alignment learning against loops over all locations, and the invariants of its rule."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from assigners.contract import Assignment, Declares, Predictions, Step
from assigners.rules import tal as module
from harness.verify.answers import WEIGHTS, expect_equal
from harness.verify.published.oracles import tal
from harness.verify.published.oracles.geometry import iou
from tests.assigners.common import assert_close_rows, assigned, build, rows, run
from tests.assigners.images import golden_image, one_image
from tests.support.strategies import Scene, scenes

ROUNDING = 1e-6  # of a logit or of a predicted coordinate, relative
LABEL = 1e-5
JITTERS = 16  # each has an even chance to miss a tie
SMALL = {"sides": (128, 256), "max_images": 2}
FEW = settings(max_examples=10)


def ask(scene: Scene, predictions: Predictions | None = None, **options: object) -> Assignment:
    predictions = predictions or scene.predictions(features=False)
    return build("tal", scene, **options)(scene.grid, scene.targets(), predictions, Step(progress=1.0))


def maps(scene: Scene, result: Assignment) -> tuple[np.ndarray, np.ndarray]:
    """Box ``[B, R]`` that each location learns, -1 where none, and its label ``[B, R]``."""
    s, targets = result.samples, scene.targets()
    label = torch.zeros(scene.num_images * scene.grid.num_locations)
    location = scene.grid.level_start[s.level] + (s.uv[:, 1] * scene.grid.level_width[s.level] + s.uv[:, 0]).long()
    cell = targets.image[s.gt] * scene.grid.num_locations + location
    label.index_add_(0, cell[s.ok], s.label[s.ok])
    return assigned(result, targets, scene), label.view(scene.num_images, -1).numpy()


def loops(scene: Scene, image: int, predictions: Predictions, shake: int | None = None, **options) -> tal.Result:
    logits, boxes = predictions.logits[image].double().numpy(), predictions.boxes[image].double().numpy()
    if shake is not None:
        rng = np.random.default_rng(shake)
        logits = logits * (1 + ROUNDING * rng.choice([-1, 1], logits.shape))
        boxes = boxes + ROUNDING * np.abs(boxes).max() * rng.uniform(-1, 1, boxes.shape)
    truth, labels = scene.boxes[image].astype(np.float64), scene.labels[image].tolist()
    return tal.examine(scene.points, truth, logits, boxes, labels=labels, **options)


def assert_agree(scene: Scene, predictions: Predictions | None = None, **options) -> None:
    """Equal to the loops; where not, a change of the predictions by rounding must change the answer there."""
    predictions = predictions or scene.predictions(features=False)
    boxes, labels = maps(scene, ask(scene, predictions, **options))
    for image in range(scene.num_images):
        expected = loops(scene, image, predictions, **options)
        firm = np.ones(len(scene.points), dtype=bool)
        for seed in range(JITTERS if (boxes[image] != expected.assigned).any() else 0):
            again = loops(scene, image, predictions, seed, **options)
            firm &= (again.assigned == expected.assigned) & (np.abs(again.label - expected.label) < LABEL)
        assert firm.mean() > 0.9
        np.testing.assert_array_equal(boxes[image][firm], expected.assigned[firm])
        np.testing.assert_allclose(labels[image][firm], expected.label[firm], atol=LABEL)


# ---- the rule -------------------------------------------------------------------------------------------------------


@given(scenes(), st.sampled_from([1, 4, 13]))
def test_equals_loops(scene, topk):
    assert_agree(scene, topk=topk)


@given(scenes(**SMALL), st.sampled_from([(0.5, 6.0), (1.0, 0.0), (0.0, 1.0)]), st.booleans(), st.booleans())
@FEW
def test_options_equal_loops(scene, exponents, mask_first, relative_guard):
    alpha, beta = exponents
    assert_agree(scene, alpha=alpha, beta=beta, mask_first=mask_first, relative_guard=relative_guard)


@pytest.mark.parametrize(
    "name",
    ["p01_one_256", "p02_empty_256", "p03_seven_320x416", "p06_tiny_512", "p10_classes80_256", "p11_offset0_384"],
)
def test_trained_predictions_equal_loops(name):
    scene, predictions, _ = golden_image(name)
    assert_agree(scene, predictions)


@pytest.mark.parametrize("name", ["p03_seven_320x416", "p04_twelve_480x640", "p10_classes80_256", "p12_aligned_320"])
def test_with_their_order_of_steps_it_is_mmdet(name):
    """Boxes, and the soft labels that these locations learn."""
    scene, predictions, case = golden_image(name)
    assert np.array_equal(scene.boxes[0], case.boxes)  # within the image, so that both see the same boxes
    boxes, labels = maps(scene, ask(scene, predictions, mask_first=False))
    where = case.comparable("mmdet_tal")
    np.testing.assert_array_equal(boxes[0][where], case.arrays["mmdet_tal/assigned"][where])
    np.testing.assert_allclose(labels[0][where], case.arrays["mmdet_tal/soft"][where], atol=1e-5)


def test_many_boxes_are_compared_with_all_locations_in_parts(monkeypatch):
    scene, predictions, _ = golden_image("p05_overlap_512x608")
    whole = ask(scene, predictions, mask_first=False)
    monkeypatch.setattr(module, "PAIRS", 3 * scene.grid.num_locations)
    assert_close_rows(rows(whole), rows(ask(scene, predictions, mask_first=False)), WEIGHTS)


# ---- invariants -----------------------------------------------------------------------------------------------------


@given(scenes(), st.booleans(), st.booleans())
def test_few_positives_inside_with_labels_up_to_the_largest_overlap(scene, mask_first, relative_guard):
    result = ask(scene, mask_first=mask_first, relative_guard=relative_guard)
    assert (result.negative_weight == 1).all()
    assert not result.losses
    table = rows(result)
    _, counts = np.unique(table[:, 0], return_counts=True)
    assert (counts <= 13).all()
    label, class_weight, box_weight, quality_weight = table[:, 5:].T
    assert (label >= 0).all()
    assert (label <= 1).all()
    np.testing.assert_array_equal(box_weight, label)
    assert (class_weight == 1).all()
    assert (quality_weight == 1).all()

    boxes, labels = maps(scene, result)
    predicted = scene.predictions(features=False).boxes.double().numpy()
    logits = scene.predictions(features=False).logits.double().numpy()
    for image, g in ((i, g) for i, all_boxes in enumerate(scene.boxes) for g in range(len(all_boxes))):
        mine, box = np.flatnonzero(boxes[image] == g), scene.boxes[image][g].astype(np.float64)
        if not len(mine):
            continue
        assert (scene.points.xy[mine] > box[:2]).all()
        assert (scene.points.xy[mine] < box[2:]).all()
        overlap = np.array([iou(predicted[image, r], box) for r in mine])
        t = overlap**6 / (1 + np.exp(-logits[image, mine, scene.labels[image][g]]))
        guard = 1.0 if relative_guard else t.max() / (t.max() + tal.GUARD)
        assert labels[image, mine].max() == pytest.approx(overlap.max() * guard, rel=1e-4)
        assert (np.diff(labels[image, mine][np.argsort(t)]) >= -LABEL).all()


@given(scenes(**SMALL, max_boxes=6), st.sampled_from([0.5, 0.25]))
@FEW
def test_a_box_whose_scores_all_shrink_keeps_its_positives(scene, factor):
    """Where no other box is in the way, as only the order of t and its share of the largest matter."""
    for image in range(scene.num_images):
        alone = replace(scene.single(image), boxes=(scene.boxes[image][:1],), labels=(scene.labels[image][:1],))
        predictions = alone.predictions(features=False)
        scores = predictions.logits.double().sigmoid() * factor
        fewer = replace(predictions, logits=(scores / (1 - scores)).log().float())
        a, b = (maps(alone, ask(alone, p, relative_guard=True)) for p in (predictions, fewer))
        np.testing.assert_array_equal(a[0], b[0])
        np.testing.assert_allclose(a[1], b[1], atol=LABEL)


@given(scenes(max_images=1, min_boxes=1, max_boxes=4))
def test_a_better_overlap_keeps_a_positive(scene):
    alone = replace(scene, boxes=(scene.boxes[0][:1],), labels=(scene.labels[0][:1],))
    predictions = alone.predictions(features=False)
    before = maps(alone, ask(alone, predictions))[0][0]
    for location in np.flatnonzero(before == 0)[::4].tolist():
        boxes = predictions.boxes.clone()
        boxes[0, location] = torch.from_numpy(alone.boxes[0][0])
        assert maps(alone, ask(alone, replace(predictions, boxes=boxes)))[0][0, location] == 0


@given(scenes(max_images=1, min_boxes=1, max_boxes=6))
def test_a_duplicate_box_changes_no_class(scene):
    boxes, labels = scene.boxes[0], scene.labels[0]
    twice = replace(scene, boxes=(np.concatenate((boxes, boxes[:1])),), labels=(np.append(labels, labels[0]),))
    predictions = scene.predictions(features=False)
    a, b = maps(scene, ask(scene, predictions))[0][0], maps(twice, ask(twice, predictions))[0][0]
    np.testing.assert_array_equal(a >= 0, b >= 0)
    np.testing.assert_array_equal(labels[a[a >= 0]], twice.labels[0][b[b >= 0]])


# ---- schedule -------------------------------------------------------------------------------------------------------


@given(scenes())
@FEW
def test_atss_comes_first(scene):
    targets, predictions = scene.targets(), scene.predictions()
    atss = run(build("atss", scene), scene)

    def at(progress: float, **options: object) -> Assignment:
        answer: Assignment = build("tal", scene, **options)(scene.grid, targets, predictions, Step(progress=progress))
        return answer

    for progress in (0.0, 0.33):
        expect_equal(atss, at(progress), f"progress {progress}")
    for progress, options in ((0.34, {}), (0.0, {"warmup": 0.0})):
        expect_equal(at(1.0), at(progress, **options), f"progress {progress}")
    expect_equal(atss, at(0.99, warmup=1.0), "warmup 1")


# ---- edge cases -----------------------------------------------------------------------------------------------------


def test_locations_outside_do_not_displace_those_inside():
    """In the authors' order of steps they do, and the box is left without any."""
    scene = one_image([[40, 40, 60, 60]], labels=[1])
    predictions = scene.predictions(features=False)
    box = torch.tensor([40.0, 40.0, 60.0, 60.0])
    points = scene.grid.points
    inside = ((points > 40) & (points < 60)).all(dim=1)
    boxes = torch.where(inside[:, None], box + torch.tensor([0.0, 0.0, 8.0, 8.0]), box)[None]
    flat = replace(predictions, boxes=boxes, logits=torch.zeros_like(predictions.logits))
    assert (maps(scene, ask(scene, flat, mask_first=False))[0] == -1).all()
    np.testing.assert_array_equal(maps(scene, ask(scene, flat))[0][0] == 0, inside.numpy())


def test_a_contested_location_goes_to_the_larger_overlap_not_to_the_larger_t():
    scene = one_image([[0, 0, 16, 16], [0, 0, 16, 24]], labels=[0, 1])
    points = scene.grid.points
    predictions = scene.predictions(features=False)
    logits = torch.zeros_like(predictions.logits)
    logits[..., 0], logits[..., 1] = -6.0, 6.0  # the larger box has the better score ...
    nowhere = torch.zeros(1, len(points), 4)
    nowhere[0, 0] = torch.tensor([0.0, 0.0, 16.0, 19.0])  # ... and the smaller one fits better, 0.842 to 0.792
    (boxes,), (labels,) = maps(scene, ask(scene, replace(predictions, logits=logits, boxes=nowhere)))
    assert boxes[0] == 0
    assert (boxes[1:] == -1).all()
    assert labels[0] == pytest.approx(16 / 19, rel=1e-3)


def test_no_overlap_no_positive():
    scene = one_image([[33, 40, 95, 101]])
    predictions = scene.predictions(features=False)
    assert not ask(scene, replace(predictions, boxes=torch.zeros_like(predictions.boxes))).samples.ok.any()


def test_the_guard_shrinks_labels_of_small_alignment():
    """An overlap of about 0.1 with a score of about 0.01: the authors' guard takes nine tenths of the label."""
    scene = one_image([[0, 0, 64, 64]], labels=[0])
    predictions = scene.predictions(features=False)
    points = scene.grid.points
    boxes = torch.zeros(1, len(points), 4)
    boxes[0, 0] = torch.tensor([0.0, 0.0, 20.0, 20.48])
    faint = replace(predictions, boxes=boxes, logits=torch.full_like(predictions.logits, -4.6))
    plain, relative = (maps(scene, ask(scene, faint, relative_guard=on))[1].max() for on in (False, True))
    assert relative == pytest.approx(0.1, rel=1e-4)
    assert plain == pytest.approx(0.0091, rel=0.02)


# ---- options --------------------------------------------------------------------------------------------------------


def test_the_normaliser_is_declared():
    scene = one_image([])
    assert build("tal", scene).declares == Declares()
    assert build("tal", scene, normalise_labels=True).declares == Declares(normaliser="labels")


@pytest.mark.parametrize(
    "options", [{"topk": 0}, {"alpha": -1.0}, {"beta": -0.5}, {"warmup": -0.1}, {"warmup": 1.5}], ids=str
)
def test_bad_options(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        build("tal", one_image([]), **options)


@pytest.mark.parametrize("progress", [0.0, 1.0])
def test_it_needs_predictions(progress):
    scene = one_image([[10, 10, 90, 90]])
    with pytest.raises(ValueError, match="predictions"):
        build("tal", scene)(scene.grid, scene.targets(), None, Step(progress=progress))
