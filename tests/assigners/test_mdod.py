"""MDOD against its slow version, numbers worked by hand, and the invariants of its rule."""

from __future__ import annotations

from dataclasses import replace
from math import log, pi

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from assigners.contract import Assigner, HeadInfo, Predictions, Step, Targets
from assigners.grid import Grid
from assigners.ops.noise import uniform
from assigners.parts import likelihood, mixture
from assigners.parts.candidates import inside_pairs
from assigners.registry import create
from detector.loss import LossSettings, detection_losses
from harness.verify.answers import WEIGHTS
from harness.verify.published.oracles import mdod
from tests.assigners.common import assert_close_rows, build, permuted, rows
from tests.assigners.images import one_image
from tests.assigners.test_free_anchor import fitting
from tests.support.strategies import Scene, scenes

SMALL = {"sides": (128,), "max_images": 2, "max_boxes": 5}
TERMS = ("box_density", "class_density")


def answer(scene: Scene, maps: Predictions, assigner: Assigner | None = None, targets: Targets | None = None):
    assigner = assigner if assigner is not None else build("mdod", scene)
    return assigner(scene.grid, scene.targets() if targets is None else targets, maps, scene.step())


def sure(scene: Scene) -> Predictions:
    """Predictions some of which fit a box, and are sure of it: draws show boxes."""
    maps, targets = fitting(scene), scene.targets()
    fits = torch.zeros_like(maps.quality)
    for box, image in zip(targets.boxes, targets.image.tolist(), strict=True):
        near = (maps.boxes[image] - box).abs().amax(dim=1) < 0.3 * (box[2:] - box[:2]).amax()
        fits[image] += 4 * near
    return replace(maps, quality=maps.quality / 3 + fits)


def random_of(scene: Scene, image: int, count: int) -> list[float]:
    """The numbers in (0, 1) by which an image draws."""
    step, name = scene.step(), torch.tensor(scene.image_ids[image])
    return uniform(step.seed, step.index, mixture.MIXTURE_STREAM, name, torch.arange(count)).tolist()


def slow(scene: Scene, maps: Predictions, image: int, assigner: Assigner, ask=mdod.examine, **asked):
    picture = (m[image].detach().double().numpy() for m in (maps.logits, maps.quality, maps.boxes))
    return ask(
        scene.points, scene.boxes[image].astype(np.float64), *picture, labels=scene.labels[image].tolist(),
        random=random_of(scene, image, 150), spread=assigner.spread.tolist(), **asked,
    )  # fmt: skip


def drawn_of(scene: Scene, maps: Predictions, each: int = 5, most: int = 150, overlap: float = 0.5) -> mixture.Draws:
    return mixture.draw(scene.targets(), maps, scene.step(), each=each, most=most, overlap=overlap)


def taught(maps: Predictions) -> Predictions:
    logits, quality, boxes = (m.clone().requires_grad_() for m in (maps.logits, maps.quality, maps.boxes))
    return replace(maps, logits=logits, quality=quality, boxes=boxes)


def gradients(total: Tensor, assigner: Assigner, maps: Predictions) -> list[Tensor]:
    leaves = (maps.logits, maps.quality, maps.boxes, assigner.spread)
    found = torch.autograd.grad(total, leaves, allow_unused=True, retain_graph=True)
    return [torch.zeros_like(leaf) if part is None else part for leaf, part in zip(leaves, found, strict=True)]


def total_of(result) -> Tensor:
    return torch.stack([part for part, _ in result.losses.values()]).sum()


# ---- the rule -------------------------------------------------------------------------------------------------------


