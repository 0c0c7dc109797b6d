"""FreeAnchor against its slow version and the recorded answers of a published one, and the invariants of its rule."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from assigners.contract import Predictions
from assigners.ops.boxes import aligned_iou, decode
from assigners.parts.candidates import inside_pairs
from detector.loss import LossSettings, detection_losses
from harness.verify.answers import WEIGHTS
from harness.verify.published.cases import read_case
from harness.verify.published.compare import compare
from harness.verify.published.oracles import free_anchor
from harness.verify.published.oracles.geometry import iou
from harness.verify.subject import find_subject
from tests.assigners.common import assert_close_rows, build, permuted, rows, run
from tests.assigners.images import one_image
from tests.support.strategies import Scene, scenes
from tests.verify.test_oracles import GOLDEN

RECORDED = ["p01_one_256", "p02_empty_256", "p03_seven_320x416", "p10_classes80_256", "p12_aligned_320"]
SMALL = {"sides": (128, 256), "max_images": 2, "max_boxes": 6}


def fitting(scene: Scene, share: float = 0.5) -> Predictions:
    """Predictions some of which fit a box that holds their location, as after training; the others are at random."""
    maps, targets, rng = scene.predictions(features=False), scene.targets(), np.random.default_rng(scene.seed)
    distances = maps.distances.clone()
    for box, image in zip(targets.boxes, targets.image.tolist(), strict=True):
        near = torch.cat((scene.grid.points - box[:2], box[2:] - scene.grid.points), dim=1)
        chosen = (near.amin(dim=1) > 0) & torch.from_numpy(rng.random(len(near)) < share)
        noise = torch.from_numpy(rng.uniform(0.7, 1.4, tuple(near.shape)).astype(np.float32))
        distances[image] = torch.where(chosen[:, None], near * noise, distances[image])
    return replace(maps, distances=distances, boxes=decode(scene.grid.points, distances))


def answer(scene: Scene, maps: Predictions, **options: object):
    return build("free_anchor", scene, **options)(scene.grid, scene.targets(), maps, scene.step())


def one_picture(scene: Scene, maps: Predictions, image: int):
    """What the oracle takes of an image, and the labels."""
    logits, predicted = maps.logits[image].double().numpy(), maps.boxes[image].double().numpy()
    labels = scene.labels[image].tolist()
    return (scene.points, scene.boxes[image].astype(np.float64), logits, predicted), labels


def match_of(scene: Scene, maps: Predictions, **options: object) -> torch.Tensor:
    """How surely each location is taken by a box of each class, ``[B, R, C]``."""
    assigner, targets = build("free_anchor", scene, **options), scene.targets()
    match = assigner._match(scene.grid, targets, maps, inside_pairs(scene.grid, targets))
    return match.view(maps.logits.shape)


def bag_in(scene: Scene, **options: object) -> tuple[torch.Tensor, torch.Tensor]:
    """Location and existence of the members of each bag ``[G, bag]``."""
    assigner, targets = build("free_anchor", scene, **options), scene.targets()
    return assigner._bags(scene.grid, targets, inside_pairs(scene.grid, targets))


# ---- the rule -------------------------------------------------------------------------------------------------------


@given(scenes(**SMALL), st.sampled_from([{}, {"bag": 9, "beta": 2.0}, {"threshold": 0.3, "gamma": 1.5, "alpha": 0.2}]))
@settings(max_examples=15)
def test_losses_equal_the_slow_version(scene, options):
    maps = fitting(scene)
    found = answer(scene, maps, **options).losses
    expected: dict[str, list[float]] = {name: [0.0, 0.0] for name in found}
    for image in range(scene.num_images):
        picture, labels = one_picture(scene, maps, image)
        for name, pair in free_anchor.losses(*picture, labels=labels, **options).items():
            expected[name] = [a + b for a, b in zip(expected[name], pair, strict=True)]
    for name, pair in expected.items():
        assert [part.item() for part in found[name]] == pytest.approx(pair, rel=1e-4, abs=1e-6)


@pytest.mark.parametrize("name", RECORDED)
def test_recorded_answers(name):
    """The slow version gives the published losses, bags and matches; with the zoo's conventions, it gives ours."""
    verdicts = compare(find_subject("free_anchor"), read_case(GOLDEN / f"{name}.npz"), ["mmdet_freeanchor"])
    (verdict,) = verdicts
    assert verdict.status == "agrees", verdict.reason
    assert verdict.further.keys() >= {"positive_loss", "negative_loss_sum", "bag_prob", "box_prob"}
    assert verdict.losses is not None
    assert verdict.losses.compared == 2


