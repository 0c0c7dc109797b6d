"""Multi-scale testing: an image at several sizes, mirrored or not; one set of candidates, one NMS.

The views of a batch are made and searched one after another, so memory is bounded by the largest of them. Candidates
return to the original image before they meet. No view is restricted to objects of its own size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, replace

import torch
from torch import Tensor

from detector import FCOS, ImageBatch
from detector.postprocess import Candidates, clipped, suppress
from harness.data.loader import Batch
from harness.protocol.protocol import DataSection, Protocol


def view_sections(protocol: Protocol) -> tuple[DataSection, ...]:
    """A data section per test scale: its short edge, and the long edge in proportion (halves rounded up)."""
    data = protocol.data
    short, long = data.short_edge, data.long_edge
    return tuple(
        data.model_copy(update={"short_edge": edge, "long_edge": (2 * long * edge + short) // (2 * short)})
        for edge in protocol.evaluation.test_scales or (short,)
    )


def search(
    model: FCOS, batch: Batch, pixels: Tensor, originals: Sequence[tuple[int, int]], *, flip: bool
) -> list[Candidates]:
    """The candidates of a batch at one scale, as it is and, with `flip`, mirrored too.

    Args:
        pixels: of `batch`, on the device.
        originals: ``(height, width)`` of each image before resizing.

    Returns:
        one or two sets, in pixels of the original images.
    """
    sizes = tuple(batch.sizes)
    candidates = [_to_original(model.candidates(ImageBatch(pixels, sizes)), batch.scales, originals)]
    if flip:
        mirror_image = _mirrored(model.candidates(ImageBatch(mirrored(pixels, sizes), sizes)), sizes)
        candidates.append(_to_original(mirror_image, batch.scales, originals))
    return candidates


def merge(model: FCOS, parts: Sequence[Candidates], images: int, nms_iou: float) -> list[dict[str, Tensor]]:
    """Detections from all candidates of a batch of `images` images, as `suppress` gives them.

    Args:
        nms_iou: for a network that is evaluated without NMS: it answers once per object in each view, and so once
            per view; only NMS can make that one answer.
    """
    settings = model.inference if model.inference.nms_iou is not None else replace(model.inference, nms_iou=nms_iou)
    together = Candidates(
        **{field.name: torch.cat([getattr(part, field.name) for part in parts]) for field in fields(Candidates)}
    )
    return suppress(settings, together, num_images=images, num_classes=model.head_info.num_classes)


def mirrored(pixels: Tensor, sizes: Sequence[tuple[int, int]]) -> Tensor:
    """Images ``[B, 3, H, W]``, each mirrored within its own width: the padding stays at the right."""
    out = pixels.clone()
    for row, image, (_, width) in zip(out, pixels, sizes, strict=True):
        row[..., :width] = image[..., :width].flip(-1)
    return out


def _mirrored(candidates: Candidates, sizes: Sequence[tuple[int, int]]) -> Candidates:
    """Candidates of mirrored images, where they lie in the images themselves."""
    width = candidates.box.new_tensor([width for _, width in sizes])[candidates.image]
    left, top, right, bottom = candidates.box.unbind(dim=1)
    return replace(candidates, box=torch.stack((width - right, top, width - left, bottom), dim=1))


def _to_original(
    candidates: Candidates, scales: Sequence[tuple[float, float]], originals: Sequence[tuple[int, int]]
) -> Candidates:
    factor = candidates.box.new_tensor([(x, y, x, y) for x, y in scales])
    return clipped(replace(candidates, box=candidates.box / factor[candidates.image]), originals)
