"""AutoAssign against its slow version and the recorded answers of a published one, and the invariants of its rule."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from assigners.contract import Assigner, Predictions
from assigners.ops.boxes import aligned_iou
from assigners.parts import likelihood
from assigners.parts.candidates import inside_pairs
from detector.loss import LossSettings, detection_losses
from harness.verify.answers import WEIGHTS
from harness.verify.published.cases import read_case
from harness.verify.published.compare import compare
from harness.verify.published.oracles import auto_assign
from harness.verify.subject import find_subject
from tests.assigners.common import assert_close_rows, build, permuted, rows
from tests.assigners.images import one_image
from tests.assigners.test_free_anchor import fitting
from tests.support.strategies import Scene, scenes
from tests.verify.test_oracles import GOLDEN

RECORDED = ["p01_one_256", "p02_empty_256", "p06_tiny_512", "p10_classes80_256", "p12_aligned_320"]
SMALL = {"sides": (128, 256), "max_images": 2, "max_boxes": 6}
TERMS = ("positive", "negative", "center")


def answer(scene: Scene, maps: Predictions, assigner: Assigner | None = None):
    assigner = assigner if assigner is not None else build("auto_assign", scene)
    return assigner(scene.grid, scene.targets(), maps, scene.step())


def learnt(assigner: Assigner) -> dict[str, np.ndarray]:
    """mu and sigma ``[C, 2]``."""
    return {
        "mu": assigner.mu.detach().double().numpy(),
        "sigma": assigner.log_sigma.detach().double().exp().numpy(),
    }


def slow(scene: Scene, maps: Predictions, image: int, assigner: Assigner, **asked) -> auto_assign.Result:
    picture = (
        scene.points,
        scene.boxes[image].astype(np.float64),
        *(m[image].detach().double().numpy() for m in (maps.logits, maps.quality, maps.boxes)),
    )
    return auto_assign.examine(*picture, labels=scene.labels[image].tolist(), **learnt(assigner), **asked)


def match_of(scene: Scene, maps: Predictions) -> Tensor:
    """``1 - w-``, ``[B, R, C]``."""
    assigner, targets = build("auto_assign", scene), scene.targets()
    pairs = inside_pairs(scene.grid, targets)
    channel = pairs.cell * maps.logits.shape[-1] + targets.labels[pairs.gt]
    return assigner._match(targets, maps, pairs, channel).view(maps.logits.shape)


def taught(maps: Predictions) -> Predictions:
    logits, quality, boxes = (m.clone().requires_grad_() for m in (maps.logits, maps.quality, maps.boxes))
    return replace(maps, logits=logits, quality=quality, boxes=boxes)


def gradients(result, assigner: Assigner, maps: Predictions) -> tuple[Tensor, ...]:
    total = torch.stack([part / count.clamp(min=1) for part, count in result.losses.values()]).sum()
    return torch.autograd.grad(total, (maps.logits, maps.quality, maps.boxes, assigner.mu, assigner.log_sigma))


# ---- the rule -------------------------------------------------------------------------------------------------------


@given(scenes(**SMALL), st.sampled_from([{}, {"alpha": 0.5, "gamma": 1.5, "beta": 2.0, "center": 0.1}]))
@settings(max_examples=15)
def test_losses_equal_the_slow_version(scene, options):
    maps, assigner = fitting(scene), build("auto_assign", scene, **options)
    found = answer(scene, maps, assigner).losses
    assert tuple(found) == TERMS
    expected = {name: [0.0, 0.0] for name in found}
    for image in range(scene.num_images):
        picture = (m[image].double().numpy() for m in (maps.logits, maps.quality, maps.boxes))
        terms = auto_assign.losses(
            scene.points, scene.boxes[image].astype(np.float64), *picture,
            labels=scene.labels[image].tolist(), **learnt(assigner), **options,
        )  # fmt: skip
        for name, pair in terms.items():
            expected[name] = [a + b for a, b in zip(expected[name], pair, strict=True)]
    for name, pair in expected.items():
        assert [part.item() for part in found[name]] == pytest.approx(pair, rel=1e-4, abs=1e-6)


@pytest.mark.parametrize("name", RECORDED)
def test_recorded_answers(name):
    """The slow version gives the published losses and weights; with the zoo's conventions, it gives ours."""
    verdicts = compare(find_subject("auto_assign"), read_case(GOLDEN / f"{name}.npz"), ["mmdet_autoassign"])
    (verdict,) = verdicts
    assert verdict.status == "agrees", verdict.reason
    assert verdict.further.keys() == {"soft", "wneg", "loss_pos", "loss_neg", "loss_center"}
    assert verdict.losses is not None
    assert verdict.losses.compared == 3


