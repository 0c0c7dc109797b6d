"""Box geometry in the zoo's one convention: xyxy, continuous pixels, no +1; an empty union has IoU 0."""

from __future__ import annotations

import torch
from torch import Tensor

MIN_SIDE = 1.0  # px; a box clipped to less than this is no target


def ltrb(points: Tensor, boxes: Tensor) -> Tensor:
    """Distances left, top, right, bottom from points ``[..., 2]`` to the sides of boxes ``[..., 4]``."""
    return torch.cat((points - boxes[..., :2], boxes[..., 2:] - points), dim=-1)


def decode(points: Tensor, distances: Tensor) -> Tensor:
    """The box around each point: the inverse of `ltrb`."""
    return torch.cat((points - distances[..., :2], points + distances[..., 2:]), dim=-1)


def aligned_iou(a: Tensor, b: Tensor, eps: float = 1e-9) -> Tensor:
    """IoU of boxes ``[..., 4]`` taken in pairs (broadcast), 0 where the union is empty."""
    low = torch.maximum(a[..., :2], b[..., :2])
    high = torch.minimum(a[..., 2:], b[..., 2:])
    intersection = (high - low).clamp(min=0).prod(dim=-1)
    area_a = (a[..., 2:] - a[..., :2]).clamp(min=0).prod(dim=-1)
    area_b = (b[..., 2:] - b[..., :2]).clamp(min=0).prod(dim=-1)
    return intersection / (area_a + area_b - intersection).clamp(min=eps)


def giou_loss(a: Tensor, b: Tensor, eps: float = 1e-7) -> Tensor:
    """``1 - GIoU`` of boxes ``[..., 4]`` taken in pairs (Rezatofighi et al., CVPR 2019): ``[...]`` in [0, 2].

    The value and gradient of torchvision's `generalized_box_iou_loss`, which indexes by a mask and so makes the host
    wait for the device in every training step.
    """
    low, high = torch.maximum(a[..., :2], b[..., :2]), torch.minimum(a[..., 2:], b[..., 2:])
    overlap = (high > low).all(dim=-1)
    intersection = torch.where(overlap, _area(low, high), 0)
    union = _area(a[..., :2], a[..., 2:]) + _area(b[..., :2], b[..., 2:]) - intersection
    hull = _area(torch.minimum(a[..., :2], b[..., :2]), torch.maximum(a[..., 2:], b[..., 2:]))
    return 1 - (intersection / (union + eps) - (hull - union) / (hull + eps))


def _area(low: Tensor, high: Tensor) -> Tensor:
    width, height = (high - low).unbind(-1)
    return width * height


def square_anchors(points: Tensor, stride: Tensor, scale: float = 8.0) -> Tensor:
    """One square of side ``scale * stride`` per point: the private prior of anchor-based rules (spec 0.2)."""
    half = (stride * (scale / 2)).unsqueeze(-1)
    return torch.cat((points - half, points + half), dim=-1)


def clip(boxes: Tensor, height: float, width: float) -> Tensor:
    """Boxes ``[n, 4]`` cut to an image of `height` x `width` pixels."""
    limit = boxes.new_tensor([width, height, width, height])
    return torch.minimum(boxes.clamp(min=0), limit)


def within_image(boxes: Tensor, height: float, width: float) -> tuple[Tensor, Tensor]:
    """Boxes ``[n, 4]`` cut to their image, and which ``[n]`` of them keep `MIN_SIDE` along both sides."""
    clipped = clip(boxes, height, width)
    return clipped, ((clipped[:, 2:] - clipped[:, :2]) >= MIN_SIDE).all(dim=1)
