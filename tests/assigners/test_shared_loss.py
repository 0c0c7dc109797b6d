"""What an assignment means: the shared loss against the oracle's loops, for every assigner and reading."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from assigners.contract import Assignment, Predictions
from detector.loss import LossSettings, detection_losses
from harness.verify.published.oracles.geometry import iou
from harness.verify.published.oracles.iqdet import bce, bilinear_read
from harness.verify.published.oracles.loss import Sample, class_loss, giou
from tests.assigners.common import build, pixels, run
from tests.support.strategies import Scene, scenes

SMALL = {"sides": (128,), "max_images": 2, "max_boxes": 4}
VARIANTS = [
    ("center", {}), ("atss", {}), ("iqdet", {}), ("iqdet", {"inbox": "ignore", "rejected": "zero"}),
    ("iqdet", {"inbox": "negative"}), ("iqdet", {"inbox": "one_minus_q"}), ("iqdet", {"inbox": "soft"}),
]  # fmt: skip


def losses_of(scene: Scene, answer: Assignment, predictions: Predictions, settings: LossSettings):
    values, _ = detection_losses(settings, scene.grid, scene.targets(), predictions, answer)
    return values


def samples_of(scene: Scene, answer: Assignment, image: int) -> list[int]:
    s = answer.samples
    return torch.nonzero(s.ok & (scene.targets().image[s.gt] == image)).flatten().tolist()


def level_map(scene: Scene, values: torch.Tensor, level: int):
    height, width = scene.shapes[level]
    start = scene.grid.starts[level]
    return values[start : start + height * width].unflatten(0, (height, width)).double().numpy()


def class_term(scene: Scene, answer: Assignment, form: str, *, owns: bool = True) -> float:
    """The oracle's class loss of the batch, not divided."""
    targets, s, logits = scene.targets(), answer.samples, scene.predictions().logits
    total = 0.0
    for image in range(scene.num_images):
        rows = [
            Sample(
                level=int(s.level[k]), u=float(s.uv[k, 0]), v=float(s.uv[k, 1]), channel=int(targets.labels[s.gt[k]]),
                label=float(s.label[k]), weight=float(s.class_weight[k]),
            )
            for k in samples_of(scene, answer, image)
        ]  # fmt: skip
        total += class_loss(
            logits[image].double().numpy(), scene.shapes, answer.negative_weight[image].double().numpy(), rows,
            owns=owns, all_classes=s.all_classes, alpha=0.25 if form == "focal" else None,
        )  # fmt: skip
    return total


@pytest.mark.parametrize(("name", "options"), VARIANTS, ids=str)
@given(scenes(**SMALL), st.sampled_from(["focal", "qfl"]))
@settings(max_examples=8)
def test_class_term(name, options, scene, form):
    answer, predictions = run(build(name, scene, **options), scene), scene.predictions()
    expected = class_term(scene, answer, form)
    ours = losses_of(scene, answer, predictions, LossSettings(classification=form))["class"]
    assert ours.item() == pytest.approx(expected / max(int(answer.samples.positive.sum()), 1), rel=1e-4)


@pytest.mark.parametrize("name", ["iqdet", "qd", "uniform_center"])
@given(scenes(**SMALL), st.sampled_from(["focal", "qfl"]), st.sampled_from([0.0, 0.5, 1.0]))
@settings(max_examples=8)
def test_cells_that_stay_negatives_are_those_that_samples_do_not_own(name, scene, form, ignored):
    """``inbox=negative`` is the samples of the default without the exception that the loss makes for their cells."""
    height, width = scene.canvas
    region = torch.tensor([[0.0, 0.0, ignored * width, ignored * height]])
    targets = scene.targets(ignore=[region] + [torch.zeros(0, 4)] * (scene.num_images - 1))
    predictions = scene.predictions()
    plain, answer = (
        build(name, scene, inbox=inbox)(scene.grid, targets, predictions, scene.step())
        for inbox in ("negative_no_footprint", "negative")
    )
    s, count = answer.samples, len(plain.samples.gt)
    assert s.on_grid == plain.samples.on_grid
    for part in ("gt", "uv", "ok", "positive", "label", "class_weight"):
        assert torch.equal(getattr(s, part)[:count], getattr(plain.samples, part))
    for part in ("positive", "label", "box_weight", "quality_weight"):
        assert not getattr(s, part)[count:].any()
    losses, _ = detection_losses(LossSettings(classification=form), scene.grid, targets, predictions, answer)
    expected = class_term(scene, plain, form, owns=False) / max(int(s.positive.sum()), 1)
    assert losses["class"].item() == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("name", ["center", "atss", "iqdet"])
