"""SimOTA by windows against brute force over all locations, and the invariants of its rule."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from assigners.contract import Predictions
from assigners.rules.sim_ota import sqrt_product
from harness.verify.published.cases import golden_files, read_case
from harness.verify.published.compare import compare
from harness.verify.published.oracles import sim_ota
from harness.verify.subject import find_subject
from tests.assigners.common import assigned, build
from tests.assigners.images import HARD, hard_images, one_image
from tests.assigners.test_dynamic_k import rounding_decides, trained
from tests.support.strategies import Scene, scenes
from tests.verify.test_oracles import GOLDEN

SMALL = {"sides": (128, 256), "max_images": 2, "max_boxes": 8}


def run(scene: Scene, predictions: Predictions | None = None, **options: object):
    predictions = predictions or trained(scene)
    return build("sim_ota", scene, **options)(scene.grid, scene.targets(), predictions, scene.step())


def answer(scene: Scene, predictions: Predictions | None = None, **options: object):
    """Slot of the box that each location learns ``[B, R]``, -1 where none."""
    return assigned(run(scene, predictions, **options), scene.targets(), scene)


def labels(scene: Scene, predictions: Predictions | None = None, **options: object):
    """Label of the box that each location learns ``[B, R]``, 0 where none."""
    result, targets = run(scene, predictions, **options), scene.targets()
    s, found = result.samples, np.zeros((scene.num_images, scene.grid.num_locations))
    location = scene.grid.level_start[s.level] + (s.uv[:, 1] * scene.grid.level_width[s.level] + s.uv[:, 0]).long()
    found[targets.image[s.gt[s.ok]], location[s.ok]] = s.label[s.ok]
    return found


def oracle(scene: Scene, image: int, predictions: Predictions | None = None, **options) -> sim_ota.Result:
    predictions = predictions or trained(scene)
    return sim_ota.examine(
        scene.points,
        scene.boxes[image].astype(np.float64),
        predictions.logits[image].double().numpy(),
        predictions.quality[image].double().numpy(),
        predictions.boxes[image].double().numpy(),
        labels=scene.labels[image].tolist(),
        **options,
    )


def assert_agree(scene: Scene, seen: Counter[str], predictions: Predictions | None = None, **options) -> None:
    """Every location that differs from the oracle must be one that rounding decides; count how many do."""
    ours = answer(scene, predictions, **options)
    for image in range(scene.num_images):
        result = oracle(scene, image, predictions, **options)
        wrong = ours[image] != result.assigned
        seen["positives"] += int((result.assigned >= 0).sum())
        seen["wrong"] += int(wrong.sum())
        if wrong.any():
            fragile = rounding_decides(scene, image, result, options.get("topk", 10))
            assert not (wrong & ~fragile).any()


# ---- the rule --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"topk": 3, "radius": 1.25},
        {"score": "sqrt_product", "iou_weight": 1.5, "class_weight": 2.0},
        {"radius": 30.0, "topk": 20},
    ],
    ids=str,
)
def test_equals_brute_force(options):
    seen: Counter[str] = Counter()

    @given(scenes(max_images=2, min_boxes=3), st.booleans())
    def check(scene, good):
        assert_agree(scene, seen, trained(scene) if good else scene.predictions(features=False), **options)

    check()
    assert seen["positives"] > 100
    assert seen["wrong"] <= 0.01 * seen["positives"]


@pytest.mark.parametrize("kind", HARD)
def test_hard_boxes_equal_brute_force(kind):
    seen: Counter[str] = Counter()
    for scene in hard_images(kind, 3):
        assert_agree(scene, seen)
    assert seen["wrong"] <= 0.05 * seen["positives"]


@given(scenes(**SMALL))
@settings(max_examples=6)
def test_the_soft_label_is_the_overlap_of_the_predicted_box(scene):
    soft, hard = labels(scene, label="iou"), labels(scene)
    for image in range(scene.num_images):
        result = oracle(scene, image)
        same = answer(scene)[image] == result.assigned
        np.testing.assert_allclose(soft[image][same], result.soft[same], atol=1e-5)
    assert set(np.unique(hard)) <= {0.0, 1.0}
    np.testing.assert_array_equal(hard > 0, answer(scene, label="iou") >= 0)


def test_published_answers():
    """The oracle with the peer's conventions is the peer, and the assigner is the oracle with the zoo's."""
    subject = find_subject("sim_ota")
    for path in golden_files(GOLDEN):
        (verdict,) = compare(subject, read_case(path), only=["mmdet_simota"])
        assert verdict.status == "agrees", verdict
        assert verdict.oracle is not None
        assert verdict.product is not None
        assert verdict.oracle.all_equal
        assert verdict.product.all_equal
        assert verdict.oracle.compared > 0.95 * verdict.points
        assert verdict.further["soft"].all_equal


# ---- costs -----------------------------------------------------------------------------------------------------------


@given(st.integers(0, 99), st.sampled_from([1, 3, 80]), st.sampled_from(["class", "sqrt_product"]))
def test_the_factorised_cost_is_the_explicit_one(seed, classes, score):
    scene = replace(one_image([[8, 8, 120, 90], [30, 40, 60, 120]], labels=[0, classes - 1]), num_classes=classes)
    predictions = replace(scene, seed=seed).predictions(features=False)
    cell = torch.from_numpy(np.random.default_rng(seed).integers(0, scene.grid.num_locations, (2, 40)))
    targets = scene.targets()
    ours = build("sim_ota", scene, score=score)._class_cost(predictions, cell, targets.labels)
    p = predictions.logits[0].double().sigmoid()
    if score == "sqrt_product":
        p = (p * predictions.quality[0].double().sigmoid()[:, None]).sqrt()
    onehot = F.one_hot(targets.labels, classes).double()[:, None].expand(-1, 40, -1)
    explicit = F.binary_cross_entropy(p[cell], onehot, reduction="none").sum(dim=-1)
    torch.testing.assert_close(ours.double(), explicit, rtol=1e-4, atol=1e-4)


def test_products_of_saturated_probabilities_stay_finite():
    value = torch.tensor([-float("inf"), -1e4, -50.0, 0.0, 50.0, 1e4, float("inf")])
    logits = sqrt_product(value[:, None], value[None])
    assert torch.isfinite(logits).all()
    assert (logits.diff(dim=0) >= 0).all()
    assert logits[3, 3].item() == pytest.approx(0.0, abs=1e-6)  # the root of 1/2 times 1/2


# ---- invariants ------------------------------------------------------------------------------------------------------


@given(scenes())
@settings(max_examples=10)
def test_few_hard_positives_inside_and_near(scene):
    result = run(scene)
    assert (result.negative_weight == 1).all()
    assert not result.losses
    ours = assigned(result, scene.targets(), scene)  # asserts at most one box per location
    for image, boxes in enumerate(scene.boxes):
        k = oracle(scene, image).k
        _, counts = np.unique(ours[image][ours[image] >= 0], return_counts=True)
        assert ((k >= 1) & (k <= 10)).all()
        assert (counts <= 10).all()
        for location in np.flatnonzero(ours[image] >= 0):
            box, point = boxes[ours[image][location]], scene.points.xy[location]
            assert (box[:2] < point).all()
            assert (point < box[2:]).all()
            offset = np.abs(point - (box[:2] + box[2:]) / 2).max()
            assert offset < 2.5 * scene.points.stride[location]


@given(scenes(**SMALL))
@settings(max_examples=8)
def test_without_conflicts_a_box_gets_k_or_all_candidates(scene):
    ours = answer(scene)
    for image in range(scene.num_images):
        result = oracle(scene, image)
        fragile = rounding_decides(scene, image, result, 10)
        conflicts = result.taken.sum(axis=1) > 1
        for g in range(len(scene.boxes[image])):
            got = int((ours[image] == g).sum())
            asked = min(int(result.k[g]), int(result.able[:, g].sum()))
            if (fragile & result.able[:, g]).any():
                continue
            assert got <= asked
            if not (conflicts & result.taken[:, g]).any():
                assert got == asked


@given(scenes(**SMALL, min_boxes=1))
@settings(max_examples=6)
def test_a_constant_class_cost_on_top_changes_nothing(scene):
    """A further class that every location predicts equally badly adds the same to every cost."""
    predictions = trained(scene)
    more = replace(scene, num_classes=scene.num_classes + 1)
    wider = torch.cat((predictions.logits, torch.full_like(predictions.logits[..., :1], 0.75)), dim=-1)
    plain, shifted = answer(scene, predictions), answer(more, replace(predictions, logits=wider))
    for image in range(scene.num_images):
        fragile = rounding_decides(scene, image, oracle(scene, image), 10)
        np.testing.assert_array_equal(plain[image][~fragile], shifted[image][~fragile])


@given(scenes(sides=(128, 256), max_images=1, min_boxes=1, max_boxes=8))
@settings(max_examples=6)
def test_another_box_far_away_changes_nothing(scene):
    """Boxes that share no location do not know of each other."""
    canvas = (scene.canvas[0], scene.canvas[1] + 256)
    alone = replace(scene, canvas=canvas, sizes=(canvas,))
    other = np.array([[canvas[1] - 100, 7, canvas[1] - 12, 93]], dtype=np.float32)
    both = replace(alone, boxes=(np.concatenate((alone.boxes[0], other)),), labels=(np.append(alone.labels[0], 2),))
    predictions = trained(both)
    a, b = answer(alone, predictions)[0], answer(both, predictions)[0]
    new = len(alone.boxes[0])
    assert (b == new).any()
    np.testing.assert_array_equal(a, np.where(b == new, -1, b))


def test_better_overlaps_ask_for_more_locations():
    scene = one_image([[64, 64, 192, 192]], labels=[1])
    truth = torch.tensor([64.0, 64.0, 192.0, 192.0]).expand(1, scene.grid.num_locations, 4)
    half = torch.tensor([64.0, 64.0, 192.0, 128.0]).expand_as(truth)
    predictions = scene.predictions(features=False)
    counts = [(answer(scene, replace(predictions, boxes=boxes)) >= 0).sum() for boxes in (truth, half)]
    assert counts == [10, 5]


def test_the_class_that_is_told_apart_is_preferred():
    """Equal boxes everywhere: the locations that know the class are positive."""
    scene = one_image([[64, 64, 192, 192]], labels=[1])
    truth = torch.tensor([64.0, 64.0, 192.0, 192.0]).expand(1, scene.grid.num_locations, 4)
    knows = torch.arange(scene.grid.num_locations) % 3 == 0
    logits = torch.full((1, scene.grid.num_locations, 5), -3.0)
    logits[0, knows, 1] = 3.0
    predictions = replace(scene.predictions(features=False), boxes=truth, logits=logits)
    ours = answer(scene, predictions)[0]
    assert (ours >= 0).sum() == 10
    assert knows.numpy()[ours >= 0].all()


# ---- extremes --------------------------------------------------------------------------------------------------------


@given(scenes(**SMALL, min_boxes=1), st.sampled_from([float("nan"), float("inf"), -float("inf")]))
@settings(max_examples=6)
def test_a_location_that_predicts_nothing_is_the_last_choice(scene, value):
    predictions = trained(scene)
    broken = torch.from_numpy(np.random.default_rng(scene.seed).random(predictions.quality.shape) < 0.5)
    bad = replace(predictions, boxes=torch.where(broken[..., None], value, predictions.boxes))
    ours = answer(scene, bad)
    for image in range(scene.num_images):
        able = oracle(scene, image).able
        for g in range(len(scene.boxes[image])):
            chosen = ours[image] == g
            sound = able[:, g] & ~broken[image].numpy()
            # A broken location has no overlap to ask with: only its box's very first choice may be one.
            assert (chosen & broken[image].numpy()).sum() <= (0 if sound.any() else 1)


def test_equal_boxes_share_their_locations():
    scene = one_image([[64, 64, 192, 192]] * 2, labels=[1, 1])
    truth = torch.tensor([64.0, 64.0, 192.0, 192.0]).expand(1, scene.grid.num_locations, 4)
    ours = answer(scene, replace(scene.predictions(features=False), boxes=truth))[0]
    # Both take the same ten; the first of the two keeps them.
    assert (ours == 0).sum() == 10
    assert (ours == 1).sum() == 0


def test_no_boxes():
    result = run(one_image([]))
    assert not result.samples.ok.any()
    assert (result.negative_weight == 1).all()


def test_tiny_boxes_that_hold_no_location_learn_nothing():
    ours = answer(one_image([[0, 0, 3, 3], [120, 120, 128, 128]]))[0]
    assert np.flatnonzero(ours >= 0).tolist() == np.flatnonzero((one_image([]).points.xy == 124).all(axis=1)).tolist()


def test_thousands_of_boxes():
    rng = np.random.default_rng(0)
    corner = rng.uniform(0, 480, (3000, 2))
    boxes = np.concatenate((corner, np.minimum(corner + rng.uniform(4, 120, (3000, 2)), 512)), axis=1)
    scene = one_image(np.round(boxes * 8) / 8, labels=rng.integers(0, 5, 3000), size=(512, 512))
    ours = answer(scene, scene.predictions(features=False))[0]
    assert len(set(ours.tolist())) > 500


def test_it_needs_predictions():
    scene = one_image([])
    with pytest.raises(ValueError, match="predictions"):
        build("sim_ota", scene)(scene.grid, scene.targets(), None, scene.step())


@pytest.mark.parametrize(
    ("option", "value"),
    [("topk", 0), ("radius", 0.0), ("radius", -1.0), ("iou_weight", -1.0), ("class_weight", -0.5), ("score", "quality"),
     ("label", "soft")],
)  # fmt: skip
def test_bad_options(option, value):
    with pytest.raises(ValueError, match=option):
        build("sim_ota", one_image([]), **{option: value})