@given(scenes(**SMALL, min_boxes=1))
@settings(max_examples=8)
def test_gradient_is_that_of_the_formula(scene):
    """Written out with autograd in float64, the bags taken from the slow version."""
    maps = fitting(scene)
    logits = maps.logits.double().requires_grad_()
    boxes = maps.boxes.double().requires_grad_()
    total = torch.zeros((), dtype=torch.float64)
    match = match_of(scene, maps).double()
    for image in range(scene.num_images):
        truths = torch.from_numpy(scene.boxes[image]).double()
        for box, label in zip(truths, scene.labels[image].tolist(), strict=True):
            bag = free_anchor.bag_of(scene.points, box.tolist(), 50)
            if bag:
                mine = boxes[image, bag]
                iou = aligned_iou(mine, box)
                hull = torch.maximum(mine[:, 2:], box[2:]) - torch.minimum(mine[:, :2], box[:2])
                area = (mine[:, 2:] - mine[:, :2]).prod(1) + (box[2:] - box[:2]).prod()
                union = area / (1 + iou)  # intersection = iou * union
                giou = iou - (hull.prod(1) - union) / hull.prod(1)
                x = logits[image, bag, label].sigmoid() * (-0.75 * (1 - giou)).exp()
                weight = 1 / (1 - x)
                total = total - 0.5 * ((weight * x).sum() / weight.sum()).log()
    u = logits.sigmoid() * (1 - match)
    total = total + 0.5 / 50 * (u.square() * -torch.log1p(-u)).sum()
    wanted = torch.autograd.grad(total, (logits, boxes), allow_unused=True)
    taught = replace(maps, logits=maps.logits.requires_grad_(), boxes=maps.boxes.requires_grad_())
    losses = answer(scene, taught).losses
    got = torch.autograd.grad(sum(part for part, _ in losses.values()), (taught.logits, taught.boxes))
    for ours, theirs in zip(got, wanted, strict=True):
        expected = torch.zeros_like(ours) if theirs is None else theirs.float()
        torch.testing.assert_close(ours, expected, rtol=2e-3, atol=1e-6)


# ---- invariants -----------------------------------------------------------------------------------------------------


@given(scenes(sides=(128, 256), max_images=1, max_boxes=1, min_boxes=1), st.sampled_from([1, 5, 50]))
def test_the_bag_is_as_likely_as_something_between_its_members(scene, bag):
    maps = fitting(scene)
    picture, labels = one_picture(scene, maps, 0)
    products = free_anchor.examine(*picture, labels=labels, bag=bag).products[0]
    total, count = answer(scene, maps, bag=bag, alpha=1.0).losses["positive_bag"]
    if not products:
        assert total.item() == count.item() == 0
        return
    likelihood = float(np.exp(-total.item()))
    assert min(products) * (1 - 1e-4) <= likelihood <= max(products) * (1 + 1e-4)
    if len(products) == 1:
        assert likelihood == pytest.approx(products[0], rel=1e-4)


def test_one_perfect_member_makes_the_bag_certain():
    scene = one_image([[20, 30, 120, 140]], size=(256, 256))
    maps = fitting(scene, share=0.0)
    assert answer(scene, maps, alpha=1.0).losses["positive_bag"][0] > 1
    best = free_anchor.bag_of(scene.points, [20.0, 30.0, 120.0, 140.0], 50)[0]
    maps.logits[0, best, :] = 20.0
    maps.boxes[0, best] = torch.tensor([20.0, 30, 120, 140])
    assert answer(scene, maps, alpha=1.0).losses["positive_bag"][0] < 1e-4


@given(scenes(**SMALL))
def test_matches(scene):
    """1 at the best prediction of each box, 0 up to the threshold, nothing for the classes of no box."""
    maps, targets = fitting(scene), scene.targets()
    match = match_of(scene, maps)
    assert ((match >= 0) & (match <= 1)).all()
    absent = torch.ones_like(match, dtype=torch.bool)
    for image in range(scene.num_images):
        here = targets.image == image
        low, high = targets.boxes[here, :2], targets.boxes[here, 2:]
        points = scene.grid.points[:, None]
        inside = ((points > low) & (points < high)).all(dim=2)
        iou = torch.where(inside, aligned_iou(maps.boxes[image][:, None], targets.boxes[here]), 0)  # [R, n]
        for k, label in enumerate(targets.labels[here].tolist()):
            absent[image, :, label] = False
            if len(iou) and iou[:, k].max() > 0.6:
                assert match[image, iou[:, k].argmax(), label] == 1
        for label in set(targets.labels[here].tolist()):
            missed = iou[:, targets.labels[here] == label].amax(dim=1) <= 0.6
            assert (match[image, missed, label] == 0).all()
    assert (match[absent] == 0).all()