@given(
    scenes(**SMALL),
    st.sampled_from([{}, {"draws": 2, "most": 3, "overlap": 0.2}, {"least": 0.5, "class_weight": 0.5}]),
)
@settings(max_examples=12)
def test_losses_equal_the_slow_version(scene, options):
    maps, assigner = sure(scene), build("mdod", scene, **options)
    found = answer(scene, maps, assigner).losses
    assert tuple(found) == TERMS
    expected = {name: [0.0, 0.0] for name in found}
    for image in range(scene.num_images):
        for name, pair in slow(scene, maps, image, assigner, mdod.losses, **options).items():
            expected[name] = [a + b for a, b in zip(expected[name], pair, strict=True)]
    for name, pair in expected.items():
        assert [part.item() for part in found[name]] == pytest.approx(pair, rel=1e-4, abs=1e-6)


def by_hand() -> tuple[Assigner, Grid, Targets, Predictions]:
    """Two locations, at (4, 4) and (12, 4); a box of class 0 that holds the first, which misses its left side by 2 px.

    Every scale is 2 px, the shares are 3/4 and 1/4; the second location predicts a square of 4 px around itself.
    """
    grid = Grid.build(((1, 2),), (8,))
    targets = Targets.collate([torch.tensor([[0.0, 0, 8, 8]])], [torch.tensor([0])], grid, sizes=[(8, 16)])
    assigner = create("mdod", HeadInfo(2, 4, (8,)))
    with torch.no_grad():
        assigner.spread.fill_(log(np.e - 1))  # softplus is 1
    distances = torch.tensor([[[2.0, 4, 4, 4], [2, 2, 2, 2]]])
    low, high = grid.points - distances[..., :2], grid.points + distances[..., 2:]
    maps = Predictions(
        logits=torch.tensor([[[0.0, log(3)], [0, 0]]]), quality=torch.tensor([[log(3), 0.0]]),
        distances=distances, boxes=torch.cat((low, high), dim=2),
    )  # fmt: skip
    return assigner, grid, targets, taught(maps)


def test_two_locations_by_hand():
    assigner, grid, targets, maps = by_hand()
    step = Step(seed=3, index=1)
    result = assigner(grid, targets, maps, step)
    peak = -4 * log(2 * pi)  # of the density, where all sides are met
    # One side is off by one scale: half the density.
    assert result.losses["box_density"][0].item() == pytest.approx(-(log(3 / 4) + peak - log(2)))
    assert result.losses["box_density"][1] == 1
    random = uniform(step.seed, step.index, mixture.MIXTURE_STREAM, torch.tensor(0), torch.arange(5))
    first = int((random <= 0.75).sum())
    assert 0 < first < 5
    # Draws of the first location overlap the box by 48 / 64: class 0 and not 1, of the location inside the box.
    of_first = log(3 / 4) + peak + log(1 / 2 * 1 / 4)
    # Draws of the second overlap nothing: neither class, of both. Sides differ by 8, 2, 6 and 2 px.
    far = 1 / ((1 + 16) * (1 + 1) * (1 + 9) * (1 + 1))
    of_second = peak + log(3 / 4 * far * 1 / 2 * 1 / 4 + 1 / 4 * 1 / 2 * 1 / 2)
    total, count = result.losses["class_density"]
    assert total.item() == pytest.approx(-2 * (first * of_first + (5 - first) * of_second))
    assert count == 5
    # The draws' shares are 1 of the first location, and these of the second's.
    mine = 3 / 4 * far / 8 / (3 / 4 * far / 8 + 1 / 16)
    by_logit = torch.autograd.grad(total, maps.logits)[0]
    few, many = (5 - first) * mine, (5 - first) * (1 - mine)
    wanted = [[few / 2 - first / 2, (first + few) * 3 / 4], [many / 2, many / 2]]
    torch.testing.assert_close(by_logit[0], 2 * torch.tensor(wanted))