@given(scenes(**SMALL, min_boxes=1))
@settings(max_examples=8)
def test_gradient_is_that_of_the_formula(scene):
    """Written out per box with autograd in float64."""
    maps, assigner = taught(fitting(scene)), build("auto_assign", scene)
    got = gradients(answer(scene, maps, assigner), assigner, maps)
    logits, quality, boxes = (m.detach().double().requires_grad_() for m in (maps.logits, maps.quality, maps.boxes))
    mu = assigner.mu.detach().double().requires_grad_()
    log_sigma = assigner.log_sigma.detach().double().requires_grad_()
    points, stride = scene.grid.points.double(), scene.grid.stride.double()
    positive, center, mass, held = [], [], [], 0
    for image in range(scene.num_images):
        priors, here = [], 0
        truths = torch.from_numpy(scene.boxes[image]).double()
        for box, label in zip(truths, scene.labels[image].tolist(), strict=True):
            bag = torch.nonzero(((points > box[:2]) & (points < box[2:])).all(dim=1)).flatten()
            if len(bag):
                d = (points[bag] - (box[:2] + box[2:]) / 2) / stride[bag, None] - mu[label]
                prior = (-(d**2) / (2 * (2 * log_sigma[label]).exp())).sum(dim=1).exp()
                mine = boxes[image, bag]
                iou = aligned_iou(mine, box)
                hull = (torch.maximum(mine[:, 2:], box[2:]) - torch.minimum(mine[:, :2], box[:2])).prod(dim=1)
                union = ((mine[:, 2:] - mine[:, :2]).prod(dim=1) + (box[2:] - box[:2]).prod()) / (1 + iou)
                giou = iou - (hull - union) / hull
                p = logits[image, bag, label].sigmoid() * quality[image, bag].sigmoid() * (-5 * (1 - giou)).exp()
                weight = (3 * p).exp() * prior
                positive.append(-((weight * p).sum() / weight.sum()).log())
                priors.append(prior.sum())
                here += 1
        if here:
            center.append(here / torch.stack(priors).sum())
            mass.extend(prior.detach() for prior in priors)
        held += here
    match = match_of(scene, maps).double()
    u = logits.sigmoid() * quality.sigmoid()[..., None] * (1 - match)
    divisor = max(float(sum(mass, start=torch.zeros(()))), 1.0)
    total = 0.75 * (u.square() * -torch.log1p(-u)).sum() / divisor + 0 * (mu.sum() + log_sigma.sum() + boxes.sum())
    if held:
        total = total + 0.25 * torch.stack(positive).sum() / held + 0.75 * torch.stack(center).sum() / scene.num_images
    wanted = torch.autograd.grad(total, (logits, quality, boxes, mu, log_sigma))
    for ours, theirs in zip(got, wanted, strict=True):
        torch.testing.assert_close(ours, theirs.float(), rtol=5e-3, atol=2e-6)


def test_pairs_in_pieces_give_the_same(monkeypatch):
    """Where there are many pairs, backward computes them anew, piece by piece."""
    scene = one_image([[20, 30, 120, 140], [5, 5, 250, 200], [60, 60, 70, 69]], labels=[0, 1, 1])
    maps, assigner = taught(fitting(scene)), build("auto_assign", scene)
    whole = answer(scene, maps, assigner)
    expected = gradients(whole, assigner, maps)
    monkeypatch.setattr(likelihood, "CHUNK", 100)
    assert scene.targets().num_pairs > 300
    pieces = answer(scene, maps, assigner)
    for name in TERMS:
        torch.testing.assert_close(pieces.losses[name], whole.losses[name])
    for ours, theirs in zip(gradients(pieces, assigner, maps), expected, strict=True):
        torch.testing.assert_close(ours, theirs)


# ---- invariants -----------------------------------------------------------------------------------------------------


@given(scenes(sides=(128, 256), max_images=1, max_boxes=1, min_boxes=1))
def test_a_box_is_as_likely_as_something_between_its_locations(scene):
    maps, assigner = fitting(scene), build("auto_assign", scene, alpha=1.0)
    result = answer(scene, maps, assigner)
    total, count = result.losses["positive"]
    if not scene.targets().num_pairs:
        assert total == count == 0
        return
    promise = slow(scene, maps, 0, assigner).promise[0]
    likelihood = float(np.exp(-total.item()))
    assert promise[promise > 0].min() * (1 - 1e-4) <= likelihood <= promise.max() * (1 + 1e-4)
    spread, boxes = result.statistics["locations_per_box"]
    assert 1 - 1e-4 <= (spread / boxes).item() <= scene.targets().num_pairs * (1 + 1e-4)


