"""The whole detector beside torchvision's FCOS: a training step, inference, post-processing.

Both have a ResNet-50, a pyramid of 256 channels and towers of four convolutions with group norm, random weights, all of
which are trained, and the same images and boxes. They are called in turns in one process, so that the ratio of two
neighbouring calls holds on a machine that does other work besides.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode
from torchvision.models.detection.fcos import FCOS, fcos_resnet50_fpn

from assigners.registry import AssignerSpec
from detector.postprocess import postprocess
from harness.bench.batches import size_text
from harness.bench.measure import Call, alternate, now
from harness.bench.scene import STEP, BenchScene, make_scene
from harness.bench.step import BenchDetector, StepRequest, Training
from harness.core.errors import UserError
from harness.protocol.protocol import load_protocol
from harness.training.step import descend, precision

PARTS = ("training step", "inference", "post-processing")
# What torchvision makes without pretrained weights: nothing is frozen. Its threshold is on another score than ours;
# without one both keep the best thousand of every level, which is equal work whatever the weights say.
EQUAL = ("model.pretrained=false", "model.backbone=resnet50", "model.frozen_stages=0", "model.frozen_bn=false",
         "evaluation.score_threshold=0")  # fmt: skip
LEAST = 5  # turns of each part
LOOKED_AT = 3  # steps of a profile
RATED = 10  # products of matrices


@dataclass(frozen=True)
class Batch:
    """What both are given."""

    images: int
    boxes: int  # in each image
    classes: int
    size: tuple[int, int]  # height and width of the images in px
    precision: str  # float32 or bfloat16


@dataclass(frozen=True)
class Beside:
    """One part of the work, ours beside theirs."""

    part: str  # one of `PARTS`
    assigner: str  # of ours; theirs is center sampling
    precision: str
    images: int
    boxes: int
    classes: int
    size: str
    ours_ms: float  # medians
    theirs_ms: float
    times: float  # ours over theirs within a turn, the median: below 1 ours is faster
    low: float  # quartiles of it
    high: float
    floor_ms: float | None  # what ours' convolutions and products take at the device's best rate; None without any
    turns: int


class Duel:
    """Our detector and torchvision's with one batch.

    Args:
        subject: the assigner of ours.

    Raises:
        UserError: for one that evaluates in a way that torchvision's detector does not know.
    """

    def __init__(self, subject: AssignerSpec, batch: Batch, device: torch.device) -> None:
        protocol = load_protocol("paper", (*EQUAL, f"schedule.precision={batch.precision}"))
        self.batch, self.device, self.subject = batch, device, subject
        self.ours = Training(
            StepRequest(subject, protocol, batch.images, batch.boxes, batch.classes, batch.size, 0.0), device
        )
        declares = self.ours.assigner.declares
        if not declares.nms or declares.score_voting:
            how = "averages boxes over their neighbours" if declares.nms else "evaluates without NMS"
            raise UserError(f"{subject.name} {how}, which torchvision's FCOS cannot; name another assigner")
        self.theirs = _Peer(self.ours, batch)
        self.rate = _best_rate(batch.precision, device)
        self.scene = make_scene(batch.images, batch.boxes, batch.classes, size=batch.size, channels=1, device=device)

    def measure(self, seconds: float) -> Iterator[Beside]:
        """Each of `PARTS`, with turns of so many seconds."""
        ours, theirs, batch = self.ours, self.theirs, self.batch
        calls: tuple[tuple[Call, Call], ...] = (
            (self.step, theirs.step), (ours.detect, theirs.detect), (self.suppress, theirs.suppression(self.scene)),
        )  # fmt: skip
        for part, (mine, other) in zip(PARTS, calls, strict=True):
            gflop = _gflop(mine)
            other()
            mine_ms, other_ms = alternate(mine, other, seconds, self.device, least=LEAST)
            low, times, high = map(float, np.quantile(mine_ms / other_ms, (0.25, 0.5, 0.75)))
            yield Beside(
                part, self.subject.name, batch.precision, batch.images, batch.boxes, batch.classes,
                size_text(batch.size), float(np.median(mine_ms)), float(np.median(other_ms)), times, low, high,
                1000 * gflop / self.rate if gflop else None, len(mine_ms),
            )  # fmt: skip

    def step(self) -> None:
        """One training step of ours."""
        self.ours.step(self.ours.assigner)

    def suppress(self) -> list[dict[str, Tensor]]:
        """Our detections of the maps of a scene, which hold something to find."""
        model, scene = self.ours.model, self.scene
        return postprocess(model.inference, scene.grid, scene.predictions, self.ours.batch.sizes)

    def profile(self) -> dict[str, float]:
        """Milliseconds of the parts of our training step, the median of a few steps."""
        model = self.ours.model
        watched = {
            "backbone": model.backbone.body, "pyramid": model.backbone.fpn, "head": model.head,
            "assigner": self.ours.assigner,
        }  # fmt: skip
        steps = [_profile(self.ours, watched) for _ in range(LOOKED_AT)]
        return {part: float(np.median([step[part] for step in steps])) for part in steps[0]}


class _Peer(BenchDetector):
    """torchvision's FCOS with the settings, the batch and the optimiser of ours."""

    model: FCOS

    def __init__(self, ours: Training, batch: Batch) -> None:
        inference = ours.model.inference
        model = fcos_resnet50_fpn(
            weights=None, weights_backbone=None, num_classes=batch.classes, min_size=min(batch.size),
            max_size=max(batch.size), score_thresh=inference.score_threshold, nms_thresh=inference.nms_iou,
            topk_candidates=inference.candidates_per_level, detections_per_img=inference.detections,
        )  # fmt: skip
        super().__init__(model, ours.schedule, ours.device)
        self.pixels, targets = list(ours.batch.pixels), ours.targets
        shares = [targets.image == index for index in range(batch.images)]
        self.targets = [{"boxes": targets.boxes[own], "labels": targets.labels[own]} for own in shares]
        self.sizes = list(ours.batch.sizes)

    def step(self) -> None:
        self.train(self.pixels, self.targets)

    def detect(self) -> object:
        return self.detections(self.pixels)

    def suppression(self, scene: BenchScene) -> Callable[[], list[dict[str, Tensor]]]:
        """A call that finds the detections of a scene's maps, which torchvision takes by level and in cells."""
        grid, maps = scene.grid, scene.predictions
        counts = [height * width for height, width in grid.shapes]
        half = grid.stride[:, None] / 2
        cells = torch.cat((grid.points - half, grid.points + half), dim=1)
        flat = (maps.logits, maps.distances / grid.stride[:, None], maps.quality[..., None])
        outputs = {
            name: list(values.split(counts, dim=1))
            for name, values in zip(("cls_logits", "bbox_regression", "bbox_ctrness"), flat, strict=True)
        }
        anchors = [list(cells.split(counts))] * len(self.sizes)
        return lambda: self.model.postprocess_detections(outputs, anchors, self.sizes)