@given(scenes(**SMALL, min_boxes=1))
@settings(max_examples=10)
def test_a_match_only_lightens_the_negative_term(scene):
    maps = fitting(scene)
    empty = replace(scene, boxes=(np.zeros((0, 4), np.float32),) * scene.num_images,
                    labels=(np.zeros(0, np.int64),) * scene.num_images)  # fmt: skip
    with_boxes, without = answer(scene, maps).losses, answer(empty, maps).losses
    assert 0 <= with_boxes["negative_bag"][0] <= without["negative_bag"][0] * (1 + 1e-6)
    assert without["positive_bag"][0] == without["positive_bag"][1] == 0


@given(scenes(**SMALL, min_boxes=2))
@settings(max_examples=10)
def test_the_order_of_boxes_changes_no_loss(scene):
    targets, maps = scene.targets(), fitting(scene)
    order = torch.argsort(targets.image * 1000 + torch.arange(targets.num_boxes).flip(0))
    assigner = build("free_anchor", scene)
    plain = assigner(scene.grid, targets, maps, scene.step())
    shuffled = assigner(scene.grid, permuted(targets, order), maps, scene.step())
    for name, (total, count) in plain.losses.items():
        torch.testing.assert_close(shuffled.losses[name][0], total)
        assert shuffled.losses[name][1] == count
    assert_close_rows(rows(plain), rows(shuffled, order), WEIGHTS)


@given(scenes(**SMALL))
@settings(max_examples=10)
def test_samples_teach_the_quality_branch_alone(scene):
    """One location per box that holds any: the likeliest of its bag."""
    result = run(build("free_anchor", scene), scene)
    s, targets = result.samples, scene.targets()
    assert torch.equal(s.gt, torch.arange(targets.num_boxes))
    assert not s.class_weight.any()
    assert not s.box_weight.any()
    assert torch.equal(s.quality_weight, s.ok.float())
    assert result.losses["positive_bag"][1] == s.ok.sum()
    maps = scene.predictions()
    for k in torch.nonzero(s.ok).flatten().tolist():
        image, box = int(targets.image[k]), targets.boxes[k].double().tolist()
        picture, labels = one_picture(scene, maps, image)
        bag = free_anchor.bag_of(scene.points, box, 50)
        products = free_anchor.examine(*picture, labels=labels, bags=[bag] * len(labels)).products
        location = int(
            scene.grid.level_start[s.level[k]] + s.uv[k, 1] * scene.grid.level_width[s.level[k]] + s.uv[k, 0]
        )
        own = products[int(targets.slot[k])]
        assert own[bag.index(location)] == pytest.approx(max(own), rel=1e-5)


# ---- the size of a bag ----------------------------------------------------------------------------------------------


def test_a_small_box_has_all_its_places_in_the_bag():
    """A box of 40 px at the corner holds 25 places of P3, four of P4 and one each of P5 and P6: 31 in all."""
    scene = one_image([[0, 0, 40, 40]])
    maps = fitting(scene)
    location, ok = bag_in(scene)
    assert sorted(location[0, ok[0]].tolist()) == sorted(free_anchor.bag_of(scene.points, [0.0, 0.0, 40.0, 40.0], 50))
    assert np.bincount(scene.points.level[location[0, ok[0]]]).tolist() == [25, 4, 1, 1]
    found = {bag: answer(scene, maps, bag=bag).losses for bag in (31, 50, 500)}
    for losses in found.values():
        torch.testing.assert_close(losses["positive_bag"][0], found[31]["positive_bag"][0])
    # The divisor is the bag as asked for, not as filled.
    negative = [bag * losses["negative_bag"][0].item() for bag, losses in found.items()]
    assert negative == pytest.approx([negative[0]] * 3, rel=1e-5)


def test_a_large_box_has_fifty():
    scene = one_image([[0, 0, 200, 220], [10, 10, 30, 30]])
    location, ok = bag_in(scene)
    assert ok.sum(dim=1).tolist() == [50, len(free_anchor.bag_of(scene.points, [10.0, 10.0, 30.0, 30.0], 50))]
    assert len(set(location[0].tolist())) == 50  # places: no location is in a bag twice
    theirs = free_anchor.bag_of(scene.points, [0.0, 0.0, 200.0, 220.0], 50)
    overlaps = [
        sorted(iou(scene.points.anchor(r), [0.0, 0.0, 200.0, 220.0]) for r in members)
        for members in (theirs, location[0].tolist())
    ]
    assert overlaps[0] == pytest.approx(overlaps[1], abs=1e-6)  # equal overlaps leave a choice