def test_gradient_of_the_box_term_by_hand():
    """d/d mu of log(1 + ((b - mu) / gamma)^2) is 1 / gamma at a distance of gamma, and of log gamma nothing is left."""
    assigner, grid, targets, maps = by_hand()
    total = assigner(grid, targets, maps, Step()).losses["box_density"][0]
    by_logit, by_quality, by_box, by_spread = gradients(total, assigner, maps)
    assert not by_logit.any()
    torch.testing.assert_close(by_quality[0], torch.tensor([3 / 4 - 1, 1 / 4]))
    torch.testing.assert_close(by_box[0], torch.tensor([[1 / 2, 0, 0, 0], [0, 0, 0, 0]]))
    slope = 1 - 1 / np.e  # of softplus = its sigmoid, where its value is 1
    torch.testing.assert_close(by_spread, slope * torch.tensor([0.0, 1, 1, 1]))


@given(scenes(**SMALL, min_boxes=1))
@settings(max_examples=8)
def test_gradient_is_that_of_the_formula(scene):
    """Written out per box and per draw with autograd in float64."""
    maps, assigner = taught(sure(scene)), build("mdod", scene)
    got = gradients(total_of(answer(scene, maps, assigner)), assigner, maps)
    logits, quality, boxes = (m.detach().double().requires_grad_() for m in (maps.logits, maps.quality, maps.boxes))
    spread = assigner.spread.detach().double().requires_grad_()
    points, stride = scene.grid.points.double(), scene.grid.stride.double()
    total = 0 * (logits.sum() + quality.sum() + boxes.sum() + spread.sum())

    def log_density(box: Tensor, image: int) -> Tensor:
        side = (boxes[image, :, 2:] - boxes[image, :, :2]).detach().repeat(1, 2)
        learnt = (1 + spread.exp()).log() * stride[:, None] / 4
        gamma = torch.maximum(torch.maximum(learnt, 0.05 * side), torch.full_like(side, 1 / pi))
        return -(pi * gamma * (1 + ((box - boxes[image]) / gamma) ** 2)).log().sum(dim=1)

    for image in range(scene.num_images):
        truths = torch.from_numpy(scene.boxes[image]).double()
        held = [((points > box[:2]) & (points < box[2:])).all(dim=1) for box in truths]
        for box, inside in zip(truths, held, strict=True):
            if inside.any():
                total = total - (quality[image].log_softmax(0) + log_density(box, image))[inside].logsumexp(0)
        found = slow(scene, maps, image, assigner)
        for location, g in zip(found.drawn, found.shows, strict=True):
            joint = quality[image].log_softmax(0) + log_density(boxes[image, location], image)
            score = logits[image].sigmoid()
            shown = torch.zeros_like(score)
            inside = torch.ones_like(joint, dtype=torch.bool)
            if g != mdod.BACKGROUND:
                shown[:, scene.labels[image][g]] = 1
                inside = held[g]
            chance = torch.where(shown > 0, score, 1 - score).log().sum(dim=1)
            if inside.any():
                total = total - 2 * (joint.detach() + chance)[inside].logsumexp(0)
    wanted = torch.autograd.grad(total, (logits, quality, boxes, spread))
    for ours, theirs in zip(got, wanted, strict=True):
        torch.testing.assert_close(ours, theirs.float(), rtol=5e-3, atol=2e-6)


def test_pairs_and_draws_in_pieces_give_the_same(monkeypatch):
    """Where there are many, they are taken piece by piece; backward computes pairs anew."""
    scene = one_image([[20, 30, 120, 140], [5, 5, 250, 200], [60, 60, 70, 69]], labels=[0, 1, 1])
    maps, assigner = taught(sure(scene)), build("mdod", scene)
    whole = answer(scene, maps, assigner)
    expected = gradients(total_of(whole), assigner, maps)
    monkeypatch.setattr(likelihood, "CHUNK", 100)
    monkeypatch.setattr(mixture, "CHUNK", 2 * scene.grid.num_locations + 1)
    assert scene.targets().num_pairs > 300
    pieces = answer(scene, maps, assigner)
    for name in TERMS:
        torch.testing.assert_close(pieces.losses[name], whole.losses[name])
    for ours, theirs in zip(gradients(total_of(pieces), assigner, maps), expected, strict=True):
        torch.testing.assert_close(ours, theirs)


