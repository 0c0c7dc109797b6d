"""ATSS by predictions against loops, and the invariants of its rule."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from assigners.contract import Assignment, Predictions, Step
from detector.loss import LossSettings, detection_losses
from harness.verify.published.oracles import ddod
from tests.assigners.common import assigned, build, rows, run
from tests.assigners.images import golden_image, one_image
from tests.support.strategies import Scene, scenes

ROUNDING = 1e-6  # of a fit
SMALL = {"sides": (128, 256), "max_images": 2}
FEW = settings(max_examples=10)


def answer(scene: Scene, predictions: Predictions | None = None, **options: object) -> np.ndarray:
    """Slot of the box that each location learns ``[B, R]``, -1 where none."""
    predictions = predictions or scene.predictions(features=False)
    result = build("ddod", scene, **options)(scene.grid, scene.targets(), predictions, scene.step())
    return assigned(result, scene.targets(), scene)


def detections(predictions: Predictions, image: int) -> tuple[np.ndarray, np.ndarray]:
    return predictions.logits[image].double().numpy(), predictions.boxes[image].double().numpy()


def unsure(scene: Scene, image: int, predictions: Predictions, **options) -> set[int]:
    """Candidates of boxes of which one fits so nearly by the threshold that float32 may decide otherwise."""
    found: set[int] = set()
    for box, label in zip(scene.boxes[image].astype(np.float64), scene.labels[image].tolist(), strict=True):
        nearest, values, threshold = ddod.fits(scene.points, box, label, *detections(predictions, image), **options)
        if min(abs(value - threshold) for value in values) < ROUNDING:
            found.update(nearest.candidates)
    return found


def assert_agree(scene: Scene, predictions: Predictions | None = None, **options) -> None:
    predictions = predictions or scene.predictions(features=False)
    ours = answer(scene, predictions, **options)
    for image in range(scene.num_images):
        boxes, labels = scene.boxes[image].astype(np.float64), scene.labels[image].tolist()
        theirs = ddod.assign(scene.points, boxes, *detections(predictions, image), labels=labels, **options)
        wrong = set(np.flatnonzero(ours[image] != theirs).tolist())
        assert not wrong - (unsure(scene, image, predictions, **options) if wrong else set())


@given(scenes(), st.sampled_from([1, 4, 9]), st.sampled_from([0.0, 0.5, 0.8, 1.0]))
def test_equals_loops(scene, topk, alpha):
    assert_agree(scene, topk=topk, alpha=alpha)


@pytest.mark.parametrize("name", ["p01_one_256", "p03_seven_320x416", "p06_tiny_512", "p11_offset0_384"])
def test_trained_predictions_equal_loops(name):
    scene, predictions, _ = golden_image(name)
    assert_agree(scene, predictions)


@given(scenes())
def test_positives_are_few_hard_and_inside(scene):
    result = run(build("ddod", scene), scene)
    table = rows(result)
    _, counts = np.unique(table[:, :2], axis=0, return_counts=True)
    assert (counts <= 9).all()
    assert (table[:, 4:] == 1).all()
    assert (result.negative_weight == 1).all()
    ours = assigned(result, scene.targets(), scene)
    for image, boxes in enumerate(scene.boxes):
        taken = np.flatnonzero(ours[image] >= 0)
        box, xy = boxes[ours[image][taken]].astype(np.float64), scene.points.xy[taken]
        assert (xy > box[:, :2]).all()
        assert (xy < box[:, 2:]).all()


@given(scenes(max_images=1, min_boxes=1))
def test_positives_fit_better_than_the_mean(scene):
    predictions = scene.predictions(features=False)
    ours = answer(scene)[0]
    for g, box in enumerate(scene.boxes[0].astype(np.float64)):
        label = int(scene.labels[0][g])
        nearest, values, _ = ddod.fits(scene.points, box, label, *detections(predictions, 0))
        fit = dict(zip(nearest.candidates, values, strict=True))
        for location in np.flatnonzero(ours == g).tolist():
            assert fit[location] >= np.mean(values) - ROUNDING


@given(scenes(**SMALL))
@FEW
def test_perfect_anchors_make_it_atss(scene):
    """A detector that predicts ATSS's anchors, with alpha 1, is assigned as ATSS assigns."""
    points, half = scene.grid.points, 4 * scene.grid.stride[:, None]
    anchors = torch.cat((points - half, points + half), dim=1)
    predictions = replace(
        scene.predictions(features=False), boxes=anchors.expand(scene.num_images, -1, -1).contiguous()
    )
    atss = assigned(run(build("atss", scene), scene), scene.targets(), scene)
    np.testing.assert_array_equal(answer(scene, predictions, alpha=1.0), atss)


