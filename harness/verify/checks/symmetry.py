"""What may not matter: the order of boxes, the rest of the batch, names of classes, the place on the canvas."""

from __future__ import annotations

import random
from dataclasses import fields, replace
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from assigners.contract import Assigner, Assignment, Predictions, Targets
from assigners.ops.boxes import decode
from assigners.ops.records import map_tensors, tensors
from assigners.samplers.negatives import NegativeSampler
from harness.verify.answers import (
    Factory,
    Terms,
    expect,
    expect_close,
    expect_close_losses,
    expect_close_rows,
    expect_equal,
    loss_values,
    permuted,
    pixels,
    rows,
    run,
    tolerance,
)
from harness.verify.published.cases import IntArray
from harness.verify.scenes import CHANNELS, LATTICE, VerifyScene

MARGIN = 512  # px; four cells of the coarsest level lie between a box and the border
JUMP = 128  # px; one cell of the coarsest level
MOST_JUMPS = 2


def same_bits_and_nothing_touched(factory: Factory, scene: VerifyScene) -> None:
    """The same input gives the same bits; inputs, parameters and the global generators stay as they are."""
    assigner, targets = factory(scene), scene.targets()
    predictions = scene.predictions(grads=assigner.needs.grads)
    before = {key: value.clone() for key, value in assigner.state_dict().items()}
    torch_state, numpy_state, python_state = torch.get_rng_state(), _numpy_state(), random.getstate()
    first = run(assigner, scene, targets=targets, maps=predictions)
    moved = not torch.equal(torch_state, torch.get_rng_state())
    expect(not moved, "expected the global random state untouched; draw with assigners.ops.noise")
    moved = numpy_state != _numpy_state() or python_state != random.getstate()
    expect(not moved, "expected the global states of NumPy and Python untouched; draw with assigners.ops.noise")
    expect_equal(first, run(assigner, scene), "two runs on one input")
    for key, value in assigner.state_dict().items():
        expect(torch.equal(before[key], value), f"expected {key} of the assigner untouched")
    fresh = scene.targets()
    for field in fields(Targets):
        mine, yours = getattr(targets, field.name), getattr(fresh, field.name)
        same = torch.equal(mine, yours) if isinstance(mine, Tensor) else mine == yours
        expect(same, f"expected targets.{field.name} untouched")
    mine, yours = tensors(predictions), tensors(scene.predictions())
    for name in mine:
        expect(torch.equal(mine[name], yours[name]), f"expected predictions.{name} untouched")


def _numpy_state() -> tuple[bytes, int]:
    state = np.random.get_state(legacy=False)
    return state["state"]["key"].tobytes(), state["state"]["pos"]


def images_do_not_see_each_other(factory: Factory, scene: VerifyScene) -> None:
    """The answer to a batch is the answers to its images, side by side."""
    assigner = factory(scene)
    together, targets = run(assigner, scene), scene.targets()
    table, first = rows(together), np.cumsum((0, *targets.counts))
    totals: Terms = {}
    for image in range(scene.num_images):
        alone = run(assigner, scene.single(image))
        mine = table[(table[:, 0] >= first[image]) & (table[:, 0] < first[image + 1])]
        mine[:, 0] -= first[image]
        what = f"image {image} in its batch and alone"
        expect_close_rows(mine, rows(alone), tolerance(assigner, together), what)
        expect_close(together.negative_weight[image], alone.negative_weight[0], f"{what}, negative_weight")
        for key, (total, divisor) in loss_values(alone).items():
            before = totals.get(key, (0.0, 0.0))
            totals[key] = before[0] + total, before[1] + divisor
    expect_close_losses(totals, loss_values(together), "the images one by one and in a batch")


def boxes_without_a_pixel_change_nothing(factory: Factory, scene: VerifyScene) -> None:
    """Boxes that clipping leaves without a pixel are no targets, and name no other box."""
    width = scene.canvas[1]
    nothing = np.array(
        [[5, 5, 5, 90], [width + 3, 4, width + 50, 60], [-40, -40, 0.5, 20], [30, 30, 30.5, 31]], dtype=np.float32
    )
    padded = replace(
        scene,
        boxes=tuple(np.concatenate((boxes, nothing)) for boxes in scene.boxes),
        labels=tuple(np.concatenate((labels, np.arange(4))) for labels in scene.labels),
    )
    assigner = factory(scene)
    expect_equal(run(assigner, scene), run(assigner, padded), "boxes without a pixel added")


