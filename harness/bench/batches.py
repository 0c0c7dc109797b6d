"""Which batches assigners are timed on, and what one assigner costs on one of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import Any

import torch
from torch import Tensor

from assigners.contract import Assigner, Predictions
from assigners.ops.records import map_tensors
from assigners.registry import AssignerSpec, create
from harness.bench.measure import Call, in_turns, peak_bytes
from harness.bench.scene import STEP, BenchScene, make_scene
from harness.core.device import out_of_memory

BOXES, IMAGES, CLASSES = (7, 30, 100, 500, 5000), (1, 2, 4, 8, 16), (1, 20, 80, 365)
USUAL_IMAGES, USUAL_BOXES, USUAL_CLASSES = 2, 30, 80
CROWD = 5000  # so many boxes come in one image alone
MIB = 2**20


@dataclass(frozen=True, order=True)
class Cell:
    """A kind of batch: so many boxes in each image."""

    boxes: int
    images: int
    classes: int


def choose_cells(
    boxes: Sequence[int] | None, images: Sequence[int] | None, classes: Sequence[int] | None
) -> list[Cell]:
    """One axis at a time; or, where any is given, all combinations of those that are.

    A batch has 2 images of 30 boxes and a detector of 80 classes unless its axis says otherwise.
    """
    usual = (USUAL_BOXES,), (USUAL_IMAGES,), (USUAL_CLASSES,)
    if boxes or images or classes:
        grids = [(boxes or usual[0], images or usual[1], classes or usual[2])]
    else:
        grids = [(BOXES, *usual[1:]), (usual[0], IMAGES, usual[2]), (*usual[:2], CLASSES)]
    return sorted({Cell(b, 1 if b >= CROWD else i, c) for grid in grids for b, i, c in product(*grid)})


@dataclass(frozen=True)
class Measurement:
    """What an assigner costs on one kind of batch.

    Attributes:
        size: of the images, height x width in pixels.
        passes: what a call is: ``forward``, or with ``backward`` where the assigner has losses of its own.
        ms, mib: median time and peak memory of a call; None where it ran out of memory.
        dense_ms, dense_mib: of the dense version; where it was not run, what it would take at most, or None.
        ratio: how many times faster than it.
        calls, dense_calls: over how many the medians are.
        note: why something is missing.
    """

    assigner: str
    images: int
    boxes: int
    classes: int
    size: str
    passes: str
    ms: float | None
    dense_ms: float | None
    ratio: float | None
    mib: float | None
    dense_mib: float | None
    calls: int
    dense_calls: int
    note: str


@dataclass(frozen=True)
class Limits:
    """What a measurement may take.

    Attributes:
        seconds: of a cell's turns.
        dense_mib: memory of a dense version; a larger one is not run.
        dense_seconds: time of one call of a dense version; one that would take longer is not run.
    """

    seconds: float = 1.0
    dense_mib: float = 6144.0
    dense_seconds: float = 120.0


@dataclass
class Bench:
    """Times assigners cell by cell.

    Attributes:
        rules: dense versions by registered name.
        device: where all of it runs.
        limits: of each measurement.
        size: height and width of the images in pixels.
        rates: seconds per unit of work of the dense versions, as last seen.
    """

    rules: Mapping[str, Any]
    device: torch.device
    limits: Limits
    size: tuple[int, int]
    rates: dict[str, float] = field(default_factory=dict)

    def scene(self, cell: Cell) -> BenchScene:
        """The batch of a cell, the same for every assigner."""
        return make_scene(cell.images, cell.boxes, cell.classes, size=self.size, device=self.device)

    def row(self, cell: Cell, scene: BenchScene, subject: AssignerSpec) -> Measurement:
        """What one assigner costs on it."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            assigner = create(subject.assigner, scene.head, **subject.options).to(self.device)
        ours, passes = assigner_call(assigner, scene)
        place = (subject.name, cell.images, cell.boxes, cell.classes, size_text(self.size), passes)
        try:
            mib = peak_bytes(ours, self.device) / MIB
        except RuntimeError as error:
            if not out_of_memory(error):
                raise
            return Measurement(*place, None, None, None, None, None, 0, 0, "out of memory")
        rule = self.rules.get(subject.assigner)
        theirs, dense_mib, note = self._dense(cell, scene, rule, assigner, subject)
        mine, dense = in_turns(ours, theirs, self.limits.seconds, self.device)
        if dense is None:
            return Measurement(*place, mine.ms, None, None, mib, dense_mib, mine.calls, 0, note)
        self.rates[subject.name] = dense.ms / 1000 / _work(cell, rule)
        ratio = dense.ms / mine.ms
        return Measurement(*place, mine.ms, dense.ms, ratio, mib, dense_mib, mine.calls, dense.calls, note)

    def _dense(
        self, cell: Cell, scene: BenchScene, rule: Any, assigner: Assigner, subject: AssignerSpec
    ) -> tuple[Call | None, float | None, str]:
        """The dense version's call, its peak memory in MiB, and why it is not to be run."""
        if rule is None:
            return None, None, "no dense version"
        expected = rule.peak_bytes(cell.boxes, scene.grid.num_locations, cell.classes) / MIB
        if expected > self.limits.dense_mib:
            return None, expected, f"dense: out of memory ({expected:.0f} MiB)"
        seconds = self.rates.get(subject.name, 0.0) * _work(cell, rule)
        if seconds > self.limits.dense_seconds:
            return None, None, f"dense: not run (about {seconds:.0f} s)"
        call = dense_call(rule, assigner, scene)
        return call, peak_bytes(call, self.device) / MIB, ""


def size_text(size: tuple[int, int]) -> str:
    """Height and width as options and rows have them."""
    return f"{size[0]}x{size[1]}"


def _work(cell: Cell, rule: Any) -> float:
    """What a dense version's time grows with."""
    return cell.images * cell.boxes * (cell.classes if rule.pair_class else 1)


def assigner_call(assigner: Assigner, scene: BenchScene) -> tuple[Call, str]:
    """A call as in training, and what it consists of: backward too, where the assigner trains itself or the maps."""
    backward = assigner.needs.grads or assigner.needs.features
    predictions, inputs = _inputs(assigner, scene, with_gradient=backward)

    def call() -> object:
        answer = assigner(scene.grid, scene.targets, predictions, STEP)
        if not answer.losses:
            return answer
        total = torch.stack([value for value, _ in answer.losses.values()]).sum()
        return answer, torch.autograd.grad(total, inputs, allow_unused=True)

    return call, "forward+backward" if backward else "forward"


def dense_call(rule: Any, assigner: Assigner, scene: BenchScene) -> Call:
    """A call of the dense version, like that of its assigner."""
    predictions, inputs = _inputs(assigner, scene, with_gradient=rule.losses)

    def call() -> object:
        answers = rule(scene.grid, scene.targets, predictions, assigner)
        return (answers, rule.backward(answers, inputs)) if rule.losses else answers

    return call


def _inputs(assigner: Assigner, scene: BenchScene, *, with_gradient: bool) -> tuple[Predictions, list[Tensor]]:
    """The predictions for a call, as leaves of its own if gradients are asked of them, and all that have gradients."""
    parameters: list[Tensor] = [p for p in assigner.parameters() if p.requires_grad]
    if not with_gradient:
        return scene.predictions, parameters
    leaves = map_tensors(scene.predictions, lambda maps: maps.clone().requires_grad_())
    return leaves, [leaves.logits, leaves.quality, leaves.distances, leaves.boxes, *leaves.features, *parameters]
