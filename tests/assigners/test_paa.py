"""PAA against brute force over all locations, and the invariants of its rule."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from assigners.contract import Predictions
from harness.verify.published.oracles import paa
from tests.assigners.common import assigned, build, map_tensors, permuted, rows, run
from tests.assigners.images import HARD, golden_image, hard_images, image_of_classes, one_image
from tests.support.strategies import Scene, scenes

SCORE_ROUNDING = 1e-5  # of a score, relative to 1 + score
OVERLAP_ROUNDING = 1e-6  # of an anchor's IoU
JITTERS = 16  # each has an even chance to miss a tie
SMALL = {"sides": (128, 256), "max_images": 2, "max_boxes": 8}


def answer(scene: Scene, predictions: Predictions | None = None, **options: object):
    """Slot of the box that each location learns ``[B, R]``, -1 where none."""
    predictions = predictions or scene.predictions(features=False)
    result = build("paa", scene, **options)(scene.grid, scene.targets(), predictions, scene.step())
    return assigned(result, scene.targets(), scene)


def oracle(scene: Scene, image: int, predictions: Predictions | None = None, **options) -> paa.Result:
    predictions = predictions or scene.predictions(features=False)
    return paa.examine(
        scene.points,
        scene.boxes[image].astype(np.float64),
        predictions.logits[image].double().numpy(),
        predictions.boxes[image].double().numpy(),
        labels=scene.labels[image].tolist(),
        **options,
    )


def first_stage_is_fragile(scene: Scene, image: int, threshold: float) -> set[int]:
    """Boxes whose stage 1 hangs on the rounding of an overlap: near the threshold, or nearly but not exactly tied."""
    table = paa.overlaps(scene.points, scene.boxes[image].astype(np.float64))
    found: set[int] = set()

    def near(a: float, b: float) -> bool:
        return a != b and abs(a - b) < OVERLAP_ROUNDING

    best = [np.nanmax(column) if not np.isnan(column).all() else np.nan for column in table.T]
    for row in table:
        met = np.flatnonzero(~np.isnan(row)).tolist()
        unsure = {g for g in met if abs(row[g] - threshold) < OVERLAP_ROUNDING or near(row[g], best[g])}
        unsure |= {g for g in met for h in met if near(row[g], row[h])}
        found |= set(met) if unsure else set()  # whoever else claims the location may win or lose it
    return found


def split_is_fragile(scene: Scene, result: paa.Result, box: int, topk: int) -> bool:
    """Does a change of the scores by what float32 rounds off change the box's candidates or their split?"""
    rng = np.random.default_rng(box)
    members = np.flatnonzero(result.own == box)
    before = result.assigned[members] == box
    for _ in range(JITTERS):
        shaken = result.cost.copy()
        shaken[members] *= 1 + SCORE_ROUNDING * rng.choice([-1, 1], len(members))
        shaken[members] += SCORE_ROUNDING * rng.choice([-1, 1], len(members))
        found = paa.candidates(result.own, shaken, scene.points.level, box, topk)
        positive = [found[i] for i in paa.split(shaken[found].tolist())]
        if not np.array_equal(np.isin(members, positive), before):
            return True
    return False


def assert_agree(
    scene: Scene, seen: Counter[str], topk: int = 9, iou: float = 0.1, predictions: Predictions | None = None
) -> None:
    """Every box that differs from the oracle must be one that rounding decides; count how many do."""
    ours = answer(scene, predictions, topk=topk, iou=iou)
    for image in range(scene.num_images):
        result = oracle(scene, image, predictions, topk=topk, threshold=iou)
        seen["boxes"] += len(scene.boxes[image])
        wrong = np.flatnonzero(ours[image] != result.assigned)
        if not len(wrong):
            continue
        boxes = ({*ours[image][wrong].tolist(), *result.assigned[wrong].tolist()}) - {-1}
        boxes -= first_stage_is_fragile(scene, image, iou)
        unexplained = {g for g in boxes if not split_is_fragile(scene, result, g, topk)}
        assert not unexplained, f"image {image}, boxes {unexplained}"
        seen["fragile"] += len(({*ours[image][wrong].tolist(), *result.assigned[wrong].tolist()}) - {-1})


# ---- the rule -------------------------------------------------------------------------------------------------------


def test_equals_brute_force():
    seen: Counter[str] = Counter()

    @given(scenes(max_images=2), st.sampled_from([1, 4, 9, 15]), st.sampled_from([0.1, 0.0, 0.4]))
    def check(scene, topk, iou):
        assert_agree(scene, seen, topk, iou)

    check()
    assert seen["boxes"] > 50
    assert seen["fragile"] <= 0.01 * seen["boxes"]