def order_of_boxes_does_not_matter(factory: Factory, scene: VerifyScene) -> None:
    """Permuting the boxes of an image permutes `samples.gt` and nothing else."""
    targets = scene.targets()
    order = shuffle(targets, scene.seed)
    assigner = factory(scene)
    plain = run(assigner, scene)
    shuffled = run(assigner, scene, targets=permuted(targets, order))
    what, atol = "the boxes in another order", tolerance(assigner, plain)
    if plain.samples.on_grid:
        # Boxes equal in everything are interchangeable: let the first of each name all its twins.
        keys = torch.cat((targets.boxes, targets.labels[:, None].float(), targets.image[:, None].float()), dim=1)
        twin = (keys[:, None] == keys[None]).all(dim=2).float().argmax(dim=1) if len(keys) else order
        expect_close_rows(rows(plain, twin), rows(shuffled, twin[order]), atol, what)
    else:
        expect_close_rows(rows(plain), rows(shuffled, order), atol, what)
    expect_close(plain.negative_weight, shuffled.negative_weight, f"{what}, negative_weight")
    expect_close_losses(loss_values(plain), loss_values(shuffled), what)


def shuffle(targets: Targets, seed: int) -> Tensor:
    """A random order of the boxes within their images, ``[G]``."""
    rng, starts = np.random.default_rng(seed), np.cumsum((0, *targets.counts))
    parts = [start + rng.permutation(count) for start, count in zip(starts, targets.counts, strict=False)]
    return torch.from_numpy(np.concatenate(parts)).long()


def classes_are_only_names(factory: Factory, scene: VerifyScene) -> None:
    """Renaming the classes of boxes and logits alike changes nothing."""
    if any(len({tuple(box) for box in boxes.tolist()}) < len(boxes) for boxes in scene.boxes):
        return  # the class orders boxes that are equal otherwise
    table = np.random.default_rng(scene.seed).permutation(scene.num_classes)
    old_name = torch.from_numpy(np.argsort(table))
    renamed = replace(scene, labels=tuple(table[labels] for labels in scene.labels))
    assigner, predictions = factory(scene), scene.predictions()
    plain = run(assigner, scene, maps=predictions)
    with torch.no_grad():
        for parameter, axis in _class_axes(factory, scene, assigner):
            parameter.copy_(parameter.index_select(axis, old_name))
    swapped = replace(predictions, logits=predictions.logits[..., old_name])
    answer = run(assigner, renamed, maps=swapped)
    # Not bit for bit: a logit at another place of the array may meet another kernel.
    expect_close_rows(rows(plain), rows(answer), tolerance(assigner, plain), "the classes renamed")
    expect_close(plain.negative_weight, answer.negative_weight, "the classes renamed, negative_weight")
    expect_close_losses(loss_values(plain), loss_values(answer), "the classes renamed")


def _class_axes(factory: Factory, scene: VerifyScene, assigner: Assigner) -> list[tuple[Tensor, int]]:
    """Parameters that hold something per class, and the axis that grows with the number of classes."""
    larger = dict(factory(replace(scene, num_classes=scene.num_classes + 1)).named_parameters())
    return [
        (parameter, axis)
        for name, parameter in assigner.named_parameters()
        for axis, (here, there) in enumerate(zip(parameter.shape, larger[name].shape, strict=True))
        if here != there
    ]


def declared_needs_are_all_that_is_read(factory: Factory, scene: VerifyScene) -> None:
    """What `needs` does not name may be absent, or NaN."""
    assigner = factory(scene)
    plain = run(assigner, scene)
    if not assigner.needs.features:
        bare = run(assigner, scene, maps=scene.predictions(features=False))
        expect_equal(plain, bare, "feature maps left out, which `needs` does not name")
    if not assigner.needs.predictions:
        blind = assigner(scene.grid, scene.targets(), None, scene.step())
        expect_equal(plain, blind, "predictions left out, which `needs` does not name")
        nan = map_tensors(scene.predictions(), lambda t: torch.full_like(t, torch.nan))
        expect_equal(plain, run(assigner, scene, maps=nan), "NaN predictions, which it does not need")


def ignore_regions_hold_no_negatives(factory: Factory, scene: VerifyScene) -> None:
    """Weight 0 inside, nothing else changed: no sample but negatives inside, no weight of another location."""
    targets, held = ignore_region(scene)
    assigner = factory(scene)
    plain = run(assigner, scene)
    answer = run(assigner, scene, targets=targets, maps=scene.predictions())
    before, after = (rows(_without_negatives(found, scene, targets)) for found in (plain, answer))
    expect_close_rows(before, after, 0.0, "an ignore region added")
    if "class" in assigner.declares.replaces:
        return  # its negatives are in its losses: `gradients.ignore_regions_teach_no_background`
    expect(
        (answer.negative_weight[0, held] == 0).all(),
        "negative_weight: expected 0 inside ignore regions; see assigners.parts.negatives.negatives_outside_ignore",
    )
    if isinstance(assigner, NegativeSampler):
        return  # others are drawn in place of those inside
    expected = plain.negative_weight.clone()
    expected[0, held] = 0
    same = torch.equal(answer.negative_weight, expected)
    expect(same, "negative_weight: expected an ignore region to change no location outside it")


