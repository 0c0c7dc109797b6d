"""The dense versions that assigners are timed against give the assigners' answers: a ratio compares like with like."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from assigners import Targets, catalogue, create
from harness.bench.batches import dense_call
from harness.bench.dense import likelihood
from harness.bench.dense.picture import IGNORED, NEGATIVE, pictures
from harness.bench.dense.rules import RULES
from harness.bench.measure import peak_bytes
from harness.bench.scene import STEP, make_scene

CLASSES, SIZE = 5, (256, 320)
HARD = [name for name, rule in RULES.items() if not rule.losses]
CPU = torch.device("cpu")


def small(boxes=12, classes=CLASSES, images=2, seed=0):
    return make_scene(images, boxes, classes, size=SIZE, channels=2, seed=seed)


def assigner_of(name, scene, **options):
    torch.manual_seed(0)
    made = create(name, scene.head, **options)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape))
    return made


def answer(name, scene):
    """What the assigner says, in the dense versions' form: box and label of every location [B, R].

    Of several boxes it is the one that weighs most.
    """
    grid, targets = scene.grid, scene.targets
    told = assigner_of(name, scene)(grid, targets, scene.predictions, STEP)
    samples = told.samples
    location = grid.level_start[samples.level]
    location = location + (samples.uv[:, 1] * grid.level_width[samples.level] + samples.uv[:, 0]).long()
    image = targets.image[samples.gt]
    assigned = torch.where(told.negative_weight > 0, NEGATIVE, IGNORED)
    label = torch.zeros_like(told.negative_weight)
    rows = samples.positive.nonzero().flatten()
    for k in rows[samples.class_weight[rows].argsort(stable=True)].tolist():
        assigned[image[k], location[k]] = targets.slot[samples.gt[k]]
        label[image[k], location[k]] = samples.label[k]
    return assigned, label


def test_all_are_registered():
    assert set(RULES) <= {entry.name for entry in catalogue()}


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", HARD)
def test_same_assignment(name, seed):
    scene = small(seed=seed)
    ours, label = answer(name, scene)
    dense = RULES[name](scene.grid, scene.targets, scene.predictions, assigner_of(name, scene))
    theirs = torch.stack([each.assigned for each in dense])
    either = (ours != NEGATIVE) | (theirs != NEGATIVE)
    assert either.sum() >= 10
    # Rounding may decide at a threshold, and POTO's rounds are not the Hungarian algorithm.
    assert (ours == theirs)[either].double().mean() >= 0.99
    if dense[0].label is not None:
        soft = torch.stack([each.label for each in dense])
        torch.testing.assert_close(label[ours == theirs], soft[ours == theirs], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", HARD)
def test_an_image_without_boxes(name):
    scene = small()
    nothing = {"counts": (0, 0), "num_pairs": 0, "num_box_levels": 0}
    empty = replace(scene.targets, boxes=scene.targets.boxes[:0], labels=scene.targets.labels[:0], **nothing)
    for each in RULES[name](scene.grid, empty, scene.predictions, assigner_of(name, scene)):
        assert (each.assigned == NEGATIVE).all()


def summed(losses):
    return {key: sum(float(each[key].detach()) for each in losses) for key in losses[0]}


def test_auto_assign_has_the_same_losses_and_gradients():
    scene = small()
    assigner = assigner_of("auto_assign", scene)
    boxes = scene.predictions.boxes.clone().requires_grad_()
    logits = scene.predictions.logits.clone().requires_grad_()
    predictions = replace(scene.predictions, boxes=boxes, logits=logits)
    inputs = [boxes, logits, *assigner.parameters()]
    ours = assigner(scene.grid, scene.targets, predictions, STEP).losses
    rule = RULES["auto_assign"]
    dense = rule(scene.grid, scene.targets, predictions, assigner)
    assert {key: float(value.detach()) for key, (value, _) in ours.items()} == pytest.approx(summed(dense), rel=1e-4)
    mine = torch.autograd.grad(torch.stack([value for value, _ in ours.values()]).sum(), inputs)
    for a, b in zip(mine, rule.backward(dense, inputs), strict=True):
        torch.testing.assert_close(a, b, atol=1e-4 * float(b.abs().max()), rtol=1e-3)


@pytest.mark.parametrize(("bag", "tolerance"), [(10**5, 1e-4), (50, 0.03)])
def test_free_anchor_has_the_same_losses(bag, tolerance):
    """A bag's last members are drawn from anchors of equal overlap, so only bags of everything agree exactly."""
    scene = small()
    ours = assigner_of("free_anchor", scene, bag=bag)(scene.grid, scene.targets, scene.predictions, STEP).losses
    dense = [likelihood.free_anchor(p, bag=bag) for p in pictures(scene.grid, scene.targets, scene.predictions)]
    assert {key: float(value) for key, (value, _) in ours.items()} == pytest.approx(summed(dense), rel=tolerance)


@pytest.mark.parametrize("classes", [1, 20])
@pytest.mark.parametrize("name", list(RULES))
def test_predicted_memory(name, classes):
    """Of an image that every box covers."""
    boxes = 40
    scene = small(boxes, classes, images=1)
    height, width = SIZE
    whole = torch.tensor([[0.0, 0.0, width, height]]) - torch.arange(boxes)[:, None] * torch.tensor([0, 0, 0.5, 0.5])
    targets = Targets.collate([whole], [scene.targets.labels], scene.grid, sizes=[SIZE])
    scene = replace(scene, targets=targets)
    measured = peak_bytes(dense_call(RULES[name], assigner_of(name, scene), scene), CPU)
    predicted = RULES[name].peak_bytes(boxes, scene.grid.num_locations, classes)
    assert 0.7 * predicted < measured < 1.1 * predicted
