"""The shared loss against the oracle, torchvision and hand-made numbers."""

from __future__ import annotations

from dataclasses import fields, replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torchvision.ops import generalized_box_iou_loss, sigmoid_focal_loss

from assigners.contract import Assignment
from assigners.ops.boxes import aligned_iou, decode, giou_loss
from assigners.parts.map_reader import MapReader
from detector import LossSettings, loss
from detector.loss import centerness, detection_losses
from harness.verify.published.oracles.loss import Sample, class_loss
from tests.detector.common import (
    CLASSES,
    SHAPES,
    Row,
    make_assignment,
    make_grid,
    make_predictions,
    make_targets,
)
from tests.support.rounding import assert_close_in_ulps

FORMS = ("focal", "sigmoid_focal", "qfl", "focal_pt", "varifocal", "weighted")
ON_GRID = (Row(0, 0, 1, 2), Row(0, 0, 2, 2), Row(1, 0, 2, 2, 0.4, 0.5), Row(1, 1, 2, 1), Row(2, 0, 3, 0, 0.9))
FLOAT = (
    Row(0, 0, 1.25, 2.5), Row(0, 0, 1.5, 2.5, 0.3), Row(1, 0, 2, 1.5, 0.7, 2.0), Row(1, 1, 1.9, 0.1, 0.2, 0.5),
    Row(2, 0, -0.4, 3.8, 0.6), Row(2, 1, 0.5, 0.5, 0.0, 1.0, 0.0, 0.0, True, False),
)  # fmt: skip


def total_loss(settings, grid, targets, predictions, assignment):
    return torch.stack(list(detection_losses(settings, grid, targets, predictions, assignment)[0].values())).sum()


def oracle(targets, predictions, assignment, rows, **flags):
    """The oracle's class loss, image by image."""
    value = 0.0
    for image in range(targets.num_images):
        own = [row for row in rows if row.ok and int(targets.image[row.gt]) == image]
        samples = [
            Sample(r.level, r.u, r.v, int(targets.labels[r.gt]), r.label, r.class_weight) for r in own
        ]  # fmt: skip
        logits = predictions.logits[image].detach().double().numpy()
        value += class_loss(logits, SHAPES, assignment.negative_weight[image].double().numpy(), samples, **flags)
    return value


@pytest.mark.parametrize("flags", [{}, {"all_classes": True}], ids=["own-class", "all-classes"])
@pytest.mark.parametrize(("rows", "on_grid"), [(ON_GRID, True), (ON_GRID, False), (FLOAT, False)])
def test_the_class_loss_is_the_oracles(rows, on_grid, flags):
    grid = make_grid()
    targets, predictions = make_targets(grid), make_predictions(grid)
    generator = torch.Generator().manual_seed(1)
    negative = torch.rand(2, grid.num_locations, generator=generator).round(decimals=1)
    assignment = make_assignment(grid, rows, negative=negative, on_grid=on_grid, **flags)
    losses, _ = detection_losses(LossSettings(classification="qfl"), grid, targets, predictions, assignment)
    positives = sum(row.positive for row in rows)
    expected = oracle(targets, predictions, assignment, rows, **flags) / positives
    assert losses["class"].item() == pytest.approx(expected, rel=1e-5)


def test_a_negative_row_puts_back_what_a_sample_takes_out():
    """So that an assigner can leave the cells of its samples among the negatives of their class."""
    grid = make_grid()
    targets, predictions = make_targets(grid), make_predictions(grid)
    negative = torch.rand(2, grid.num_locations, generator=torch.Generator().manual_seed(1))
    rows = (Row(0, 0, 1.25, 2.0), Row(0, 0, 2.0, 2.0, 0.3))  # both read (2, 2)
    cells = [(1, 2), (2, 2), (2, 2)]  # once for each row that reads it
    share = [float(negative[0, 6 * v + u]) / cells.count((u, v)) for u, v in cells]
    back = [Row(0, 0, u, v, 0.0, weight, 0.0, 0.0, positive=False) for (u, v), weight in zip(cells, share, strict=True)]
    assignment = make_assignment(grid, [*rows, *back], negative=negative)
    losses, _ = detection_losses(LossSettings(classification="qfl"), grid, targets, predictions, assignment)
    expected = oracle(targets, predictions, assignment, rows, owns=False) / len(rows)
    assert losses["class"].item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("settings", [LossSettings(), LossSettings(quality="centerness", classification="qfl")])