@pytest.mark.parametrize("kind", HARD)
def test_hard_boxes_equal_brute_force(kind):
    seen: Counter[str] = Counter()
    for scene in hard_images(kind, 4):
        assert_agree(scene, seen)
    assert seen["fragile"] <= 0.05 * seen["boxes"]


@given(st.sampled_from([1, 2, 80, 1000]), st.integers(0, 99))
@settings(max_examples=6)
def test_any_number_of_classes(classes, seed):
    assert_agree(image_of_classes(classes, seed), Counter())


def test_a_grid_of_another_offset():
    scene = replace(one_image([[3, 5, 90, 120], [40, 33, 47, 41.5], [100, 20, 240, 250]]), offset=0.0)
    assert_agree(scene, Counter())


@pytest.mark.parametrize(
    "name", ["p01_one_256", "p03_seven_320x416", "p06_tiny_512", "p10_classes80_256", "p11_offset0_384"]
)
def test_trained_predictions_equal_brute_force(name):
    """Predictions that are good near their boxes, as those of a trained detector: scores in two clusters."""
    scene, predictions, _ = golden_image(name)
    seen: Counter[str] = Counter()
    assert_agree(scene, seen, predictions=predictions)
    assert seen["fragile"] <= 0.1 * seen["boxes"]


# ---- invariants -----------------------------------------------------------------------------------------------------


@given(scenes())
@settings(max_examples=10)
def test_positives_are_few_hard_and_inside(scene):
    result = run(build("paa", scene), scene)
    assert (result.negative_weight == 1).all()
    assert not result.losses
    table = rows(result)
    assert (table[:, 4:] == 1).all()
    _, counts = np.unique(table[:, :2], axis=0, return_counts=True)
    assert (counts <= 9).all()
    ours = assigned(result, scene.targets(), scene)  # asserts at most one box per location
    for image, boxes in enumerate(scene.boxes):
        for location in np.flatnonzero(ours[image] >= 0):
            x, y = scene.points.xy[location]
            x1, y1, x2, y2 = boxes[ours[image][location]]
            assert x1 < x < x2
            assert y1 < y < y2


@given(scenes(**SMALL))
@settings(max_examples=6)
def test_positives_are_a_prefix_of_the_candidates(scene):
    ours = answer(scene)
    for image in range(scene.num_images):
        result = oracle(scene, image)
        fragile = first_stage_is_fragile(scene, image, 0.1)
        for g in set(range(len(scene.boxes[image]))) - fragile:
            members = np.flatnonzero(result.own == g)
            positive = np.flatnonzero(ours[image] == g)
            assert set(positive) <= set(members)
            assert (len(positive) > 0) == (len(members) > 0)
            candidates = paa.candidates(result.own, result.cost, scene.points.level, g)
            left = np.setdiff1d(candidates, positive)
            if len(positive) and len(left):
                assert result.cost[positive].max() <= result.cost[left].min() * (1 + 2e-5) + 2e-5


@given(scenes(**SMALL, min_boxes=2), st.integers(0, 99))
@settings(max_examples=6)
def test_the_order_of_boxes_changes_nothing(scene, seed):
    targets, predictions = scene.targets(), scene.predictions(features=False)
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(targets.num_boxes, generator=generator)
    order = order[torch.sort(targets.image[order], stable=True).indices]
    assigner = build("paa", scene)
    plain = assigner(scene.grid, targets, predictions, scene.step())
    shuffled = assigner(scene.grid, permuted(targets, order), predictions, scene.step())
    a, b = rows(plain), rows(shuffled, order)
    # Boxes equal in everything are interchangeable: compare what a location learns, not the index of it.
    learnt = torch.cat((targets.boxes, targets.labels[:, None], targets.image[:, None]), dim=1).numpy()
    a, b = (np.concatenate((learnt[table[:, 0].astype(int)], table[:, 1:]), axis=1) for table in (a, b))
    np.testing.assert_array_equal(a[np.lexsort(a.T)], b[np.lexsort(b.T)])


