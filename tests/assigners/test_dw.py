"""DW against brute force, and the invariants of its weights."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from assigners.contract import Assignment, Predictions, Step
from assigners.ops.boxes import decode, ltrb
from detector.loss import LossSettings, detection_losses
from harness.verify.published.oracles import dw
from tests.assigners.common import build
from tests.assigners.images import one_image
from tests.support.strategies import Scene, scenes

SMALL = {"sides": (128, 256), "max_images": 2, "max_boxes": 6}
Row = tuple[int, int]  # location, box of the batch


def answer(scene: Scene, predictions: Predictions | None = None, **options: object) -> Assignment:
    predictions = predictions or scene.predictions(features=False)
    return build("dw", scene, **options)(scene.grid, scene.targets(), predictions, Step())


def good(scene: Scene, spread: float = 0.1) -> Predictions:
    """Inside a box predictions are that box, each side off by a random share: IoUs of every size."""
    predictions, targets, grid = scene.predictions(features=False), scene.targets(), scene.grid
    rng = np.random.default_rng(scene.seed)
    distances = predictions.distances.clone()
    for box, image in zip(targets.boxes, targets.image.tolist(), strict=True):
        reach = ltrb(grid.points, box)
        factor = torch.from_numpy(np.exp(rng.normal(0, spread, reach.shape))).float()
        inside = reach.amin(dim=1, keepdim=True) > 0
        distances[image] = torch.where(inside, reach * factor, distances[image])
    return replace(predictions, distances=distances, boxes=decode(grid.points, distances))


def read(result: Assignment, scene: Scene) -> tuple[dict[Row, float], dict[Row, float]]:
    """Weights of the positive and of the negative rows."""
    s, grid = result.samples, scene.grid
    location = grid.level_start[s.level] + (s.uv[:, 1] * grid.level_width[s.level] + s.uv[:, 0]).long()
    found: tuple[dict[Row, float], dict[Row, float]] = ({}, {})
    for k in torch.nonzero(s.ok).flatten().tolist():
        kind = found[0 if s.positive[k] else 1]
        key = (int(location[k]), int(s.gt[k]))
        assert key not in kind
        kind[key] = float(s.class_weight[k])
    return found


def first_box(scene: Scene, image: int) -> int:
    return int((scene.targets().image < image).sum())


# ---- the rule -------------------------------------------------------------------------------------------------------


@given(
    scenes(**SMALL), st.booleans(), st.sampled_from([5.0, 0.0]), st.sampled_from([5.0, 1.0]),
    st.sampled_from([2.0, 0.5]), st.sampled_from([(1.11, 0.3), (0.7, 0.05), (2.0, 0.7)]),
)  # fmt: skip
def test_equals_brute_force(scene, trained, mu, beta, gamma, prior):
    options = {"mu": mu, "beta": beta, "gamma": gamma, "sigma": prior[0], "floor": prior[1]}
    predictions = good(scene) if trained else scene.predictions(features=False)
    positive, negative = read(answer(scene, predictions, **options), scene)
    for image in range(scene.num_images):
        start, count = first_box(scene, image), len(scene.boxes[image])
        boxes, labels = scene.boxes[image].astype(np.float64), scene.labels[image].tolist()
        logits, predicted = predictions.logits[image].double().numpy(), predictions.boxes[image].double().numpy()
        pairs, single = dw.assign(scene.points, boxes, labels, logits, predicted, **options)
        mine = {key: w for key, w in positive.items() if start <= key[1] < start + count}
        theirs = {(p.location, start + p.box): p.positive for p in pairs}
        assert mine.keys() == theirs.keys()
        for key, weight in theirs.items():
            assert mine[key] == pytest.approx(weight, rel=2e-3, abs=1e-5)
        down = {(r, labels[g - start]): w for (r, g), w in negative.items() if start <= g < start + count}
        assert down.keys() == single.keys()
        for place, (_, weight) in single.items():
            near_half = any(abs(p.iou - 0.5) < 1e-5 for p in pairs if p.location == place[0])
            assert near_half or down[place] == pytest.approx(weight, abs=1e-3)


# ---- invariants -----------------------------------------------------------------------------------------------------


@given(scenes(**SMALL, min_boxes=1), st.booleans())
@settings(max_examples=10)
def test_rows(scene, trained):
    result = answer(scene, good(scene) if trained else None)
    s = result.samples
    assert (result.negative_weight == 1).all()
    assert not result.losses
    negative = s.ok & ~s.positive
    assert (s.class_weight[negative] <= 1).all()
    for name in ("label", "box_weight", "quality_weight"):
        assert (getattr(s, name)[negative] == 0).all()
    assert (s.label[s.positive] == 1).all()
    assert torch.equal(s.box_weight[s.positive], s.class_weight[s.positive])
    up, down = read(result, scene)
    labels = scene.targets().labels.tolist()
    images = scene.targets().image.tolist()
    # Whatever is pulled up in a class is pushed down in it, exactly once.
    assert {(images[g], r, labels[g]) for r, g in up} == {(images[g], r, labels[g]) for r, g in down}
    assert len(down) == len({(images[g], r, labels[g]) for r, g in down})


@given(scenes(max_images=1, min_boxes=1, max_boxes=1), st.sampled_from([3.0, 5.0]))
@settings(max_examples=15)
def test_the_weights_of_a_box(scene, mu):
    """A mean of one where mu equals the divisor's rate, at most e^2 for the paper's 5, and no negative at the best."""
    predictions = good(scene)
    up, down = read(answer(scene, predictions, mu=mu), scene)
    if not up:
        return
    mean = sum(up.values()) / len(up)
    assert mean == pytest.approx(1, rel=1e-4) if mu == 3.0 else 1 - 1e-4 <= mean <= np.exp(2) + 1e-3
    truth = scene.boxes[0][0].tolist()
    overlap = {key: dw.iou(predictions.boxes[0, key[0]].tolist(), truth) for key in up}
    best = max(overlap, key=overlap.__getitem__)
    if overlap[best] > 0.5 + 1e-5:
        assert down[best] == pytest.approx(0, abs=1e-4)
    for key, value in overlap.items():
        if value < 0.5 - 1e-5:
            assert down[key] == 1


def test_a_better_score_pulls_harder_and_a_better_box_pushes_less():
    scene = one_image([[10, 10, 118, 118]], labels=[2], size=(128, 128))
    predictions = good(scene)
    up, down = read(answer(scene, predictions), scene)
    place = next(iter(sorted(up)))
    logits = predictions.logits.clone()
    logits[0, place[0], 2] = 8.0
    louder, same = read(answer(scene, replace(predictions, logits=logits)), scene)
    assert louder[place] > up[place]
    assert same == down  # the negative weight does not ask for the score
    boxes = predictions.boxes.clone()
    boxes[0, place[0]] = scene.targets().boxes[0]
    _, exact = read(answer(scene, replace(predictions, boxes=boxes)), scene)
    assert exact[place] == 0
    assert all(weight >= down[key] - 1e-6 for key, weight in exact.items() if key != place)


def test_a_box_that_nothing_predicts_is_weighted_by_the_prior():
    scene = one_image([[10, 10, 118, 118]], size=(128, 128))
    predictions = scene.predictions(features=False)
    hopeless = replace(predictions, logits=torch.full_like(predictions.logits, -200.0))
    up, _ = read(answer(scene, hopeless), scene)
    pairs, _ = dw.assign(
        scene.points, scene.boxes[0].astype(np.float64), [0], np.zeros((len(scene.points), 5)),
        np.tile(scene.boxes[0].astype(np.float64), (len(scene.points), 1)), mu=0,
    )  # fmt: skip
    prior = {(p.location, 0): p.prior for p in pairs}
    mean = sum(prior.values()) / len(prior)
    assert up == pytest.approx({key: value / mean for key, value in prior.items()}, rel=1e-4)


def test_a_single_place_is_no_negative_once_it_predicts_the_box():
    scene = one_image([[9, 9, 16, 16]], size=(128, 128))
    predictions = scene.predictions(features=False)
    exact = replace(predictions, boxes=scene.targets().boxes[0].expand_as(predictions.boxes).clone())
    up, down = read(answer(scene, exact), scene)
    assert len(up) == len(down) == 1
    assert list(down.values()) == [0.0]


def test_every_box_with_a_place_has_a_bag():
    scene = one_image([[30, 2, 35, 120], [12.5, 12.5, 15.5, 15.5], [0, 0, 128, 128], [60, 60, 70, 70]], size=(128, 128))
    up, _ = read(answer(scene), scene)
    assert {g for _, g in up} == {0, 2, 3}


def test_the_shared_loss_reads_the_two_weights():
    """The class loss is that of all negatives, with the bag's own channel reweighted by hand."""
    scene = one_image([[10, 10, 118, 118], [40, 40, 90, 90]], labels=[2, 2], size=(128, 128))
    predictions, form = good(scene), LossSettings()
    result = answer(scene, predictions)
    losses, _ = detection_losses(form, scene.grid, scene.targets(), predictions, result)
    up, down = read(result, scene)
    negative, positive = form.negative(predictions.logits[0]), form.labelled(predictions.logits[0], torch.ones(1))
    total = negative.sum()
    for place, _ in down:
        total -= negative[place, 2]
    total += sum(weight * negative[r, 2] for (r, _), weight in down.items())
    total += sum(weight * positive[r, 2] for (r, _), weight in up.items())
    assert losses["class"].item() == pytest.approx(total.item() / len(up), rel=1e-4)


# ---- refused --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "option",
    [{"mu": -1.0}, {"mu": 50.0}, {"beta": -1.0}, {"gamma": 0.0}, {"sigma": 0.0}, {"floor": 0.0}, {"floor": 1.0}],
)
def test_bad_options(option):
    with pytest.raises(ValueError, match=next(iter(option))):
        build("dw", one_image([]), **option)


def test_it_needs_predictions():
    scene = one_image([[10, 20, 200, 220]])
    with pytest.raises(ValueError, match="needs the detector's predictions"):
        build("dw", scene)(scene.grid, scene.targets(), None, Step())