@pytest.mark.parametrize("flags", [{}, {"all_classes": True}], ids=["own-class", "all-classes"])
def test_a_location_gives_the_bits_of_its_coordinates(settings, flags):
    grid, targets = make_grid(), make_targets(make_grid())
    found = []
    for on_grid in (True, False):
        predictions = make_predictions(grid)
        assignment = make_assignment(grid, ON_GRID, on_grid=on_grid, **flags)
        losses, statistics = detection_losses(settings, grid, targets, predictions, assignment)
        leaves = predictions.logits, predictions.quality, predictions.distances
        gradients = torch.autograd.grad(torch.stack(list(losses.values())).sum(), leaves)
        found.append([*losses.values(), *(part for term in statistics.values() for part in term), *gradients])
    for indexed, interpolated in zip(*found, strict=True):
        assert torch.equal(indexed, interpolated)


def test_on_the_grid_the_location_alone_is_read():
    grid = make_grid()
    targets, predictions = make_targets(grid), make_predictions(grid)
    assignment = make_assignment(grid, ON_GRID, on_grid=True)
    blank = replace(
        assignment.samples,
        level=torch.full_like(assignment.samples.level, 99),
        uv=torch.full_like(assignment.samples.uv, torch.nan),
    )
    expected, _ = detection_losses(LossSettings(), grid, targets, predictions, assignment)
    losses, _ = detection_losses(LossSettings(), grid, targets, predictions, replace(assignment, samples=blank))
    assert all(torch.equal(losses[name], expected[name]) for name in ("class", "box", "quality"))


@pytest.mark.parametrize("form", ["focal", "sigmoid_focal", "focal_pt", "weighted"])
def test_hard_labels_on_the_grid_are_torchvisions_focal_loss(form):
    grid = make_grid()
    targets, predictions = make_targets(grid), make_predictions(grid)
    rows = (Row(0, 0, 1, 2), Row(1, 0, 1, 2), Row(1, 1, 2, 1), Row(2, 0, 3, 0))  # two classes share one cell
    truth = torch.zeros_like(predictions.logits)
    for row in rows:
        column, line = int(row.u), int(row.v)
        cell = grid.starts[row.level] + line * SHAPES[row.level][1] + column
        truth[targets.image[row.gt], cell, targets.labels[row.gt]] = 1
    settings = LossSettings(classification=form, alpha=0.3, gamma=1.5)
    losses, _ = detection_losses(settings, grid, targets, predictions, make_assignment(grid, rows, on_grid=True))
    expected = sigmoid_focal_loss(predictions.logits, truth, alpha=0.3, gamma=1.5, reduction="sum") / len(rows)
    torch.testing.assert_close(losses["class"], expected)
    mine = torch.autograd.grad(losses["class"], predictions.logits)[0]
    torch.testing.assert_close(mine, torch.autograd.grad(expected, predictions.logits)[0])


@pytest.mark.parametrize("label", [0.1, 0.5, 0.9])
def test_soft_labels_are_torchvisions_focal_loss_in_its_own_form(label):
    logits = torch.linspace(-6, 6, 25, dtype=torch.float64)
    settings = LossSettings(classification="sigmoid_focal", alpha=0.3, gamma=1.5)
    truth = torch.full_like(logits, label)
    expected = sigmoid_focal_loss(logits, truth, alpha=0.3, gamma=1.5, reduction="none")
    torch.testing.assert_close(settings.labelled(logits, truth), expected)


def scalar(form, z, y, alpha=0.25, gamma=2.0):
    """f(z, y) of each form, written out for one number."""
    s = 1 / (1 + np.exp(-z))
    bce = -y * np.log(s) - (1 - y) * np.log(1 - s)
    if form == "qfl":
        return abs(y - s) ** gamma * bce
    if form == "varifocal":
        return y * bce if y > 0 else alpha * s**gamma * bce
    if y == 0:
        return (1 - alpha) * s**gamma * bce
    if form == "weighted":
        return -alpha * y * (1 - s) ** gamma * np.log(s)
    p_t = y * s + (1 - y) * (1 - s)
    if form == "sigmoid_focal":
        return (alpha * y + (1 - alpha) * (1 - y)) * (1 - p_t) ** gamma * bce
    return alpha * (abs(y - s) if form == "focal" else 1 - p_t) ** gamma * bce


@pytest.mark.parametrize("form", FORMS)
def test_each_form_is_its_formula(form):
    settings = LossSettings(classification=form)
    logits = torch.linspace(-6, 6, 25, dtype=torch.float64)
    expected = torch.tensor([scalar(form, float(z), 0.0) for z in logits], dtype=torch.float64)
    torch.testing.assert_close(settings.negative(logits), expected)
    for label in (0.2, 0.5, 1.0):
        expected = torch.tensor([scalar(form, float(z), label) for z in logits], dtype=torch.float64)
        torch.testing.assert_close(settings.labelled(logits, torch.tensor(label)), expected)