@given(scenes(**SMALL))
@settings(max_examples=8)
def test_box_and_quality_terms(name, scene):
    answer, predictions = run(build(name, scene), scene), scene.predictions()
    targets, s = scene.targets(), answer.samples
    xy, box, quality, weights = pixels(answer, scene), 0.0, 0.0, 0.0
    for image in range(scene.num_images):
        for k in samples_of(scene, answer, image):
            level, (u, v), (x, y) = int(s.level[k]), s.uv[k].tolist(), xy[k].tolist()
            left, top, right, bottom = bilinear_read(level_map(scene, predictions.distances[image], level), u, v)
            predicted, truth = (x - left, y - top, x + right, y + bottom), targets.boxes[s.gt[k]].double().tolist()
            box += float(s.box_weight[k]) * (1 - giou(predicted, truth))
            weights += float(s.box_weight[k])
            z = bilinear_read(level_map(scene, predictions.quality[image], level), u, v)
            quality += float(s.quality_weight[k]) * bce(1 / (1 + float(torch.tensor(-z).exp())), iou(predicted, truth))
    ours = losses_of(scene, answer, predictions, LossSettings())
    assert ours["box"].item() == pytest.approx(box / max(weights, 1), rel=1e-4, abs=1e-6)
    assert ours["quality"].item() == pytest.approx(quality / max(int(s.positive.sum()), 1), rel=1e-4, abs=1e-6)


@pytest.mark.parametrize(("name", "options"), VARIANTS, ids=str)
@given(scenes(**SMALL))
@settings(max_examples=8)
def test_no_cell_of_a_positive_is_a_negative_of_its_class(name, options, scene):
    """Removing the weight of samples leaves their cells without gradient in that class."""
    answer = run(build(name, scene, **options), scene)
    s, targets = answer.samples, scene.targets()
    mute = replace(answer, samples=replace(s, class_weight=torch.zeros_like(s.class_weight)), losses={})
    predictions = scene.predictions()
    logits = predictions.logits.clone().requires_grad_()
    losses_of(scene, mute, replace(predictions, logits=logits), LossSettings())["class"].backward()
    for k in torch.nonzero(s.positive).flatten().tolist():
        level, gt = int(s.level[k]), int(s.gt[k])
        gradient = level_map(scene, logits.grad[targets.image[gt]], level)[..., int(targets.labels[gt])]
        assert bilinear_read(abs(gradient), *s.uv[k].tolist()) == 0


@pytest.mark.parametrize("name", ["center", "atss", "iqdet"])
@given(scenes(**SMALL))
@settings(max_examples=5)
def test_rows_that_do_not_exist_cannot_poison(name, scene):
    """Broken numbers in cells that nobody reads and nobody calls negative leave every term finite."""
    answer = run(build(name, scene, **({"inbox": "ignore"} if name == "iqdet" else {})), scene)
    predictions, s = scene.predictions(), answer.samples
    grown = replace(s, **{
        key: torch.cat((getattr(s, key), filler))
        for key, filler in {
            "gt": torch.zeros(3, dtype=torch.long), "level": torch.zeros(3, dtype=torch.long), "uv": torch.zeros(3, 2),
            "ok": torch.zeros(3, dtype=torch.bool), "positive": torch.zeros(3, dtype=torch.bool),
            "label": torch.zeros(3), "class_weight": torch.zeros(3), "box_weight": torch.zeros(3),
            "quality_weight": torch.zeros(3), "location": torch.zeros(3, dtype=torch.long),
        }.items()
        if getattr(s, key) is not None
    })  # fmt: skip
    if scene.targets().num_boxes == 0:
        return
    plain = losses_of(scene, answer, predictions, LossSettings())
    padded = losses_of(scene, replace(answer, samples=grown), predictions, LossSettings())
    for key, value in plain.items():
        torch.testing.assert_close(padded[key], value)
