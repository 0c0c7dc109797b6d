"""torchvision's FCOS, trained by an assigner of the zoo in place of its own matching.

    model = torchvision.models.detection.fcos_resnet50_fpn(num_classes=3)
    use_assigner(model, "atss", topk=9)
    losses = model(images, targets)              # as before

Losses, head, inference and weights stay torchvision's. Its loss knows positives and negatives alone, so the assigner
has to be a hard one on the grid (``center``, ``atss``, ``paa``); any other is refused.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import lcm
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn

from assigners.adapters.plain import PlainAssignment, assign
from assigners.contract import Assigner, Declares, HeadInfo
from assigners.registry import create

_PARTS = ("backbone", "anchor_generator", "head", "box_coder", "transform", "center_sampling_radius")
_INSTEAD = "take a hard grid assigner such as center, atss or paa"


def use_assigner(model: nn.Module, name: str, **options: object) -> Assigner:
    """Train a `torchvision.models.detection.FCOS` with an assigner; in place.

    Two more things change. Images are padded to a multiple of the largest stride: otherwise torchvision spaces the
    locations of a level by ``image size // cells``, which on the coarse levels is not the stride. And
    ``center_sampling_radius`` has no meaning any more: ``center`` has its own ``radius``.

    Returns:
        The assigner; it is also ``model.assigner`` and follows the model from device to device.

    Raises:
        TypeError: if the model is not torchvision's FCOS.
        ValueError: if the assigner's answer is more than positives and negatives.
        RegistryError: for an unknown name or option.
    """
    missing = [part for part in _PARTS if not hasattr(model, part)]
    if missing or not hasattr(model.head, "compute_loss"):
        raise TypeError(f"use_assigner takes torchvision's FCOS, got {type(model).__name__} without {missing[:1]}")
    host: Any = model
    strides = _strides(host)
    head = HeadInfo(host.head.classification_head.num_classes, host.backbone.out_channels, strides)
    assigner = create(name, head, **options)
    _refuse_more_than_positives(name, assigner, head)
    host.assigner = assigner
    host.transform.size_divisible = lcm(host.transform.size_divisible, *strides)
    host.compute_loss = MethodType(_compute_loss, model)
    return assigner


def _compute_loss(
    model: Any,
    targets: Sequence[dict[str, Tensor]],
    outputs: dict[str, Tensor],
    anchors: Sequence[Tensor],
    cells: Sequence[int],
) -> dict[str, Tensor]:
    """In place of `FCOS.compute_loss`: the same arguments, another matching."""
    centers = (anchors[0][:, :2] + anchors[0][:, 2:]) / 2  # of every image: a batch has one padded size
    answer = assign(
        model.assigner,
        centers.split(list(cells)),
        _strides(model),
        [target["boxes"] for target in targets],
        [target["labels"] for target in targets],
        logits=outputs["cls_logits"],
        predicted_boxes=model.box_coder.decode(outputs["bbox_regression"], torch.stack(list(anchors))),
        quality=outputs["bbox_ctrness"].squeeze(-1),
    )
    losses: dict[str, Tensor] = model.head.compute_loss(targets, outputs, anchors, list(_hard(answer)))
    return losses


def _strides(model: Any) -> tuple[int, ...]:
    """torchvision states a level's stride as the side of its one anchor."""
    return tuple(int(sizes[0]) for sizes in model.anchor_generator.sizes)


def _hard(answer: PlainAssignment) -> Tensor:
    """Index ``[B, R]`` of each location's box, -1 for background: torchvision's ``matched_idxs``.

    Raises:
        ValueError: if that would lose a part of the answer.
    """
    rows = answer.label, answer.class_weight, answer.box_weight, answer.quality_weight, answer.negative_weight
    if answer.losses or not answer.on_grid or any(bool((row != 1).any()) for row in rows):
        raise ValueError(
            f"{answer.name} answers with float locations, weights, soft labels or losses of its own, which "
            f"torchvision's loss cannot express; {_INSTEAD}"
        )
    return answer.dense().assigned


def _refuse_more_than_positives(name: str, assigner: Assigner, head: HeadInfo) -> None:
    """Find out now, on a box of 32 px, and not in the first step of training."""
    needs = assigner.needs
    if next(assigner.parameters(), None) is not None or needs.grads or needs.features:
        raise ValueError(f"{name} needs gradients, features or parameters of its own in training; {_INSTEAD}")
    if assigner.declares != Declares():
        raise ValueError(f"{name} declares other losses or another inference, which torchvision has not; {_INSTEAD}")
    points = torch.cartesian_prod(torch.arange(8.0), torch.arange(8.0)).flip(1)
    levels = [points * stride for stride in head.strides]
    locations = sum(map(len, levels))
    box = torch.tensor([[7.0, 9.0, 39.0, 41.0]])
    _hard(
        assign(
            assigner, levels, head.strides, [box], [torch.zeros(1, dtype=torch.long)],
            logits=torch.zeros(1, locations, head.num_classes), predicted_boxes=box.expand(1, locations, 4),
            quality=torch.zeros(1, locations),
        )
    )  # fmt: skip