@pytest.mark.parametrize("form", FORMS)
def test_each_form_survives_extreme_logits(form):
    settings = LossSettings(classification=form)
    logits = torch.tensor([-200.0, -50.0, 0.0, 50.0, 200.0], requires_grad=True)
    label = torch.tensor(0.3)
    (settings.negative(logits) + settings.labelled(logits, label)).sum().backward()
    assert torch.isfinite(settings.labelled(logits, label)).all()
    assert torch.isfinite(logits.grad).all()


@pytest.mark.parametrize("form", ["focal", "qfl"])
@pytest.mark.parametrize("label", [0.1, 0.5, 0.8])
def test_the_quality_forms_are_least_where_the_score_is_the_label(form, label):
    settings = LossSettings(classification=form)
    best = torch.logit(torch.tensor(label, dtype=torch.float64))
    around = best + torch.linspace(-2, 2, 41, dtype=torch.float64)
    value = settings.labelled(around, torch.tensor(label, dtype=torch.float64))
    assert int(value.argmin()) == 20
    assert float(value[20]) == pytest.approx(0, abs=1e-12)


def test_box_and_quality_terms_are_their_formulas():
    grid = make_grid()
    targets, predictions = make_targets(grid), make_predictions(grid)
    rows = [replace(row, box_weight=0.5 + i, quality_weight=1.0 + i) for i, row in enumerate(FLOAT[:5])]
    assignment = make_assignment(grid, rows)
    s = assignment.samples
    points = grid.pixels(s.level, s.uv)
    image, truth = targets.image[s.gt], targets.boxes[s.gt]
    reader = MapReader.build(grid, image, s.level, s.uv)
    predicted = decode(points, reader.read(predictions.distances))
    box = (s.box_weight * generalized_box_iou_loss(predicted, truth)).sum() / s.box_weight.sum()
    logit = reader.read(predictions.quality)
    for meaning, target in (
        ("iou", aligned_iou(predicted.detach(), truth)),
        ("centerness", centerness(points, truth)),
    ):
        settings = LossSettings(quality=meaning, class_weight=3.0, box_weight=2.0, quality_weight=0.5)
        losses, statistics = detection_losses(settings, grid, targets, predictions, assignment)
        plain, _ = detection_losses(LossSettings(quality=meaning), grid, targets, predictions, assignment)
        bce = -(target * logit.sigmoid().log() + (1 - target) * (1 - logit.sigmoid()).log())
        torch.testing.assert_close(losses["box"], 2 * box)
        torch.testing.assert_close(losses["quality"], 0.5 * (s.quality_weight * bce).sum() / len(rows))
        torch.testing.assert_close(losses["class"], 3 * plain["class"])
    positives, boxes = statistics["positives_per_box"]
    assert (float(positives), float(boxes)) == (5, 3)
    total, count = statistics["iou_of_positives"]
    torch.testing.assert_close(total, aligned_iou(predicted.detach(), truth).sum())
    assert float(count) == 5
    assert not total.requires_grad


def test_rows_that_do_not_exist_change_nothing():
    grid = make_grid()
    targets = make_targets(grid)
    dummies = (
        Row(2, 1, 1.5, 0.5, 0.9, 7.0, 7.0, 7.0, ok=False, positive=False),
        Row(0, 0, 0.0, 0.0, 1.0, 7.0, 7.0, 7.0, ok=False, positive=False),
        Row(1, 0, 99.0, -99.0, 1.0, 7.0, 7.0, 7.0, ok=False, positive=False),
    )
    results = []
    for rows in (FLOAT, FLOAT + dummies):
        predictions = make_predictions(grid)
        total = total_loss(LossSettings(), grid, targets, predictions, make_assignment(grid, rows))
        maps = (predictions.logits, predictions.quality, predictions.distances)
        results.append((total, *torch.autograd.grad(total, maps)))
    for alone, with_dummies in zip(*results, strict=True):
        assert_close_in_ulps(alone, with_dummies)