# ---- draws ----------------------------------------------------------------------------------------------------------


@given(scenes(**SMALL), st.integers(1, 9), st.integers(1, 30))
@settings(max_examples=20)
def test_draws_are_those_of_the_slow_version(scene, each, most):
    maps, assigner = sure(scene), build("mdod", scene)
    drawn, targets = drawn_of(scene, maps, each, most), scene.targets()
    numbers = [min(max(each * count, 1), most) for count in targets.counts]
    assert torch.bincount(drawn.image, minlength=scene.num_images).tolist() == numbers
    start = targets.boxes.new_tensor(targets.counts).cumsum(0) - targets.boxes.new_tensor(targets.counts)
    for image in range(scene.num_images):
        found = slow(scene, maps, image, assigner, draws=each, most=most)
        here = drawn.image == image
        assert (drawn.cell[here] - image * scene.grid.num_locations).tolist() == found.drawn
        gt = drawn.gt[here]
        shows = torch.where(gt < targets.num_boxes, gt - int(start[image]), mdod.BACKGROUND)
        assert shows.tolist() == found.shows


def test_draws_follow_the_shares():
    scene = one_image([[20, 30, 120, 140]] * 6)
    maps = scene.predictions(features=False)
    quality = torch.full_like(maps.quality, -60)
    quality[0, [7, 90]] = torch.tensor([log(3), 0.0])
    drawn = drawn_of(scene, replace(maps, quality=quality), each=1000, most=5000)
    assert set(drawn.cell.tolist()) == {7, 90}
    assert (drawn.cell == 7).float().mean().item() == pytest.approx(0.75, abs=0.03)


def test_another_step_draws_otherwise():
    scene = one_image([[20, 30, 120, 140]])
    maps, targets = scene.predictions(features=False), scene.targets()
    cells = [mixture.draw(targets, maps, Step(index=k), each=5, most=9, overlap=0.5).cell.tolist() for k in (0, 0, 1)]
    assert cells[0] == cells[1] != cells[2]


def test_a_draw_shows_the_smaller_of_two_equal_overlaps():
    scene = one_image([[0, 0, 64, 64], [0, 0, 64, 32], [0, 0, 64, 32]], labels=[0, 3, 1])
    maps = scene.predictions(features=False)
    box = torch.tensor([0.0, 0, 64, 64 / 2**0.5])  # overlaps both by the same
    drawn = drawn_of(scene, replace(maps, boxes=box.expand_as(maps.boxes)))
    assert set(drawn.gt.tolist()) <= {0, 2}  # rounding decides on the size, and the class on twins
    exact = drawn_of(scene, replace(maps, boxes=torch.tensor([0.0, 0, 64, 32]).expand_as(maps.boxes)))
    assert set(exact.gt.tolist()) == {2}
    half = drawn_of(scene, replace(maps, boxes=torch.tensor([0.0, 0, 64, 16]).expand_as(maps.boxes)))
    assert set(half.gt.tolist()) == {3}  # an overlap of exactly one half is background


# ---- invariants -----------------------------------------------------------------------------------------------------


@given(scenes(sides=(128, 256), max_images=1, max_boxes=1, min_boxes=1))
@settings(max_examples=20)
def test_a_box_is_as_likely_as_its_components_together(scene):
    maps, assigner = sure(scene), build("mdod", scene)
    result = answer(scene, maps, assigner)
    total, count = result.losses["box_density"]
    if not scene.targets().num_pairs:
        assert total == count == 0
        return
    joint = slow(scene, maps, 0, assigner).joint[0]
    pairs = scene.targets().num_pairs
    assert joint.max() - 1e-4 <= -total.item() <= joint.max() + log(pairs) + 1e-4
    spread, boxes = result.statistics["locations_per_box"]
    assert 1 - 1e-4 <= (spread / boxes).item() <= pairs * (1 + 1e-4)