@given(scenes(**SMALL))
@settings(max_examples=10)
def test_negative_weights(scene):
    """w- is 0 at the best prediction of a box, 1 outside all boxes and for the classes of none."""
    maps, targets = fitting(scene), scene.targets()
    match = match_of(scene, maps)
    assert ((match >= 0) & (match <= 1)).all()
    pairs = inside_pairs(scene.grid, targets)
    claimed = torch.zeros_like(match, dtype=torch.bool)
    claimed[targets.image[pairs.gt], pairs.location, targets.labels[pairs.gt]] = True
    assert (match[~claimed] == 0).all()
    best = torch.zeros(maps.boxes.shape[:2])
    for gt, location in zip(pairs.gt.tolist(), pairs.location.tolist(), strict=True):
        image = int(targets.image[gt])
        overlap = aligned_iou(maps.boxes[image, location], targets.boxes[gt])
        best[image, location] = torch.maximum(best[image, location], overlap)
    for gt in range(targets.num_boxes):
        image, held = int(targets.image[gt]), pairs.location[pairs.gt == gt]
        if len(held):
            assert match[image, held[best[image, held].argmax()], targets.labels[gt]] == 1


def test_predictions_that_fit_alike_are_no_negatives():
    scene = one_image([[20, 30, 120, 140]], labels=[2])
    maps = scene.predictions(features=False)
    maps = replace(maps, boxes=torch.tensor([20.0, 30, 70, 140]).expand_as(maps.boxes))
    match, held = match_of(scene, maps), inside_pairs(scene.grid, scene.targets()).location
    assert (match[0, held, 2] == 1).all()
    assert match.sum() == len(held)


@given(scenes(**SMALL, min_boxes=1))
@settings(max_examples=10)
def test_a_wide_prior_counts_every_location_alike(scene):
    assigner, targets = build("auto_assign", scene), scene.targets()
    with torch.no_grad():
        assigner.log_sigma.fill_(20.0)
    result = answer(scene, fitting(scene), assigner)
    assert result.losses["negative"][1].item() == pytest.approx(targets.num_pairs, rel=1e-5)
    held = result.samples.ok
    pairs = inside_pairs(scene.grid, targets).gt
    share = [
        held[targets.image == image].sum().item() / max(int((targets.image[pairs] == image).sum()), 1)
        for image in range(scene.num_images)
    ]
    assert result.losses["center"][0].item() == pytest.approx(0.75 * sum(share), rel=1e-5)


@given(scenes(**SMALL))
@settings(max_examples=10)
def test_the_prior_learns_where_a_location_is_held(scene):
    maps, assigner = taught(scene.predictions(features=False)), build("auto_assign", scene)
    by_mu, by_sigma = gradients(answer(scene, maps, assigner), assigner, maps)[3:]
    held = torch.zeros(scene.num_classes, dtype=torch.bool)
    targets = scene.targets()
    held[targets.labels[inside_pairs(scene.grid, targets).gt]] = True
    for gradient in (by_mu, by_sigma):
        assert torch.isfinite(gradient).all()
        assert (gradient[~held] == 0).all()
        assert (gradient[held].abs().sum(dim=1) > 0).all()


@given(scenes(**SMALL, min_boxes=2))
@settings(max_examples=10)
def test_the_order_of_boxes_changes_no_loss(scene):
    targets, maps, assigner = scene.targets(), fitting(scene), build("auto_assign", scene)
    order = torch.argsort(targets.image * 1000 + torch.arange(targets.num_boxes).flip(0))
    plain = assigner(scene.grid, targets, maps, scene.step())
    shuffled = assigner(scene.grid, permuted(targets, order), maps, scene.step())
    for name, (total, count) in plain.losses.items():
        torch.testing.assert_close(shuffled.losses[name][0], total)
        torch.testing.assert_close(shuffled.losses[name][1], count)
    assert_close_rows(rows(plain), rows(shuffled, order), WEIGHTS)


@given(scenes(sides=(128,), max_images=1, max_boxes=6), st.integers(0, 2), st.integers(0, 2))
@settings(max_examples=8)
def test_the_place_on_the_canvas_changes_no_positive_loss(scene, right, down):
    """Boxes and the predictions that fit them, moved by whole cells of the coarsest level."""
    canvas = (640, 640)
    shift = np.array([right, down, right, down], dtype=np.float32) * 128
    here = replace(scene, canvas=canvas, sizes=(canvas,), boxes=(scene.boxes[0] + 128,))
    there = replace(here, boxes=(here.boxes[0] + shift,))
    found = []
    for placed in (here, there):
        # Every location predicts the same box around it, and is as sure.
        maps = placed.predictions(features=False)
        reach = placed.grid.stride[:, None] * torch.tensor([1.5, 2.0, 1.0, 2.5])
        boxes = torch.cat((placed.grid.points - reach[:, :2], placed.grid.points + reach[:, 2:]), dim=1)
        maps = replace(
            maps, logits=torch.zeros_like(maps.logits), quality=torch.ones_like(maps.quality), boxes=boxes[None]
        )
        found.append(answer(placed, maps).losses)
    for name in ("positive", "center"):
        torch.testing.assert_close(found[0][name], found[1][name])


