"""An assigner's share of a training step: what the step takes longer than with an assignment that lies ready."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn

from assigners.contract import Assigner, Assignment, Declares, Predictions, Step, Targets
from assigners.grid import Grid
from assigners.ops.records import map_tensors
from assigners.registry import AssignerSpec, create
from detector import FCOS, ImageBatch
from harness.bench.batches import size_text
from harness.bench.measure import alternate
from harness.bench.scene import STEP, make_scene
from harness.protocol.protocol import Protocol, ScheduleSection
from harness.training.build import attach_assigner, build_detector, build_optimizer
from harness.training.step import descend, precision

LEAST = 3  # steps of each kind
STAND_IN = "center"  # whose assignment lies ready where the assigner replaces the losses that one would feed


class FixedAssigner(Assigner):
    """Gives the same assignment every time."""

    def __init__(self, answer: Assignment, declares: Declares) -> None:
        super().__init__()
        self.answer, self.declares = answer, declares

    def forward(self, grid: Grid, targets: Targets, predictions: Predictions | None, step: Step) -> Assignment:
        """Answer what was answered before."""
        return self.answer


@dataclass(frozen=True)
class Share:
    """An assigner's share of a step.

    Attributes:
        backbone, precision: of the network.
        images, boxes, classes, size: of the batch, as in `harness.bench.batches.Measurement`.
        step_ms: median time of a step: forward, losses, backward and optimiser.
        ready_ms: the same with an assignment that lies ready.
        share: (step - ready) / step; noise can bring it below 0.
        stand_in: whose assignment lies ready: the assigner's own, or that of a rule which feeds the shared losses.
        calls: steps with the assigner that the medians are over.
    """

    assigner: str
    backbone: str
    precision: str
    images: int
    boxes: int
    classes: int
    size: str
    step_ms: float
    ready_ms: float
    share: float
    stand_in: str
    calls: int


@dataclass(frozen=True)
class StepRequest:
    """What is to be timed.

    Attributes:
        subject: the assigner.
        protocol: detector, optimiser and precision.
        images, boxes, classes: of the batch; boxes in each image.
        size: height and width of the images in pixels.
        seconds: of the turns.
    """

    subject: AssignerSpec
    protocol: Protocol
    images: int
    boxes: int
    classes: int
    size: tuple[int, int]
    seconds: float


def measure_share(request: StepRequest, device: torch.device) -> Share:
    """Time training steps of one detector with the assigner and with its assignment lying ready, in turns."""
    training = Training(request, device)
    assigner = training.assigner
    source, stand_in = assigner, request.subject.name
    if assigner.declares.replaces:
        source, stand_in = create(STAND_IN, training.model.head_info).to(device), STAND_IN
    with_assigner, with_ready = partial(training.step, assigner), partial(training.step, training.ready(source))
    with_assigner()
    with_ready()
    steps = alternate(with_assigner, with_ready, request.seconds, device, least=LEAST)
    whole, rest = (float(np.median(milliseconds)) for milliseconds in steps)
    protocol = request.protocol
    return Share(
        request.subject.name, protocol.model.backbone, protocol.schedule.precision, request.images, request.boxes,
        request.classes, size_text(request.size), whole, rest, (whole - rest) / whole, stand_in, len(steps[0]),
    )  # fmt: skip


class BenchDetector:
    """A detector that is trained, with an optimiser that moves nothing: every step is like the first."""

    def __init__(self, model: nn.Module, schedule: ScheduleSection, device: torch.device) -> None:
        self.model = model.to(device).to(memory_format=torch.channels_last).train()
        self.schedule, self.device = schedule, device
        self.optimizer = build_optimizer(schedule, model)
        for group in self.optimizer.param_groups:
            group["lr"] = 0.0

    def train(self, *batch: object) -> None:
        """Train once, as `harness.training.trainer` does."""
        with precision(self.schedule, self.device):
            losses = self.model(*batch)
        descend(losses, self.model, self.optimizer, self.schedule)

    @torch.inference_mode()
    def detections(self, images: object) -> object:
        """Of images, after which training may go on."""
        self.model.eval()
        with precision(self.schedule, self.device):
            found: object = self.model(images)
        self.model.train()
        return found


class Training(BenchDetector):
    """Our detector and one batch."""

    model: FCOS

    def __init__(self, request: StepRequest, device: torch.device) -> None:
        model = build_detector(request.protocol, request.classes, seed=0, to_train=False)
        self.assigner = attach_assigner(model, request.subject.assigner, request.subject.options, seed=0)
        super().__init__(model, request.protocol.schedule, device)
        scene = make_scene(request.images, request.boxes, request.classes, size=request.size, channels=1)
        self.targets = scene.targets.to(device)
        pixels = torch.rand(request.images, 3, *request.size, generator=torch.Generator().manual_seed(0))
        self.batch = ImageBatch(pixels.to(device, memory_format=torch.channels_last), (request.size,) * request.images)

    def step(self, assigner: Assigner) -> None:
        """Train once with an assigner."""
        self.model.attach(assigner)
        self.train(self.batch, self.targets, STEP)

    def detect(self) -> object:
        """Detections of the batch."""
        return self.detections(self.batch)

    def ready(self, assigner: Assigner) -> FixedAssigner:
        """What an assigner says of the batch, without losses of its own."""
        self.model.attach(assigner)
        with precision(self.schedule, self.device):
            grid, predictions = self.model.maps(self.batch)
        with torch.autocast(self.device.type, enabled=False):
            answer = assigner(grid, self.targets, self.model.visible(predictions), STEP)
        plain = Assignment(map_tensors(answer.samples, Tensor.detach), answer.negative_weight.detach())
        return FixedAssigner(plain, assigner.declares)
