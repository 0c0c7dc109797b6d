"""What an answer looks like, whatever the rule: shapes, ranges, finite numbers, gradients."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from assigners.contract import Assigner, Assignment
from assigners.ops.boxes import decode
from assigners.ops.records import map_tensors
from assigners.samplers.negatives import NegativeSampler
from harness.verify.answers import (
    TAUGHT,
    Factory,
    expect,
    expect_connected,
    expect_finite,
    expect_positives,
    pixels,
    run,
    run_with_maps,
    total_loss,
)
from harness.verify.scenes import VerifyScene

FIELDS = (
    ("gt", torch.int64, ()), ("level", torch.int64, ()), ("uv", torch.float32, (2,)), ("ok", torch.bool, ()),
    ("positive", torch.bool, ()), ("label", torch.float32, ()), ("class_weight", torch.float32, ()),
    ("box_weight", torch.float32, ()), ("quality_weight", torch.float32, ()), ("location", torch.int64, ()),
)  # fmt: skip
WEIGHTED = ("label", "class_weight", "box_weight", "quality_weight")
POISONS = (float("nan"), float("inf"), float("-inf"))


def expect_sound(answer: Assignment, scene: VerifyScene, *, terms: bool = True) -> None:
    """Everything that `assigners.contract` says of an answer, but for where the positives lie.

    Args:
        terms: losses and statistics too.
    """
    targets, grid, s = scene.targets(), scene.grid, answer.samples
    count = s.gt.shape[0]
    for name, dtype, trailing in FIELDS:
        value = getattr(s, name)
        if value is None and name == "location":
            continue  # between the locations
        expect(
            (value.dtype, tuple(value.shape)) == (dtype, (count, *trailing)),
            f"samples.{name}: expected {dtype} {(count, *trailing)}, got {value.dtype} {tuple(value.shape)}",
        )
    expect_finite(answer, "an answer", terms=terms)
    expect(not (s.positive & ~s.ok).any(), "samples.positive: expected a subset of samples.ok")
    for name in WEIGHTED:
        value = getattr(s, name)
        expect((value >= 0).all(), f"samples.{name}: expected >= 0, got {_smallest(value):g}")
        expect((value[~s.ok] == 0).all(), f"samples.{name}: expected 0 in rows that do not exist (ok is false)")
    expect((s.label <= 1).all(), "samples.label: expected <= 1")
    if targets.num_boxes:
        known = (s.gt >= 0) & (s.gt < targets.num_boxes)
        expect(known.all(), f"samples.gt: expected an index into the {targets.num_boxes} boxes, also in dummy rows")
        expect(((s.level >= 0) & (s.level < grid.num_levels)).all(), "samples.level: expected a level of the grid")
        limit = torch.stack((grid.level_width[s.level], grid.level_height[s.level]), dim=1) - 1
        expect(((s.uv >= 0) & (s.uv <= limit)).all(), "samples.uv: expected coordinates within [0, W-1] x [0, H-1]")
        if s.location is not None:
            known = (s.location >= 0) & (s.location < grid.num_locations)
            expect(known.all(), f"samples.location: expected one of {grid.num_locations} locations, also in dummy rows")
            level, uv = grid.map_coordinates(s.location)
            same = (level == s.level) & (uv == s.uv).all(dim=1)
            expect(same[s.ok].all(), "samples.location: expected the place that samples.level and samples.uv name")
    else:
        expect(not s.ok.any(), "expected no sample where there is no box")
    negative = answer.negative_weight
    shape = (scene.num_images, grid.num_locations)
    got = f"got {negative.dtype} {tuple(negative.shape)}"
    expect(tuple(negative.shape) == shape and negative.dtype == torch.float32,
           f"negative_weight: expected float32 {shape}, {got}")  # fmt: skip
    expect(((negative >= 0) & (negative <= 1)).all(), "negative_weight: expected within [0, 1]")
    if terms:
        _expect_terms(answer)


def _expect_terms(answer: Assignment) -> None:
    for terms in (answer.losses, answer.statistics):
        for key, (total, divisor) in terms.items():
            expect(total.ndim == divisor.ndim == 0, f"{key!r}: expected a 0-dim sum and a 0-dim count")
            expect(divisor >= 0, f"{key!r}: expected a count >= 0, got {divisor.item():g}")
    for key, (total, _) in answer.losses.items():
        expect(total >= 0, f"loss {key!r}: expected >= 0, got {total.item():g}")
    for key, term in answer.statistics.items():
        expect(not any(part.requires_grad for part in term), f"statistic {key!r}: expected a detached value")


def _smallest(value: Tensor) -> float:
    return float(value.min()) if value.numel() else 0.0


def shapes_types_and_ranges(factory: Factory, scene: VerifyScene) -> None:
    """At the beginning, in the middle and at the end of training."""
    assigner = factory(scene)
    for progress in (0.5, 0.0, 1.0):
        expect_sound(run(assigner, scene, progress=progress), scene)
    _expect_consistent(assigner)


def _expect_consistent(assigner: Assigner) -> None:
    """What it declares goes together with what it needs."""
    declares, needs = assigner.declares, assigner.needs
    expect(declares.replaces <= TAUGHT.keys(), f"declares.replaces: expected some of {sorted(TAUGHT)}")
    expect(needs.grads or not declares.replaces, "it replaces shared terms, so it must declare needs.grads")
    expect(needs.predictions or not needs.grads, "needs.grads goes with needs.predictions")
    supervised = declares.quality != "objectness" or "quality" in declares.replaces
    expect(supervised, "it declares objectness, which has no target, but does not replace the quality term")


def positives_lie_inside(factory: Factory, scene: VerifyScene) -> None:
    """Only a box that holds no location at all may be read beside itself, at the nearest place the map has."""
    targets, answer = scene.targets(), run(factory(scene), scene)
    s = answer.samples
    boxes = targets.boxes.double()[s.gt]
    xy = pixels(answer, scene)
    inside = ((xy > boxes[:, :2]) & (xy < boxes[:, 2:])).all(dim=1)
    points = scene.grid.points.double()
    for k in torch.nonzero(s.positive & ~inside).flatten().tolist():
        box = boxes[k]
        what = f"box {int(s.gt[k])} has a positive at {xy[k].tolist()} px, not strictly inside {box.tolist()}"
        held = ((points > box[:2]) & (points < box[2:])).all(dim=1).any()
        expect(not held and not s.on_grid, what)
        beside = torch.maximum(box[:2] - xy[k], xy[k] - box[2:]).max()
        expect(beside <= scene.strides[0] / 2, f"{what}, and not beside it either")


def batch_without_boxes(factory: Factory, scene: VerifyScene) -> None:
    """No samples; every location is a negative; losses still reach parameters and the maps that they teach.

    Losses are zero, but for an assigner that replaces the class term: its negatives are in them.
    """
    assigner = factory(scene)
    answer, maps = run_with_maps(assigner, scene)
    expect_sound(answer, scene)
    if "class" in assigner.declares.replaces:
        again = run(assigner, scene, maps=maps)
        pushed = torch.autograd.grad(total_loss(again), maps.logits)[0] > 0
        expect(
            pushed.any(dim=2).all(), "expected the losses to push a logit down at every location, also without boxes"
        )
    elif isinstance(assigner, NegativeSampler):
        count = min(assigner.count, scene.grid.num_locations)
        drawn = (answer.negative_weight == 1).sum(dim=1)
        expect((drawn == count).all(), f"expected weight 1 at {count} locations of every image, the sampler's least")
    else:
        expect((answer.negative_weight == 1).all(), "expected weight 1 at every location as a negative")
        for key, (loss, _) in answer.losses.items():
            expect(loss == 0, f"loss {key!r}: expected 0 without boxes, got {loss.item():g}")
    expect_connected(assigner, answer, maps)


def every_parameter_is_reached(factory: Factory, scene: VerifyScene) -> None:
    """By a finite gradient; and every map whose shared term the assigner replaces."""
    assigner = factory(scene)
    expect_connected(assigner, *run_with_maps(assigner, scene))


def assignment_carries_no_gradient(factory: Factory, scene: VerifyScene) -> None:
    """Parameters learn from the losses alone."""
    answer = run(factory(scene), scene)
    for name in ("uv", *WEIGHTED):
        expect(not getattr(answer.samples, name).requires_grad, f"samples.{name}: expected a detached value")
    expect(not answer.negative_weight.requires_grad, "negative_weight: expected a detached value")


def wild_predictions(factory: Factory, scene: VerifyScene) -> None:
    """Logits of +-50 and boxes without area."""
    assigner, predictions = factory(scene), scene.predictions()
    none = torch.zeros_like(predictions.distances).requires_grad_(assigner.needs.grads)
    wild = replace(
        predictions,
        logits=(50 * predictions.logits.sign()).requires_grad_(assigner.needs.grads),
        quality=(-50 * predictions.quality.sign()).requires_grad_(assigner.needs.grads),
        distances=none,
        boxes=decode(scene.grid.points, none),
    )
    answer = run(assigner, scene, maps=wild)
    expect_sound(answer, scene)
    expect_connected(assigner, answer, wild)


def broken_predictions(factory: Factory, scene: VerifyScene) -> None:
    """A diverging detector: NaN and infinities here and there, then everywhere.

    Samples and negative weights stay sound. A loss that is taken over what is broken must show it instead, or training
    would go on with a broken network; features stay finite, so that the loss over them stays, too.
    """
    assigner = factory(scene)
    rng = np.random.default_rng((scene.seed, 11))

    def here_and_there(value: Tensor) -> Tensor:
        poison = torch.from_numpy(rng.choice(np.array([*POISONS, 0.0, 0.0, 0.0], np.float32), tuple(value.shape)))
        return torch.where(poison == 0, value, poison)

    def everywhere(poison: float) -> Callable[[Tensor], Tensor]:
        return lambda value: torch.full_like(value, poison)

    for spoil in (here_and_there, *(everywhere(poison) for poison in POISONS)):
        predictions = scene.predictions()
        broken = replace(map_tensors(predictions, spoil), features=predictions.features)
        answer = run(assigner, scene, maps=broken)
        expect_sound(answer, scene, terms=not assigner.needs.grads)
    if assigner.declares.replaces:
        nan = map_tensors(scene.predictions(), lambda t: torch.full_like(t, torch.nan))
        terms = run(assigner, scene, maps=nan).losses.values()
        shown = any(not torch.isfinite(total) for total, _ in terms)
        expect(shown, "all predictions are NaN: expected a loss over them that is not finite, or nobody would notice")


def any_number_of_classes(factory: Factory, scene: VerifyScene) -> None:
    """One class, or a thousand."""
    assigner = factory(scene)
    answer, maps = run_with_maps(assigner, scene)
    expect_sound(answer, scene)
    expect_connected(assigner, answer, maps)


def any_pyramid(factory: Factory, scene: VerifyScene) -> None:
    """Other strides and uneven maps than the usual five."""
    assigner = factory(scene)
    answer, maps = run_with_maps(assigner, scene)
    expect_sound(answer, scene)
    expect_positives(assigner, answer, maps, scene.targets().num_boxes)
