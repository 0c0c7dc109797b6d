"""From a protocol to a detector with its assigner, and to an optimiser."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from math import cos, pi
from typing import Any

import torch
from torch import nn

import assigners
from assigners.contract import Assigner
from assigners.registry import AssignerSpec
from detector import FCOS, InferenceSettings, LossSettings
from detector.backbone import BackboneError
from harness.core.errors import UserError
from harness.protocol.protocol import Protocol, ScheduleSection, canonical_hash
from harness.protocol.weights import read_weights

_OF_INFERENCE = {"score_threshold", "candidates_per_level", "nms_iou", "detections"}


def build_detector(protocol: Protocol, num_classes: int, seed: int, *, to_train: bool = True) -> FCOS:
    """The shared detector; the same seed gives every assigner the same initial weights.

    Args:
        to_train: with the weights to start from, where the protocol has some; a run's own weights need none below.

    Raises:
        UserError: for a backbone that cannot be built, or weights that are not at hand.
    """
    model, evaluation = protocol.model, protocol.evaluation
    weights = None
    if to_train and model.weights_sha256:
        if not model.weights:
            raise UserError(
                f"protocol {protocol.name} starts from weights of SHA-256 {model.weights_sha256}; name the file of "
                "them with --set model.weights=FILE"
            )
        weights = read_weights(model.weights, model.weights_sha256)
    with _seeded(seed, "detector"):
        try:
            return FCOS(
                num_classes,
                **model.model_dump(exclude={"pretrained", "weights_sha256", "quality"}),
                pretrained=model.pretrained and to_train,
                weights=weights,
                loss=LossSettings(quality=model.quality, **protocol.loss.model_dump()),
                inference=InferenceSettings(**evaluation.model_dump(include=_OF_INFERENCE)),
            )
        except BackboneError as error:
            of_file = f", file {model.weights}" if weights is not None else ""
            raise UserError(f"protocol {protocol.name}{of_file}: {error}") from error


def attach_assigner(detector: FCOS, name: str, options: dict[str, Any], seed: int) -> Assigner:
    """Build the assigner for this detector, in its own stream of randomness, and give it the detector to train.

    Raises:
        ValueError: if what it declares does not fit together.
    """
    with _seeded(seed, f"assigner:{name}"):
        assigner = assigners.create(name, detector.head_info, **options)
    detector.attach(assigner)
    return assigner


def share_statistics(detector: FCOS, processes: int, device: torch.device) -> str:
    """Where batch norms train, let processes normalise by the whole batch, as one does.

    Returns:
        A warning where they cannot, or nothing: torch synchronises batch norms on GPUs alone.
    """
    backbone = detector.backbone
    if processes == 1 or not backbone.trains_statistics:
        return ""
    if device.type == "cpu":
        return (
            "batch norms see each process's share of a batch alone, as torch synchronises them on GPUs only; "
            "this is not the training of one process; set model.frozen_bn=true, or train in one"
        )
    backbone.synchronise_statistics()
    return ""


def resolve_assigner(name: str, options: Mapping[str, object]) -> AssignerSpec:
    """An assigner with all its options, text as typed or values.

    Raises:
        UserError: for an unknown name or option, or a value that does not fit.
    """
    try:
        resolved = assigners.resolve_options(name, options)
        assigners.create(name, assigners.HeadInfo(num_classes=1, channels=1), **resolved)  # checks ranges too
    except (assigners.RegistryError, ValueError) as error:
        raise UserError(str(error)) from error
    defaults = assigners.resolve_options(name, {})
    if resolved.keys() > defaults.keys():  # a sampler beside the rule: its numbers have defaults of their own
        defaults = assigners.resolve_options(name, {"negatives": resolved["negatives"]})
        del defaults["negatives"]
    changed = {key: value for key, value in resolved.items() if key not in defaults or value != defaults[key]}
    return AssignerSpec(name, resolved, changed)


def build_optimizer(schedule: ScheduleSection, model: nn.Module) -> torch.optim.Optimizer:
    """SGD or AdamW over everything that trains, the assigner's parameters included; no decay on norms and biases.

    The fused kernels take a device-side flag that skips a step, so a non-finite loss needs no synchronisation.
    """
    parameters = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": schedule.weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    if schedule.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=schedule.lr, momentum=schedule.momentum, fused=True)
    return torch.optim.AdamW(groups, lr=schedule.lr, fused=True)


def learning_rate(schedule: ScheduleSection, step: int) -> float:
    """The rate of a step: linear warm-up, then step or cosine decay. A pure function, so there is nothing to save."""
    rate = schedule.lr
    if step < schedule.warmup_steps:
        rate *= schedule.warmup_factor + (1 - schedule.warmup_factor) * step / schedule.warmup_steps
    progress = step / schedule.steps
    if schedule.decay == "cosine":
        return rate * 0.5 * (1 + cos(pi * progress))
    return rate * 0.1 ** sum(progress >= at for at in schedule.decay_at)


def ema_decay(schedule: ScheduleSection, updates: int) -> float:
    """The decay of the average after so many updates: with the ramp (1 + t) / (10 + t), until that exceeds `ema`.

    Without it, a run of few steps is averaged with what the network was at the beginning. A pure function, as above.
    """
    return min(schedule.ema, (1 + updates) / (10 + updates)) if schedule.ema_ramp else schedule.ema


def derived_seed(*parts: object) -> int:
    """A seed for one purpose, from the run's seed and the purpose's name."""
    return int(canonical_hash([str(part) for part in parts], 15), 16)


@contextmanager
def _seeded(seed: int, purpose: str) -> Iterator[None]:
    """Run a block in a stream of randomness of its own, leaving the global one as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derived_seed(seed, purpose))
        yield