@given(scenes(**SMALL), st.floats(-20, 20))
@settings(max_examples=10)
def test_a_constant_of_the_quality_changes_nothing(scene, shift):
    maps, assigner = sure(scene), build("mdod", scene)
    plain = answer(scene, maps, assigner)
    moved = answer(scene, replace(maps, quality=maps.quality + shift), assigner)
    assert_close_rows(rows(plain), rows(moved), WEIGHTS)
    for name, (total, count) in plain.losses.items():
        torch.testing.assert_close(moved.losses[name], (total, count), rtol=1e-4, atol=1e-4)


@given(scenes(**SMALL))
@settings(max_examples=10)
def test_each_term_teaches_its_own(scene):
    """Boxes and shares, whose gradient adds up to nothing over an image, by the one; classes alone by the other."""
    maps, assigner = taught(sure(scene)), build("mdod", scene)
    result = answer(scene, maps, assigner)
    by_logit, by_quality, by_box, by_spread = gradients(result.losses["box_density"][0], assigner, maps)
    assert not by_logit.any()
    assert by_quality.sum(dim=1).abs().max() < 1e-4
    held = inside_pairs(scene.grid, scene.targets())
    cells = torch.zeros_like(by_quality, dtype=torch.bool)
    cells[scene.targets().image[held.gt], held.location] = True
    assert not by_box[~cells].any()
    assert by_spread.any() == bool(len(held.gt))
    by_logit, *others = gradients(result.losses["class_density"][0], assigner, maps)
    assert by_logit.any()
    assert not any(other.any() for other in others)


@given(scenes(**SMALL, min_boxes=2))
@settings(max_examples=10)
def test_the_order_of_boxes_changes_no_loss(scene):
    targets, maps, assigner = scene.targets(), sure(scene), build("mdod", scene)
    order = torch.argsort(targets.image * 1000 + torch.arange(targets.num_boxes).flip(0))
    plain, shuffled = answer(scene, maps, assigner), answer(scene, maps, assigner, permuted(targets, order))
    torch.testing.assert_close(shuffled.losses, plain.losses)
    assert_close_rows(rows(plain), rows(shuffled, order), WEIGHTS)


@given(scenes(**SMALL))
@settings(max_examples=10)
def test_samples_name_the_likeliest_location(scene):
    maps, assigner, targets = sure(scene), build("mdod", scene), scene.targets()
    s = answer(scene, maps, assigner).samples
    assert torch.equal(s.gt, torch.arange(targets.num_boxes))
    assert not torch.stack((s.class_weight, s.box_weight, s.quality_weight)).any()
    results = [slow(scene, maps, image, assigner) for image in range(scene.num_images)]
    for k in range(targets.num_boxes):
        joint = results[int(targets.image[k])].joint[int(targets.slot[k])]
        assert bool(s.ok[k]) == (joint.max() > -np.inf)
        if s.ok[k]:
            assert joint[int(s.location[k])] == pytest.approx(joint.max(), rel=1e-4)


@pytest.mark.parametrize(("missed", "sign"), [(0.0, 1), (500.0, -1)])
def test_scales_follow_the_misfit(missed, sign):
    """They are to shrink where a box is met and to grow where it is missed by far."""
    scene = one_image([[20, 30, 120, 140]])
    maps, assigner = scene.predictions(features=False), build("mdod", scene, least=0.0)
    maps = taught(replace(maps, boxes=(scene.targets().boxes - missed).expand_as(maps.boxes)))
    by_spread = gradients(answer(scene, maps, assigner).losses["box_density"][0], assigner, maps)[3]
    assert (by_spread * sign > 0).all()


# ---- edges ----------------------------------------------------------------------------------------------------------