def test_dummies_alone_are_no_samples():
    grid = make_grid()
    targets, predictions = make_targets(grid), make_predictions(grid)
    rows = [replace(row, ok=False, positive=False) for row in ON_GRID]
    losses, statistics = detection_losses(
        LossSettings(), grid, targets, predictions, make_assignment(grid, rows, on_grid=True)
    )
    assert losses["box"].item() == losses["quality"].item() == 0.0
    torch.testing.assert_close(losses["class"], LossSettings().negative(predictions.logits).sum())
    assert float(statistics["positives_per_box"][0]) == 0


def test_ignored_locations_feel_nothing_but_the_samples_that_read_them():
    grid = make_grid()
    targets, predictions = make_targets(grid), make_predictions(grid)
    negative = torch.ones(2, grid.num_locations)
    negative[0, :12] = 0
    row = Row(0, 0, 1, 1)  # location 7, class 1
    losses, _ = detection_losses(
        LossSettings(), grid, targets, predictions, make_assignment(grid, [row], negative=negative, on_grid=True)
    )
    gradient = torch.autograd.grad(losses["class"], predictions.logits)[0]
    felt = gradient[0, :12].nonzero().tolist()
    assert felt == [[7, 1]]
    assert (gradient[0, 12:] != 0).all()
    assert (gradient[1] != 0).all()


def test_a_float_sample_owns_the_cells_that_it_reads_and_no_others():
    grid = make_grid()
    targets, predictions = make_targets(grid), make_predictions(grid)
    # Weight 0: the sample itself is silent, what is missing from the negatives stays visible.
    rows = [Row(0, 0, 1.5, 2.0, class_weight=0.0)]
    losses, _ = detection_losses(LossSettings(), grid, targets, predictions, make_assignment(grid, rows))
    gradient = torch.autograd.grad(losses["class"], predictions.logits)[0]
    assert (gradient == 0).nonzero().tolist() == [[0, 13, 1], [0, 14, 1]]  # v is integer: one row of cells


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("boxes", [((), ()), (((2, 3, 30, 29),), ())], ids=["none", "one image without"])
def test_images_without_boxes_give_finite_losses_and_zero_where_nothing_is_supervised(form, boxes):
    grid = make_grid()
    targets = make_targets(grid, boxes, tuple((1,) * len(b) for b in boxes))
    predictions = make_predictions(grid)
    losses, statistics = detection_losses(
        LossSettings(classification=form), grid, targets, predictions, make_assignment(grid, [])
    )
    assert set(losses) == {"class", "box", "quality"}
    assert losses["box"].item() == losses["quality"].item() == 0.0
    gradients = torch.autograd.grad(
        torch.stack(list(losses.values())).sum(), (predictions.logits, predictions.quality, predictions.distances)
    )
    assert all(torch.isfinite(g).all() for g in gradients)
    assert (gradients[0] != 0).all()
    assert not gradients[1].any()
    assert not gradients[2].any()
    assert float(statistics["positives_per_box"][1]) == len(targets.boxes)


def test_a_replaced_term_is_skipped_and_own_terms_are_divided_by_their_own_count():
    grid = make_grid()
    targets, predictions = make_targets(grid), make_predictions(grid)
    own = {"class": (torch.tensor(6.0), torch.tensor(4.0)), "extra": (torch.tensor(6.0), torch.tensor(0.5))}
    assignment = make_assignment(grid, ON_GRID, on_grid=True, losses=own)
    losses, _ = detection_losses(LossSettings(), grid, targets, predictions, assignment, frozenset({"class", "box"}))
    assert set(losses) == {"class", "quality", "extra"}
    assert losses["class"].item() == 1.5
    assert losses["extra"].item() == 6.0  # the count is at least 1


@pytest.mark.parametrize(
    ("normaliser", "divisor"),
    [("positives", 5.0), ("labels", 1 + 1 + 0.4 + 1 + 0.9), ("weights", 1 + 1 + 0.5 + 1 + 1)],
)
def test_the_normaliser(normaliser, divisor):
    grid = make_grid()
    targets, predictions = make_targets(grid), make_predictions(grid)
    settings = LossSettings(classification="qfl", normaliser=normaliser)
    assignment = make_assignment(grid, ON_GRID, on_grid=True)
    losses, _ = detection_losses(settings, grid, targets, predictions, assignment)
    total = oracle(targets, predictions, assignment, ON_GRID)
    assert losses["class"].item() == pytest.approx(total / divisor, rel=1e-5)
    rejected = [replace(row, label=0.1) for row in ON_GRID[:2]] + [Row(2, 0, 3, 0, 0.0, positive=False)]
    few = make_assignment(grid, rejected, on_grid=True)
    losses, _ = detection_losses(settings, grid, targets, predictions, few)
    clamped = 1.0 if normaliser == "labels" else 2.0  # the third row is none of the positives, whatever it weighs
    assert losses["class"].item() == pytest.approx(oracle(targets, predictions, few, rejected) / clamped, rel=1e-5)