@given(scenes(**SMALL, min_boxes=1), st.sampled_from([0.25, 0.5]))
@FEW
def test_the_scale_of_the_scores_does_not_matter(scene, factor):
    """Mean and deviation scale alike. One box at a time, as boxes compete by their fits."""
    alone = replace(scene, boxes=tuple(b[:1] for b in scene.boxes), labels=tuple(n[:1] for n in scene.labels))
    predictions = alone.predictions(features=False)
    scores = predictions.logits.double().sigmoid() * factor
    fewer = replace(predictions, logits=(scores / (1 - scores)).log().float())
    before, after = answer(alone, predictions), answer(alone, fewer)
    for image in range(alone.num_images):
        wrong = set(np.flatnonzero(before[image] != after[image]).tolist())
        assert wrong <= (unsure(alone, image, predictions) if wrong else set())


def test_without_any_overlap_all_candidates_inside_are_positive():
    """All fit alike, by nothing: mean and deviation are 0."""
    scene = one_image([[33, 40, 95, 101]])
    predictions = scene.predictions(features=False)
    blind = replace(predictions, boxes=torch.zeros_like(predictions.boxes))
    nearest, _, threshold = ddod.fits(scene.points, scene.boxes[0][0].astype(np.float64), 0, *detections(blind, 0))
    inside = sorted(r for r, within in zip(nearest.candidates, nearest.inside, strict=True) if within)
    assert threshold == 0
    assert np.flatnonzero(answer(scene, blind)[0] == 0).tolist() == inside


# ---- an assignment of its own for the box branch -------------------------------------------------------------------


def by_branch(scene: Scene, predictions: Predictions, **options: object) -> tuple[np.ndarray, np.ndarray]:
    """Slot of the box that each location learns to name, and of the one that it learns to bound ``[B, R]``."""
    result = build("ddod", scene, **options)(scene.grid, scene.targets(), predictions, scene.step())
    s = result.samples
    named = replace(result, samples=replace(s, ok=s.positive))
    bounded = replace(result, samples=replace(s, ok=s.box_weight > 0))
    assert torch.equal(s.quality_weight, s.box_weight)
    assert torch.equal(s.label, s.positive.float())
    first, second = (assigned(part, scene.targets(), scene) for part in (named, bounded))
    return first, second


@given(scenes(), st.sampled_from([0.8, 1.0]), st.sampled_from([0.0, 0.5, 0.8]))
def test_each_branch_equals_loops(scene, alpha, box_alpha):
    predictions = scene.predictions(features=False)
    ours = by_branch(scene, predictions, alpha=alpha, box_alpha=box_alpha)
    for branch, own in zip(ours, (alpha, box_alpha), strict=True):
        for image in range(scene.num_images):
            boxes, labels = scene.boxes[image].astype(np.float64), scene.labels[image].tolist()
            theirs = ddod.assign(scene.points, boxes, *detections(predictions, image), labels=labels, alpha=own)
            wrong = set(np.flatnonzero(branch[image] != theirs).tolist())
            assert not wrong - (unsure(scene, image, predictions, alpha=own) if wrong else set())