def test_a_hopeless_box_still_learns():
    scene = one_image([[20, 30, 120, 140]])
    maps, point = scene.predictions(features=False), scene.grid.points[None]
    quality = torch.zeros_like(maps.quality)
    held = inside_pairs(scene.grid, scene.targets()).location
    quality[0, held] = -200
    maps = taught(replace(maps, quality=quality, boxes=torch.cat((point, point + 0.01), dim=2)))
    assigner = build("mdod", scene)
    total = answer(scene, maps, assigner).losses["box_density"][0]
    _, by_quality, by_box, _ = gradients(total, assigner, maps)
    assert 200 < total < 300
    assert by_quality[0, held].sum().item() == pytest.approx(-1, rel=1e-3)
    assert torch.isfinite(by_box).all()
    assert by_box.abs().sum() > 0


def test_a_box_between_the_locations_counts_nowhere():
    """Neither it nor a draw that shows it."""
    scene = one_image([[4.5, 4.5, 7.5, 7.5], [20, 30, 120, 140]])
    maps = scene.predictions(features=False)
    result = answer(scene, replace(maps, boxes=torch.tensor([4.5, 4.5, 7.5, 7.5]).expand_as(maps.boxes)))
    assert result.samples.ok.tolist() == [False, True]
    assert result.losses["box_density"][1] == 1
    assert result.losses["class_density"] == (0, 0)
    nothing = answer(one_image([[4.5, 4.5, 7.5, 7.5]]), maps)
    assert nothing.losses["box_density"] == (0, 0)


def test_an_image_without_boxes_draws_background_once():
    scene = one_image([])
    maps = taught(scene.predictions(features=False))
    assigner = build("mdod", scene)
    result = answer(scene, maps, assigner)
    assert result.losses["box_density"] == (0, 0)
    assert result.losses["class_density"][1] == 1
    assert result.statistics["draws_on_boxes"] == (0, 1)
    by_logit, by_quality, *_ = gradients(total_of(result), assigner, maps)
    assert (by_logit >= 0).all()
    # Components answer for the draw in shares, each pushed by its score.
    assert (by_logit / maps.logits.detach().sigmoid()).amax(dim=2).sum().item() == pytest.approx(2, rel=1e-3)
    assert not by_quality.any()


def test_an_ignore_region_teaches_no_background():
    scene = one_image([[150, 150, 240, 240]])
    region = torch.tensor([[10.0, 20, 100, 90]])
    maps, assigner = taught(sure(scene)), build("mdod", scene)
    result = answer(scene, maps, assigner, scene.targets(ignore=[region]))
    by_logit, by_quality, *_ = gradients(total_of(result), assigner, maps)
    points = scene.grid.points
    held = ((points > region[0, :2]) & (points < region[0, 2:])).all(dim=1)
    assert held.any()
    assert not by_logit[0, held].any()
    assert not by_quality[0, held].any()
    assert (by_quality[0, ~held] != 0).all()
    torch.testing.assert_close(result.losses, answer(scene, maps, assigner).losses)


def test_replaced_terms_are_not_in_the_loss():
    scene = one_image([[20, 30, 120, 140]])
    assigner, maps = build("mdod", scene), scene.predictions(features=False)
    result = answer(scene, maps, assigner)
    losses, _ = detection_losses(
        LossSettings(quality="objectness"), scene.grid, scene.targets(), maps, result, assigner.declares.replaces
    )
    assert tuple(losses) == TERMS


@pytest.mark.parametrize(
    "options",
    [{"draws": 0}, {"most": 0}, {"overlap": 1.0}, {"overlap": -0.1}, {"least": -0.1}, {"class_weight": -1.0}],
)
def test_bad_options_name_themselves(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        build("mdod", one_image([]), **options)


def test_without_predictions_it_says_so():
    scene = one_image([[1, 2, 30, 40]])
    with pytest.raises(ValueError, match="predictions"):
        build("mdod", scene)(scene.grid, scene.targets(), None, scene.step())