@given(scenes(**SMALL))
@settings(max_examples=10)
def test_samples_name_the_location_of_the_largest_weight(scene):
    maps, assigner, targets = fitting(scene), build("auto_assign", scene), scene.targets()
    s = answer(scene, maps, assigner).samples
    assert torch.equal(s.gt, torch.arange(targets.num_boxes))
    assert not torch.stack((s.class_weight, s.box_weight, s.quality_weight)).any()
    location = (scene.grid.level_start[s.level] + s.uv[:, 1] * scene.grid.level_width[s.level] + s.uv[:, 0]).long()
    results = [slow(scene, maps, image, assigner) for image in range(scene.num_images)]
    for k in range(targets.num_boxes):
        weight = results[int(targets.image[k])].weight[int(targets.slot[k])]
        assert bool(s.ok[k]) == (weight.max() > 0)
        if s.ok[k]:
            assert weight.sum() == pytest.approx(1)
            assert weight[int(location[k])] == pytest.approx(weight.max(), rel=1e-4)


# ---- edges ----------------------------------------------------------------------------------------------------------


def test_a_hopeless_box_still_learns():
    scene = one_image([[20, 30, 120, 140]], labels=[0])
    maps, point = scene.predictions(features=False), scene.grid.points[None]
    maps = taught(
        replace(
            maps,
            logits=torch.full_like(maps.logits, -80),
            quality=torch.full_like(maps.quality, -80),
            boxes=torch.cat((point, point + 0.01), dim=2),
        )
    )
    assigner = build("auto_assign", scene)
    result = answer(scene, maps, assigner)
    by_logit, by_quality, by_box, *_ = gradients(result, assigner, maps)
    assert 40 < result.losses["positive"][0] < 45
    assert by_logit.sum().item() == pytest.approx(-0.25, rel=1e-3)
    assert by_quality.sum().item() == pytest.approx(-0.25, rel=1e-3)
    assert torch.isfinite(by_box).all()
    assert by_box.abs().sum() > 0


def test_a_box_between_the_locations_counts_nowhere():
    maps = one_image([]).predictions(features=False)
    both = answer(one_image([[4.5, 4.5, 7.5, 7.5], [20, 30, 120, 140]]), maps)
    alone = answer(one_image([[20, 30, 120, 140]], labels=one_image([[0, 0, 9, 9], [0, 0, 9, 9]]).labels[0][1:]), maps)
    nothing = answer(one_image([[4.5, 4.5, 7.5, 7.5]]), maps)
    assert both.samples.ok.tolist() == [False, True]
    for name in TERMS:
        torch.testing.assert_close(both.losses[name], alone.losses[name])
    assert nothing.losses["positive"][0] == nothing.losses["center"][0] == 0
    assert nothing.losses["negative"][0] > 0


def test_a_class_is_no_negative_in_an_ignore_region():
    scene = one_image([[150, 150, 240, 240]])
    region = torch.tensor([[10.0, 20, 100, 90]])
    maps, assigner = taught(scene.predictions(features=False)), build("auto_assign", scene)
    result = assigner(scene.grid, scene.targets(ignore=[region]), maps, scene.step())
    by_logit, by_quality = torch.autograd.grad(result.losses["negative"][0], (maps.logits, maps.quality))
    points = scene.grid.points
    held = ((points > region[0, :2]) & (points < region[0, 2:])).all(dim=1)
    assert held.any()
    assert (by_logit[0, held] == 0).all()
    assert (by_quality[0, held] == 0).all()
    assert (by_quality[0, ~held] > 0).any()


def test_replaced_terms_are_not_in_the_loss():
    scene = one_image([[20, 30, 120, 140]])
    assigner, maps = build("auto_assign", scene), scene.predictions(features=False)
    result = assigner(scene.grid, scene.targets(), maps, scene.step())
    losses, _ = detection_losses(
        LossSettings(quality="objectness"), scene.grid, scene.targets(), maps, result, assigner.declares.replaces
    )
    assert tuple(losses) == TERMS


@pytest.mark.parametrize(
    "options", [{"alpha": -0.1}, {"alpha": 1.1}, {"gamma": -1.0}, {"beta": -1.0}, {"center": -1.0}]
)
def test_bad_options_name_themselves(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        build("auto_assign", one_image([]), **options)


def test_without_predictions_it_says_so():
    scene = one_image([[1, 2, 30, 40]])
    with pytest.raises(ValueError, match="predictions"):
        build("auto_assign", scene)(scene.grid, scene.targets(), None, scene.step())