def _gflop(call: Call) -> float:
    with FlopCounterMode(display=False) as counter:
        call()
    return float(counter.get_total_flops()) / 1e9


def _best_rate(kind: str, device: torch.device) -> float:
    """10^9 operations a second in a product of matrices, the best of a few: what convolutions can hope for."""
    side = 4096 if device.type == "cuda" else 1024
    matrix = torch.rand(side, side, device=device, dtype=getattr(torch, kind))
    call = partial(torch.mm, matrix, matrix)
    call()
    milliseconds, _ = alternate(call, call, 0.0, device, least=RATED)
    return 2e-6 * side**3 / float(milliseconds.min())


def _profile(training: Training, watched: dict[str, nn.Module]) -> dict[str, float]:
    """A step with a clock at the doors of its modules; what of the forward pass lies outside them is the losses."""
    device = training.device
    spent = dict.fromkeys(watched, 0.0)
    opened: dict[str, float] = {}

    def enter(name: str) -> Callable[..., None]:
        return lambda *_: opened.__setitem__(name, now(device))

    def leave(name: str) -> Callable[..., None]:
        return lambda *_: spent.__setitem__(name, spent[name] + now(device) - opened[name])

    handles = [
        handle
        for name, module in watched.items()
        for handle in (module.register_forward_pre_hook(enter(name)), module.register_forward_hook(leave(name)))
    ]
    try:
        start = now(device)
        with precision(training.schedule, device):
            losses = training.model(training.batch, training.targets, STEP)
        middle = now(device)
        descend(losses, training.model, training.optimizer, training.schedule)
        end = now(device)
    finally:
        for handle in handles:
            handle.remove()
    seconds = {**spent, "losses": middle - start - sum(spent.values()), "backward and optimiser": end - middle}
    return {part: 1000 * value for part, value in seconds.items()}
