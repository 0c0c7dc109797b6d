"""Dynamic soft labels by pair lists against brute force over all locations, and the invariants of the rule."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from assigners.contract import Declares, Predictions
from assigners.rules.dsla import soft_class_cost
from harness.verify.published.cases import golden_files, read_case
from harness.verify.published.compare import compare
from harness.verify.published.oracles import dsla
from harness.verify.published.oracles.sim_ota import Result
from harness.verify.subject import find_subject
from tests.assigners.common import assigned, build
from tests.assigners.images import HARD, hard_images, one_image
from tests.assigners.test_dynamic_k import rounding_decides, trained
from tests.support.strategies import Scene, scenes
from tests.verify.test_oracles import GOLDEN

SMALL = {"sides": (128, 256), "max_boxes": 8}


def run(scene: Scene, predictions: Predictions | None = None, **options: object):
    predictions = predictions or trained(scene)
    return build("dsla", scene, **options)(scene.grid, scene.targets(), predictions, scene.step())


def answer(scene: Scene, predictions: Predictions | None = None, **options: object):
    """Slot of the box that each location learns ``[B, R]``, -1 where none."""
    return assigned(run(scene, predictions, **options), scene.targets(), scene)


def oracle(scene: Scene, image: int, predictions: Predictions | None = None, **options) -> Result:
    predictions = predictions or trained(scene)
    return dsla.examine(
        scene.points,
        scene.boxes[image].astype(np.float64),
        predictions.logits[image].double().numpy(),
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
            fragile = rounding_decides(scene, image, result, options.get("topk", 13))
            assert not (wrong & ~fragile).any()


def same_everywhere(scene: Scene, box: list[float]) -> Predictions:
    """One predicted box and no opinion on classes at every location."""
    predictions = scene.predictions(features=False)
    boxes = torch.tensor(box).expand_as(predictions.boxes)
    return replace(predictions, boxes=boxes, logits=torch.zeros_like(predictions.logits))


# ---- the rule --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options", [{}, {"topk": 3, "radius": 1.0}, {"topk": 20, "radius": 6.0}, {"iou_weight": 0.5}], ids=str
)
def test_equals_brute_force(options):
    seen: Counter[str] = Counter()

    @given(scenes(max_images=2, min_boxes=2, max_boxes=8), st.booleans())
    @settings(max_examples=12)
    def check(scene, good):
        assert_agree(scene, seen, trained(scene) if good else scene.predictions(features=False), **options)

    check()
    assert seen["positives"] > 50
    assert seen["wrong"] <= 0.01 * seen["positives"]


@pytest.mark.parametrize("kind", HARD)
def test_hard_boxes_equal_brute_force(kind):
    seen: Counter[str] = Counter()
    for scene in hard_images(kind, 3):
        assert_agree(scene, seen)
    assert seen["wrong"] <= 0.05 * seen["positives"]


def test_published_answers():
    """The oracle with the peer's conventions is the peer, and the assigner is the oracle with the zoo's."""
    subject = find_subject("dsla")
    for path in golden_files(GOLDEN):
        (verdict,) = compare(subject, read_case(path), only=["mmdet_dynsoft"])
        assert verdict.status == "agrees", verdict
        assert verdict.oracle is not None
        assert verdict.product is not None
        assert verdict.oracle.all_equal
        assert verdict.product.all_equal
        assert verdict.oracle.compared > 0.95 * verdict.points
        assert verdict.further["soft"].all_equal


@given(st.integers(0, 99), st.sampled_from([1, 3, 80]), st.sampled_from([1.0, 8.0]))
def test_the_factorised_cost_is_the_explicit_one(seed, classes, scale):
    rng = np.random.default_rng(seed)
    logits = torch.from_numpy(rng.normal(0, scale, (2, 60, classes))).float()
    cell, overlap = torch.from_numpy(rng.integers(0, 120, 40)), torch.from_numpy(rng.random(40)).float()
    channel = torch.from_numpy(rng.integers(0, classes, 40))
    z = logits.double().flatten(0, 1)[cell]
    y = F.one_hot(channel, classes).double() * overlap.double()[:, None]
    entropy = F.binary_cross_entropy_with_logits(z, y, reduction="none")
    explicit = ((y - z.sigmoid()).square() * entropy).sum(dim=1)
    ours = soft_class_cost(logits, cell, channel, overlap).double()
    torch.testing.assert_close(ours, explicit, rtol=1e-4, atol=1e-4)


# ---- invariants ------------------------------------------------------------------------------------------------------


@given(scenes())
@settings(max_examples=10)
def test_few_soft_positives_inside(scene):
    result = run(scene)
    s, targets = result.samples, scene.targets()
    assert (result.negative_weight == 1).all()
    assert not result.losses
    ours = assigned(result, targets, scene)  # asserts at most one box per location
    location = scene.grid.level_start[s.level] + (s.uv[:, 1] * scene.grid.level_width[s.level] + s.uv[:, 0]).long()
    label = np.zeros(ours.shape)
    label[targets.image[s.gt[s.ok]], location[s.ok]] = s.label[s.ok]
    for image, boxes in enumerate(scene.boxes):
        expected = oracle(scene, image)
        same = ours[image] == expected.assigned
        np.testing.assert_allclose(label[image][same], expected.soft[same], atol=1e-5)
        assert ((expected.k >= 1) & (expected.k <= 13)).all()
        _, counts = np.unique(ours[image][ours[image] >= 0], return_counts=True)
        assert (counts <= 13).all()
        for place in np.flatnonzero(ours[image] >= 0):
            box, point = boxes[ours[image][place]], scene.points.xy[place]
            assert (box[:2] < point).all()
            assert (point < box[2:]).all()
    assert (s.box_weight == s.ok.float()).all()
    assert (s.class_weight == s.ok.float()).all()


@given(scenes(**SMALL, max_images=2))
@settings(max_examples=8)
def test_without_conflicts_a_box_gets_k_or_all_candidates(scene):
    ours = answer(scene)
    for image in range(scene.num_images):
        result = oracle(scene, image)
        fragile = rounding_decides(scene, image, result, 13)
        conflicts = result.taken.sum(axis=1) > 1
        for g in range(len(scene.boxes[image])):
            got = int((ours[image] == g).sum())
            asked = min(int(result.k[g]), int(result.able[:, g].sum()))
            if (fragile & result.able[:, g]).any():
                continue
            assert got <= asked
            if not (conflicts & result.taken[:, g]).any():
                assert got == asked


@given(scenes(**SMALL, max_images=2, min_boxes=1))
@settings(max_examples=6)
def test_a_constant_class_cost_on_top_changes_nothing(scene):
    """A further class that every location predicts equally badly adds the same to every cost."""
    predictions = trained(scene)
    more = replace(scene, num_classes=scene.num_classes + 1)
    wider = torch.cat((predictions.logits, torch.full_like(predictions.logits[..., :1], 0.75)), dim=-1)
    plain, shifted = answer(scene, predictions), answer(more, replace(predictions, logits=wider))
    for image in range(scene.num_images):
        fragile = rounding_decides(scene, image, oracle(scene, image), 13)
        np.testing.assert_array_equal(plain[image][~fragile], shifted[image][~fragile])


@given(scenes(**SMALL, max_images=1, min_boxes=1))
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


def test_of_equal_predictions_those_near_the_centre_are_taken():
    scene = one_image([[64, 64, 192, 192]], labels=[1])
    ours = answer(scene, same_everywhere(scene, [64.0, 64.0, 192.0, 192.0]))[0]
    strides_away = np.linalg.norm(scene.points.xy - 128, axis=1) / scene.points.stride
    inside = np.abs(scene.points.xy - 128).max(axis=1) < 64
    assert (ours >= 0).sum() == 13
    assert strides_away[ours >= 0].max() <= strides_away[inside & (ours < 0)].min()


def test_distance_is_a_price_and_no_border():
    """The only locations that predict the box lie far out: they are taken."""
    scene = one_image([[0, 0, 256, 256]], labels=[1])
    predictions = same_everywhere(scene, [250.0, 250.0, 255.0, 255.0])
    far = (scene.points.stride == 8) & (np.abs(scene.points.xy - [88, 128]).max(axis=1) < 8)
    boxes = predictions.boxes.clone()
    boxes[0, far] = torch.tensor([0.0, 0.0, 256.0, 256.0])
    ours = answer(scene, replace(predictions, boxes=boxes), radius=6.0)[0]
    assert far.sum() == 4
    assert (ours[far] == 0).all()
    assert (ours >= 0).sum() == 4


# ---- options and extremes --------------------------------------------------------------------------------------------


def test_what_the_authors_add_is_off_and_declared():
    scene = one_image([[64, 64, 192, 192]], labels=[1])
    predictions = same_everywhere(scene, [64.0, 64.0, 192.0, 128.0])
    assert build("dsla", scene).declares == Declares()
    assert build("dsla", scene, normaliser="labels").declares == Declares(normaliser="labels")
    plain, weighted = run(scene, predictions).samples, run(scene, predictions, box_weight="iou").samples
    assert plain.box_weight[plain.ok].tolist() == [1.0] * 6
    torch.testing.assert_close(weighted.box_weight[weighted.ok], torch.full((6,), 0.5))
    assert torch.equal(plain.label, weighted.label)


@given(scenes(**SMALL, max_images=2, min_boxes=1), st.sampled_from([float("nan"), float("inf"), -float("inf")]))
@settings(max_examples=6)
def test_a_location_that_predicts_nothing_is_the_last_choice(scene, value):
    """Where all boxes predict their truth, but some locations no class: these are not taken."""
    predictions = trained(scene)
    broken = torch.from_numpy(np.random.default_rng(scene.seed).random(predictions.quality.shape) < 0.5)
    bad = replace(predictions, logits=torch.where(broken[..., None], value, predictions.logits))
    result = run(scene, bad)
    ours = assigned(result, scene.targets(), scene)
    assert torch.isfinite(result.samples.label).all()
    if np.isnan(value):
        for image in range(scene.num_images):
            expected = oracle(scene, image, bad)
            hopeless = broken[image].numpy()[:, None] & expected.able
            expected.cost[hopeless] = dsla.LARGEST_COST
            for g in range(len(scene.boxes[image])):
                sound = int((expected.able[:, g] & ~hopeless[:, g]).sum())
                taken_broken = int(((ours[image] == g) & hopeless[:, g]).sum())
                assert taken_broken <= max(0, int(expected.k[g]) - sound)


def test_a_box_of_hundreds_of_strides():
    """Beyond 41 strides the price is no float32 number any more."""
    scene = replace(one_image([[0, 1, 4096, 7]], labels=[0], size=(128, 4096)), strides=(8,))
    ours = answer(scene, same_everywhere(scene, [0.0, 1.0, 4096.0, 7.0]))[0]
    (columns,) = np.nonzero(ours.reshape(16, 512)[0] >= 0)
    assert columns.tolist() == list(range(249, 262))  # the centre lies between 255 and 256; a tie goes to the left


def test_equal_boxes_share_their_locations():
    box = [61.0, 66.5, 189.0, 194.5]  # its centre lies nearer to some location than to any other
    twice, once = one_image([box] * 2, labels=[1, 1]), one_image([box], labels=[1])
    ours, alone = (answer(scene, same_everywhere(scene, box))[0] for scene in (twice, once))
    # Both take the same ones; their costs are equal but for rounding, which says which of the two keeps each.
    assert (ours >= 0).sum() == 13
    np.testing.assert_array_equal(ours >= 0, alone >= 0)


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
        build("dsla", scene)(scene.grid, scene.targets(), None, scene.step())


@pytest.mark.parametrize(
    ("option", "value"),
    [("topk", 0), ("radius", -1.0), ("iou_weight", -0.5), ("box_weight", "label"), ("normaliser", "positives")],
)
def test_bad_options(option, value):
    with pytest.raises(ValueError, match=option):
        build("dsla", one_image([]), **{option: value})