@given(scenes(sides=(128,), max_images=2, max_boxes=4), st.sampled_from([20, 50]))
@settings(max_examples=10)
def test_maps_with_fewer_places_than_a_bag(scene, bag):
    """21 locations in all."""
    small = replace(scene, strides=(32, 64, 128))
    assert small.grid.num_locations < 50
    maps = fitting(small)
    found = answer(small, maps, bag=bag).losses
    expected = dict.fromkeys(found, 0.0)
    for image in range(small.num_images):
        picture, labels = one_picture(small, maps, image)
        for name, (total, _) in free_anchor.losses(*picture, labels=labels, bag=bag).items():
            expected[name] += total
    for name, total in expected.items():
        assert found[name][0].item() == pytest.approx(total, rel=1e-4, abs=1e-6)


@given(scenes(**SMALL, min_boxes=1))
@settings(max_examples=10)
def test_a_smaller_bag_is_the_beginning_of_a_larger_one(scene):
    maps = fitting(scene)
    few, many = bag_in(scene, bag=9), bag_in(scene, bag=50)
    for g in range(scene.targets().num_boxes):
        inner, outer = ({*location[g, ok[g]].tolist()} for location, ok in (few, many))
        assert inner <= outer
        assert len(inner) == min(9, len(outer))
    assert answer(scene, maps, bag=9).losses["positive_bag"][1] == answer(scene, maps).losses["positive_bag"][1]


# ---- edges ----------------------------------------------------------------------------------------------------------


def test_a_hopeless_bag_still_learns():
    scene = one_image([[20, 30, 120, 140]])
    maps = scene.predictions(features=False)
    point = scene.grid.points[None]
    maps = replace(
        maps,
        logits=torch.full_like(maps.logits, -80).requires_grad_(),
        boxes=torch.cat((point, point + 0.01), dim=2).requires_grad_(),
    )
    total = answer(scene, maps).losses["positive_bag"][0]
    by_logit, by_box = torch.autograd.grad(total, (maps.logits, maps.boxes))
    assert 40 < total < 50
    assert torch.isfinite(by_box).all()
    assert by_box.abs().sum() > 0
    assert by_logit.sum().item() == pytest.approx(-0.5, rel=1e-3)


def test_a_box_between_the_locations_counts_nowhere():
    scene = one_image([[4.5, 4.5, 7.5, 7.5], [20, 30, 120, 140]])
    result = answer(scene, scene.predictions(features=False))
    assert result.samples.ok.tolist() == [False, True]
    assert result.losses["positive_bag"][1] == 1
    nothing = answer(one_image([[4.5, 4.5, 7.5, 7.5]]), scene.predictions(features=False))
    assert nothing.losses["positive_bag"][0] == 0


def test_a_class_is_no_negative_in_an_ignore_region():
    scene = one_image([[150, 150, 240, 240]])
    region = torch.tensor([[10.0, 20, 100, 90]])
    maps = scene.predictions(features=False)
    maps = replace(maps, logits=maps.logits.requires_grad_())
    result = build("free_anchor", scene)(scene.grid, scene.targets(ignore=[region]), maps, scene.step())
    (gradient,) = torch.autograd.grad(result.losses["negative_bag"][0], maps.logits)
    points = scene.grid.points
    held = ((points > region[0, :2]) & (points < region[0, 2:])).all(dim=1)
    assert held.any()
    assert (gradient[0, held] == 0).all()
    assert (gradient[0, ~held].amax(dim=1) > 0).any()


def test_replaced_terms_are_not_in_the_loss():
    scene = one_image([[20, 30, 120, 140]])
    assigner, maps = build("free_anchor", scene), scene.predictions(features=False)
    result = assigner(scene.grid, scene.targets(), maps, scene.step())
    losses, _ = detection_losses(LossSettings(), scene.grid, scene.targets(), maps, result, assigner.declares.replaces)
    assert losses.keys() == {"quality", "positive_bag", "negative_bag"}
    assert losses["quality"] > 0


@pytest.mark.parametrize(
    "options", [{"bag": 0}, {"threshold": 1.0}, {"threshold": -0.1}, {"alpha": 1.5}, {"gamma": -1.0}, {"beta": -1.0}]
)
def test_bad_options_name_themselves(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        build("free_anchor", one_image([]), **options)


def test_without_predictions_it_says_so():
    scene = one_image([[1, 2, 30, 40]])
    with pytest.raises(ValueError, match="predictions"):
        build("free_anchor", scene)(scene.grid, scene.targets(), None, scene.step())