@pytest.mark.parametrize("name", ["p03_seven_320x416", "p05_overlap_512x608"])
def test_the_branches_of_trained_predictions_differ(name):
    scene, predictions, _ = golden_image(name)
    names, bounds = by_branch(scene, predictions, box_alpha=0.5)
    assert (names != bounds).any()
    np.testing.assert_array_equal(names, answer(scene, predictions))
    np.testing.assert_array_equal(bounds, answer(scene, predictions, alpha=0.5))


def losses(scene: Scene, predictions: Predictions, form: str, **options: object) -> dict[str, torch.Tensor]:
    """The shared loss with a region in which nothing is a negative; of the quality branch the sum, not divided."""
    regions = [torch.tensor([[0.0, 0.0, 100.0, 90.0]])] * scene.num_images
    targets = scene.targets(ignore=regions)
    result: Assignment = build("ddod", scene, **options)(scene.grid, targets, predictions, scene.step())
    settings_ = LossSettings(classification=form)
    parts, _ = detection_losses(settings_, scene.grid, targets, predictions, result)
    return parts | {"quality": parts["quality"] * result.samples.positive.sum().clamp(min=1)}


@given(scenes(**SMALL), st.sampled_from(["focal", "qfl", "varifocal"]))
@FEW
def test_each_branch_learns_as_if_its_assignment_were_alone(scene, form):
    """The box branch's own places take nothing from the class loss, in regions without negatives too."""
    predictions = scene.predictions(features=False)
    both = losses(scene, predictions, form, box_alpha=0.5)
    names, bounds = losses(scene, predictions, form), losses(scene, predictions, form, alpha=0.5)
    torch.testing.assert_close(both["class"], names["class"], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(both["box"], bounds["box"], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(both["quality"], bounds["quality"], rtol=1e-5, atol=1e-6)


@given(scenes(**SMALL))
@FEW
def test_equal_weights_of_both_branches_are_one_assignment(scene):
    twice, once = (run(build("ddod", scene, **options), scene) for options in ({"box_alpha": 0.8}, {}))
    np.testing.assert_array_equal(rows(twice), rows(once))
    assert torch.equal(twice.samples.positive, once.samples.positive)
    assert torch.equal(twice.negative_weight, once.negative_weight)


def test_five_candidates_by_hand():
    """One candidate a level, by score and overlap: P3 0.9 and 1/4, P4 0.1 and 1, the others 0.1 and 1/4.

    Fits at alpha 0.8 are 0.323, 0.631 and three of 0.208: mean and deviation 0.499, which P4 alone passes. At alpha 0.5
    they are 0.474, 0.316 and 0.158: 0.394, which P3 alone passes.
    """
    scene = one_image([[0, 0, 128, 128]], size=(128, 128))
    predictions = scene.predictions(features=False)
    fine, coarse = (int(np.flatnonzero((scene.points.xy == xy).all(axis=1))[0]) for xy in (60.0, 56.0))
    scores = torch.full_like(predictions.logits, 0.1)
    scores[0, fine] = 0.9
    boxes = torch.tensor([0.0, 0.0, 64.0, 64.0]).expand_as(predictions.boxes).clone()
    boxes[0, coarse] = torch.tensor([0.0, 0.0, 128.0, 128.0])
    made = replace(predictions, logits=scores.logit(), boxes=boxes)
    names, bounds = by_branch(scene, made, topk=1, box_alpha=0.5)
    assert np.flatnonzero(names[0] == 0).tolist() == [coarse]
    assert np.flatnonzero(bounds[0] == 0).tolist() == [fine]


@pytest.mark.parametrize(
    "options", [{"topk": 0}, {"alpha": -0.1}, {"alpha": 1.1}, {"box_alpha": -0.1}, {"box_alpha": 1.1}], ids=str
)
def test_bad_options(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        build("ddod", one_image([]), **options)


def test_it_needs_predictions():
    scene = one_image([[10, 10, 90, 90]])
    with pytest.raises(ValueError, match="predictions"):
        build("ddod", scene)(scene.grid, scene.targets(), None, Step())
