"""Losses over predictions, for assigners that replace shared terms: what these teach, told by their gradients.

An assigner with `needs.grads` may give no samples at all, so that the questions asked of samples find nothing to look
at. What its losses pull at tells the same: a location whose distances get a gradient is a positive, a class logit that
is pushed down is a negative.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from assigners.contract import Assigner, Assignment, Predictions, Targets
from assigners.ops.boxes import decode
from assigners.ops.records import map_tensors
from harness.verify.answers import TAUGHT, Factory, expect, permuted, run, total_loss
from harness.verify.checks.symmetry import ignore_region, moves, shuffle
from harness.verify.scenes import VerifyScene

RELATIVE = 1e-3  # of gradients that should not differ: sums are taken in another order
Gradients = dict[str, Tensor]


def gradients(answer: Assignment, maps: Predictions) -> Gradients:
    """The gradient of the sum of all losses by each map that a shared loss would teach; zero where none arrives."""
    leaves = [getattr(maps, name) for name in TAUGHT.values()]
    values = torch.autograd.grad(total_loss(answer), leaves, allow_unused=True, materialize_grads=True)
    return dict(zip(TAUGHT.values(), values, strict=True))


def taught(
    assigner: Assigner, scene: VerifyScene, *, targets: Targets | None = None, maps: Predictions | None = None
) -> Gradients:
    """The gradients of an assigner's losses on a scene."""
    maps = scene.predictions(grads=True) if maps is None else maps
    return gradients(run(assigner, scene, targets=targets, maps=maps), maps)


def only_what_a_box_holds_is_taught(factory: Factory, scene: VerifyScene) -> None:
    """Distances get a gradient strictly inside boxes alone; a logit is never pulled up outside boxes of its class."""
    assigner = factory(scene)
    gradient = taught(assigner, scene)
    held = _held(scene, scene.targets())
    inside = held.any(dim=2)
    beside = (gradient["distances"] != 0).any(dim=2) & ~inside
    expect(not beside.any(), "expected no gradient of the distances at locations that no box holds strictly inside")
    if "box" in assigner.declares.replaces and inside.any():
        expect((gradient["distances"][inside] != 0).any(), "expected the losses to teach distances to some location")
    if "class" in assigner.declares.replaces:
        pulled = (gradient["logits"] < 0) & ~held
        expect(not pulled.any(), "expected no class logit pulled up where no box of that class holds the location")


def images_are_taught_alone(factory: Factory, scene: VerifyScene) -> None:
    """The gradient at an image does not depend on the rest of its batch: terms are sums, divided by nobody here."""
    assigner = factory(scene)
    together = taught(assigner, scene)
    again = taught(assigner, scene)
    same = all(torch.equal(together[name], again[name]) for name in together)
    expect(same, "two runs on one input: expected the same gradients bit for bit")
    for image in range(scene.num_images):
        alone = taught(assigner, scene.single(image))
        mine = {name: value[image : image + 1] for name, value in together.items()}
        _expect_close(mine, alone, f"image {image} in its batch and alone")


def order_of_boxes_teaches_the_same(factory: Factory, scene: VerifyScene) -> None:
    """Permuting the boxes of an image moves no gradient."""
    assigner, targets = factory(scene), scene.targets()
    shuffled = taught(assigner, scene, targets=permuted(targets, shuffle(targets, scene.seed)))
    _expect_close(taught(assigner, scene), shuffled, "the boxes in another order")


def place_on_the_canvas_teaches_the_same(factory: Factory, scene: VerifyScene) -> None:
    """Moving boxes and predictions by whole cells of every level moves the gradients of the distances along."""
    here, there, cells = moves(scene)
    assigner = factory(here.scene)
    still, moved = (taught(assigner, x.scene, maps=_as_leaves(x.scene, x.maps))["distances"][0] for x in (here, there))
    for level, (height, width) in enumerate(here.scene.shapes):
        start = here.scene.grid.starts[level]
        a, b = (field[start : start + height * width].view(height, width, 4) for field in (still, moved))
        right, down = cells[level].tolist()
        what = f"everything moved by {right} columns and {down} rows of level {level}"
        _expect_close({"distances": a.roll((down, right), dims=(0, 1))}, {"distances": b}, what)


