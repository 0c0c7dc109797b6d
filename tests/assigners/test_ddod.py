"""ATSS by predictions against loops, and the invariants of its rule."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from assigners.contract import Predictions, Step
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


@pytest.mark.parametrize("options", [{"topk": 0}, {"alpha": -0.1}, {"alpha": 1.1}], ids=str)
def test_bad_options(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        build("ddod", one_image([]), **options)


def test_it_needs_predictions():
    scene = one_image([[10, 10, 90, 90]])
    with pytest.raises(ValueError, match="predictions"):
        build("ddod", scene)(scene.grid, scene.targets(), None, Step())