@pytest.mark.parametrize(("elsewhere", "divisor"), [(0.0, 1 / 2), (3.0, 3 / 2)])
def test_counts_are_summed_over_processes_before_they_are_clamped(monkeypatch, elsewhere, divisor):
    calls = []

    def all_reduce(counts):
        calls.append(counts.shape)
        counts += elsewhere

    peers = SimpleNamespace(
        is_available=lambda: True, is_initialized=lambda: True, get_world_size=lambda: 2, all_reduce=all_reduce
    )
    grid = make_grid()
    targets, predictions = make_targets(grid, ((), ()), ((), ())), make_predictions(grid)
    alone, _ = detection_losses(LossSettings(), grid, targets, predictions, make_assignment(grid, []))
    monkeypatch.setattr(loss, "dist", peers)
    shared, _ = detection_losses(LossSettings(), grid, targets, predictions, make_assignment(grid, []))
    assert calls == [(3,)]  # one collective, also without a single box
    torch.testing.assert_close(shared["class"], alone["class"] / divisor)


@pytest.mark.parametrize(
    ("point", "expected"),
    [((20, 10), 1.0), ((15, 10), 3**-0.5), ((15, 5), 1 / 3), ((10, 10), 0.0), ((9, 10), 0.0), ((40, 50), 0.0)],
)
def test_centerness(point, expected):
    box = torch.tensor([[10.0, 0.0, 30.0, 20.0]])
    assert float(centerness(torch.tensor([point], dtype=torch.float32), box)) == pytest.approx(expected)


def test_only_their_own_image_feels_samples():
    grid = make_grid()
    targets, predictions = make_targets(grid), make_predictions(grid)
    silent = torch.zeros(2, grid.num_locations)
    assignment = make_assignment(grid, [FLOAT[4]], negative=silent)
    total = total_loss(LossSettings(), grid, targets, predictions, assignment)
    maps = (predictions.logits, predictions.quality, predictions.distances)
    for gradient in torch.autograd.grad(total, maps):
        assert not gradient[0].any()
        assert gradient[1].any()
    touched = torch.autograd.grad(
        total_loss(LossSettings(), grid, targets, predictions, assignment), predictions.logits
    )[0]
    assert set(touched.nonzero()[:, 2].tolist()) == {0}  # the class of box 2
    assert touched.shape[-1] == CLASSES


def test_giou_is_torchvisions_in_value_and_gradient():
    generator = torch.Generator().manual_seed(0)
    a, b = (50 * torch.rand(500, 4, generator=generator) for _ in range(2))
    a[:, 2:] += a[:, :2]
    b[:, 2:] += b[:, :2]
    a[:20] = b[:20]  # equal
    a[20:40, 2:] = a[20:40, :2]  # without area
    a[40:60] += 500  # apart
    a[60:80, 0] = b[60:80, 2]  # touching
    ours, theirs = a.clone().requires_grad_(), a.clone().requires_grad_()
    mine, known = giou_loss(ours, b), generalized_box_iou_loss(theirs, b)
    assert torch.equal(mine, known)
    mine.sum().backward()
    known.sum().backward()
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("quality", ["iou", "centerness"])
@pytest.mark.parametrize("rows", [ON_GRID, FLOAT], ids=["grid", "float"])
def test_nothing_in_the_loss_depends_on_data(rows, quality):
    """Tensors without values: whatever makes the host wait for the device (`.item()`, indexing by a mask) raises."""
    grid = make_grid()
    targets, predictions = make_targets(grid), make_predictions(grid)
    assignment = make_assignment(grid, rows, on_grid=rows is ON_GRID)
    mode = FakeTensorMode(allow_non_fake_inputs=False)

    def fake(data):
        values = {f.name: getattr(data, f.name) for f in fields(data)}
        tensors = {name: value for name, value in values.items() if isinstance(value, torch.Tensor)}
        return replace(data, **{name: mode.from_tensor(value.detach()) for name, value in tensors.items()})

    arguments = fake(grid), fake(targets), fake(predictions)
    assignment = Assignment(fake(assignment.samples), mode.from_tensor(assignment.negative_weight))
    with mode:
        losses, _ = detection_losses(LossSettings(quality=quality), *arguments, assignment)
    assert {name: value.shape for name, value in losses.items()} == dict.fromkeys(("class", "box", "quality"), ())