def gradients_are_finite(factory: Factory, scene: VerifyScene) -> None:
    """With logits of +-50 and boxes without area, and with bfloat16 maps under autocast."""
    assigner, plain = factory(scene), scene.predictions()

    def sure(value: Tensor) -> Tensor:
        return 50 * value.sign()

    wild = replace(plain, logits=sure(plain.logits), quality=sure(-plain.quality), distances=0 * plain.distances)
    exact = replace(plain, distances=_exact(scene))
    spoilt: tuple[tuple[str, Callable[[], Predictions]], ...] = (
        ("logits of 50 and boxes without area", lambda: _as_leaves(scene, wild)),
        ("boxes predicted exactly", lambda: _as_leaves(scene, exact)),
        ("bfloat16 maps", lambda: map_tensors(plain, lambda t: t.detach().bfloat16().requires_grad_())),
    )
    for what, make in spoilt:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            gradient = taught(assigner, scene, maps=make())
        for name, value in gradient.items():
            expect(torch.isfinite(value).all(), f"{what}: expected a finite gradient of predictions.{name}")


def ignore_regions_teach_no_background(factory: Factory, scene: VerifyScene) -> None:
    """Logits inside a region are left alone where no box of their class is; outside, nothing changes."""
    assigner = factory(scene)
    targets, region = ignore_region(scene)
    held_by = _held(scene, targets)
    plain, changed = taught(assigner, scene), taught(assigner, scene, targets=targets)
    if "class" in assigner.declares.replaces:
        background = changed["logits"][0][region[:, None] & ~held_by[0]]
        expect((background == 0).all(), "expected no logit pushed down as background inside an ignore region")
    if "quality" in assigner.declares.replaces:
        background = changed["quality"][0][region & ~held_by[0].any(dim=1)]
        expect((background == 0).all(), "expected no quality logit pushed down as background inside an ignore region")
    outside = torch.ones(scene.num_images, scene.grid.num_locations, dtype=torch.bool)
    outside[0] = ~region
    before, after = ({name: value[outside] for name, value in values.items()} for values in (plain, changed))
    _expect_close(before, after, "an ignore region added, outside it")


def _held(scene: VerifyScene, targets: Targets) -> Tensor:
    """``[B, R, C]`` bool: a box of the class holds the location strictly inside."""
    held = torch.zeros(scene.num_images, scene.grid.num_locations, scene.num_classes, dtype=torch.bool)
    points = scene.grid.points.double()
    for box, label, image in zip(targets.boxes.double(), targets.labels.tolist(), targets.image.tolist(), strict=True):
        held[image, :, label] |= ((points > box[:2]) & (points < box[2:])).all(dim=1)
    return held


def _exact(scene: VerifyScene) -> Tensor:
    """Distances ``[B, R, 4]`` to the sides of the first box that holds a location, or else some."""
    targets, points = scene.targets(), scene.grid.points
    reach = torch.full((scene.num_images, scene.grid.num_locations, 4), 16.0)
    for box, image in zip(targets.boxes, targets.image.tolist(), strict=True):
        sides = torch.cat((points - box[:2], box[2:] - points), dim=1)
        held = sides.amin(dim=1) > 0
        reach[image, held] = sides[held]
    return reach


def _as_leaves(scene: VerifyScene, maps: Predictions) -> Predictions:
    """The maps as leaves with gradient, and boxes decoded from the distances."""
    leaves = map_tensors(maps, lambda t: t.detach().clone().requires_grad_())
    return replace(leaves, boxes=decode(scene.grid.points, leaves.distances))


def _expect_close(a: Gradients, b: Gradients, what: str) -> None:
    for name in a:
        scale = float(a[name].abs().max()) if a[name].numel() else 0.0
        near = np.isclose(a[name].numpy(), b[name].numpy(), rtol=RELATIVE, atol=RELATIVE * RELATIVE * max(scale, 1e-3))
        expect(bool(near.all()), f"{what}: expected the same gradient of predictions.{name} up to {RELATIVE:g}")