def ignore_region(scene: VerifyScene) -> tuple[Targets, Tensor]:
    """Targets with one region in the first image, and the locations ``[R]`` that it holds."""
    height, width = scene.canvas
    region = torch.tensor([[0.3 * width, 0.2 * height, 0.8 * width, 0.7 * height]])
    points, low, high = scene.grid.points.double(), region[0, :2].double(), region[0, 2:].double()
    held = ((points > low) & (points < high)).all(dim=1)
    return scene.targets(ignore=[region] + [torch.zeros(0, 4)] * (scene.num_images - 1)), held


def _without_negatives(answer: Assignment, scene: VerifyScene, targets: Targets) -> Assignment:
    """The answer without the samples of target zero that lie in the one ignore region of the targets."""
    s, xy, region = answer.samples, pixels(answer, scene), targets.ignore[0].double()
    inside = ((xy > region[:2]) & (xy < region[2:])).all(dim=1) & (targets.image[s.gt] == targets.ignore_image[0])
    return replace(answer, samples=s.select(s.positive | (s.label > 0) | ~inside))


def mixed_precision_maps(factory: Factory, scene: VerifyScene) -> None:
    """The arithmetic of an assignment is float32, whatever surrounds it."""
    assigner = factory(scene)
    half = map_tensors(scene.predictions(), lambda t: t.detach().bfloat16())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        low = run(assigner, scene, maps=half)
    full = run(assigner, scene, maps=map_tensors(half, Tensor.float))
    expect_equal(low, full, "bfloat16 maps under autocast, and the same numbers in float32")


def place_on_the_canvas_does_not_matter(factory: Factory, scene: VerifyScene) -> None:
    """Moving boxes and predictions by whole cells of every level moves the samples by as many cells."""
    here, there, cells = moves(scene)
    assigner = factory(here.scene)
    a, b = (run(assigner, x.scene, maps=x.maps) for x in (here, there))
    expected = rows(a)
    expected[:, 2:4] += cells[expected[:, 1].astype(int)]
    expect_close_rows(expected, rows(b), tolerance(assigner, a), f"everything moved by {cells[0].tolist()} cells")


class Snapshot(NamedTuple):
    """A scene and what a detector sees there."""

    scene: VerifyScene
    maps: Predictions


def moves(scene: VerifyScene) -> tuple[Snapshot, Snapshot, IntArray]:
    """One image on a larger canvas, the same moved, and by how many cells (columns, rows) of each level ``[L, 2]``."""
    right, down = (int(jump) for jump in np.random.default_rng(scene.seed).integers(0, MOST_JUMPS + 1, 2))
    side = max(scene.canvas) + 2 * MARGIN + MOST_JUMPS * JUMP
    here = replace(scene, canvas=(side, side), sizes=((side, side),), boxes=(scene.boxes[0] + MARGIN,))
    shift = np.array([right, down, right, down], dtype=np.float32) * JUMP
    there = replace(here, boxes=(here.boxes[0] + shift,))
    cells = np.array([[right * JUMP // stride, down * JUMP // stride] for stride in here.strides])
    return Snapshot(here, _moved(here, 0, 0)), Snapshot(there, _moved(there, right, down)), cells


def _moved(scene: VerifyScene, right: int, down: int) -> Predictions:
    """Predictions of one large image, read `right` and `down` jumps further to the upper left.

    Distances are whole eighths of a pixel, so that predicted boxes, too, are exact in float32 wherever they are.
    """
    rng = np.random.default_rng((scene.seed, 13))
    flat: list[Tensor] = []
    features = []
    for (height, width), stride in zip(scene.shapes, scene.strides, strict=True):
        most, x, y = (jumps * JUMP // stride for jumps in (MOST_JUMPS, MOST_JUMPS - right, MOST_JUMPS - down))
        channels = scene.num_classes + 1 + 4 + CHANNELS
        whole = rng.uniform(-1, 1, (channels, height + most, width + most)).astype(np.float32)
        part = torch.from_numpy(np.ascontiguousarray(whole[:, y : y + height, x : x + width]))
        features.append(part[None, -CHANNELS:].clone().requires_grad_())
        flat.append(part[:-CHANNELS].flatten(1).T)
    logits, quality, reach = torch.cat(flat).split([scene.num_classes, 1, 4], dim=1)
    reach = ((reach * 3 + 3).exp() * LATTICE).round() / LATTICE  # 1 to 400 px
    return Predictions(
        logits=6 * logits[None], quality=6 * quality[None, :, 0], distances=reach[None],
        boxes=decode(scene.grid.points, reach)[None], features=tuple(features),
    )  # fmt: skip