@given(scenes(max_images=1, max_boxes=5), st.integers(0, 2), st.integers(0, 2))
@settings(max_examples=6)
def test_translation_by_the_coarsest_cell(scene, right, down):
    """Boxes and predictions, both on a lattice that float32 holds exactly, move by whole cells."""
    canvas = (1024, 1024)
    here = replace(scene, canvas=canvas, sizes=(canvas,), boxes=(scene.boxes[0] + 256,))
    shift = np.array([right, down, right, down], dtype=np.float32) * 128
    there = replace(here, boxes=(here.boxes[0] + shift,))
    predictions = here.predictions(features=False)
    distances = (predictions.distances * 8).round() / 8
    points = here.grid.points
    predictions = replace(
        predictions,
        distances=distances,
        boxes=torch.cat((points - distances[..., :2], points + distances[..., 2:]), dim=-1),
    )

    def moved(values: torch.Tensor) -> torch.Tensor:
        parts = []
        for (height, width), start, stride in zip(here.shapes, here.grid.starts, here.strides, strict=True):
            level = values[0, start : start + height * width].reshape(height, width, -1)
            parts.append(torch.roll(level, (down * 128 // stride, right * 128 // stride), (0, 1)).flatten(0, 1))
        return torch.cat(parts).reshape(values.shape)

    rolled = map_tensors(predictions, moved)
    rolled = replace(rolled, boxes=rolled.boxes + torch.from_numpy(shift))
    a = rows(build("paa", here)(here.grid, here.targets(), predictions, here.step()))
    b = rows(build("paa", there)(there.grid, there.targets(), rolled, there.step()))
    stride = np.array(here.strides)[a[:, 1].astype(int)]
    a[:, 2] += right * 128 / stride
    a[:, 3] += down * 128 / stride
    np.testing.assert_array_equal(a, b)


@given(scenes(**SMALL, min_boxes=1))
@settings(max_examples=6)
def test_a_constant_score_on_top_changes_nothing(scene):
    """A further class that every location predicts equally badly adds the same to every score."""
    predictions = scene.predictions(features=False)
    more = replace(scene, num_classes=scene.num_classes + 1)
    wider = torch.cat((predictions.logits, torch.full_like(predictions.logits[..., :1], 0.75)), dim=-1)
    plain, shifted = answer(scene, predictions), answer(more, replace(predictions, logits=wider))
    for image in range(scene.num_images):
        result = oracle(scene, image)
        different = plain[image] != shifted[image]
        boxes = {*plain[image][different].tolist(), *shifted[image][different].tolist()} - {-1}
        assert all(split_is_fragile(scene, result, g, 9) for g in boxes)


@given(scenes(**SMALL, min_boxes=1))
@settings(max_examples=6)
def test_relabelling_the_classes_changes_nothing(scene):
    predictions = scene.predictions(features=False)
    order = np.random.default_rng(scene.seed).permutation(scene.num_classes)
    relabelled = replace(scene, labels=tuple(np.argsort(order)[label] for label in scene.labels))
    plain = answer(scene, predictions)
    other = answer(relabelled, replace(predictions, logits=predictions.logits[..., torch.from_numpy(order)]))
    for image in range(scene.num_images):
        result = oracle(scene, image)
        different = plain[image] != other[image]
        boxes = {*plain[image][different].tolist(), *other[image][different].tolist()} - {-1}
        # Equal boxes of two classes change places: their tie goes by class.
        boxes -= {g for g in boxes if (scene.boxes[image] == scene.boxes[image][g]).all(axis=1).sum() > 1}
        assert all(split_is_fragile(scene, result, g, 9) for g in boxes)


@given(scenes(**SMALL, min_boxes=1))
@settings(max_examples=6)
def test_another_box_far_away_changes_nothing(scene):
    """Boxes that share no location do not know of each other."""
    scene = scene.single(0) if len(scene.boxes[0]) else scene
    canvas = (scene.canvas[0], scene.canvas[1] + 256)
    alone = replace(scene, canvas=canvas, sizes=(canvas,) * scene.num_images)
    other = np.array([[canvas[1] - 100, 7, canvas[1] - 12, 93]], dtype=np.float32)
    both = replace(
        alone,
        boxes=(np.concatenate((alone.boxes[0], other)), *alone.boxes[1:]),
        labels=(np.append(alone.labels[0], 2), *alone.labels[1:]),
    )
    a, b = answer(alone)[0], answer(both)[0]
    new = len(alone.boxes[0])
    assert (b == new).any()
    np.testing.assert_array_equal(a, np.where(b == new, -1, b))


def test_a_better_prediction_is_preferred():
    """Among the locations of one box those that predict it well are positive, wherever they lie."""
    scene = one_image([[32, 32, 160, 160]], labels=[3])
    predictions = scene.predictions(features=False)
    points = torch.from_numpy(scene.points.xy).float()
    good = (points[:, 0] > 112) & (points[:, 0] < 160) & (points[:, 1] > 112) & (points[:, 1] < 160)
    logits = torch.where(good[:, None], -6.0, 2.0).repeat(1, 5)
    logits[good, 3] = 6.0
    truth = torch.tensor([32.0, 32.0, 160.0, 160.0])
    boxes = torch.where(good[:, None], truth, torch.cat((points - 9, points + 9), dim=1))
    ours = answer(scene, replace(predictions, logits=logits[None], boxes=boxes[None]))[0]
    assert (ours >= 0).any()
    assert good.numpy()[ours >= 0].all()


# ---- extremes -------------------------------------------------------------------------------------------------------


@given(scenes(**SMALL, min_boxes=1), st.sampled_from([float("nan"), float("inf"), -float("inf")]), st.integers(0, 2))
@settings(max_examples=6)
def test_predictions_that_are_no_numbers(scene, value, where):
    """Part of the predictions, or all, are infinite or not a number: still one positive or more, all finite."""
    predictions = scene.predictions(features=False)
    broken = torch.from_numpy(
        np.random.default_rng(scene.seed).random(predictions.quality.shape) < (0.3, 0.3, 1)[where]
    )
    logits = torch.where(broken[..., None], value, predictions.logits) if where != 1 else predictions.logits
    boxes = torch.where(broken[..., None], value, predictions.boxes) if where != 0 else predictions.boxes
    bad = replace(predictions, logits=logits, boxes=boxes)
    result = build("paa", scene)(scene.grid, scene.targets(), bad, scene.step())
    ours = assigned(result, scene.targets(), scene)
    for tensor in (result.samples.uv, result.samples.label, result.samples.class_weight, result.negative_weight):
        assert torch.isfinite(tensor).all()
    for image in range(scene.num_images):
        theirs = oracle(scene, image, bad)
        fragile = first_stage_is_fragile(scene, image, 0.1)
        assert set(theirs.own[theirs.own >= 0].tolist()) - fragile <= set(ours[image].tolist())
        if np.isnan(value):  # a location that predicts nothing is the worst candidate, not the best
            different = ours[image] != theirs.assigned
            boxes = {*ours[image][different].tolist(), *theirs.assigned[different].tolist()} - {-1} - fragile
            assert all(split_is_fragile(scene, theirs, g, 9) for g in boxes)


@given(scenes(**SMALL), st.sampled_from([50.0, -50.0]))
@settings(max_examples=6)
def test_saturated_logits_and_boxes_without_area(scene, value):
    predictions = scene.predictions(features=False)
    points = scene.grid.points.expand(scene.num_images, -1, -1)
    flat = replace(
        predictions,
        logits=torch.full_like(predictions.logits, value),
        distances=torch.zeros_like(predictions.distances),
        boxes=torch.cat((points, points), dim=-1),
    )
    ours = answer(scene, flat)
    for image in range(scene.num_images):
        own = oracle(scene, image, flat).own
        sure = set(own[own >= 0].tolist()) - first_stage_is_fragile(scene, image, 0.1)
        assert sure <= set(ours[image].tolist())


def test_no_boxes():
    scene = one_image([])
    result = run(build("paa", scene), scene)
    assert not result.samples.ok.any()
    assert (result.negative_weight == 1).all()


def test_tiny_boxes_that_hold_no_location_learn_nothing():
    scene = one_image([[0, 0, 3, 3], [120, 120, 128, 128]])
    ours = answer(scene)[0]
    # Only as the best it can get does the second have the location (124, 124): its anchor overlaps it by 1/64.
    assert ours[np.flatnonzero((scene.points.xy == 124).all(axis=1))].tolist() == [1]
    assert (ours >= 0).sum() == 1


def test_thousands_of_boxes():
    rng = np.random.default_rng(0)
    corner = rng.uniform(0, 480, (3000, 2))
    boxes = np.concatenate((corner, np.minimum(corner + rng.uniform(4, 120, (3000, 2)), 512)), axis=1)
    boxes = np.round(boxes * 8) / 8
    scene = one_image(boxes, labels=rng.integers(0, 5, 3000), size=(512, 512))
    ours = answer(scene)[0]
    located = np.flatnonzero(ours >= 0)
    x, y = scene.points.xy[located].T
    x1, y1, x2, y2 = boxes[ours[located]].T
    assert ((x1 < x) & (x < x2) & (y1 < y) & (y < y2)).all()
    assert len(set(ours[located].tolist())) > 1000


@pytest.mark.parametrize(("option", "value"), [("topk", 0), ("iou", 1.5), ("iou", -0.1)])
def test_bad_options(option, value):
    with pytest.raises(ValueError, match=option):
        build("paa", one_image([]), **{option: value})
