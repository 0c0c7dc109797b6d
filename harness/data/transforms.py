"""From a decoded image and its objects to a training or evaluation sample at the protocol's size."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as tvf

from assigners.ops.boxes import MIN_SIDE
from harness.data.base import Annotations
from harness.data.hashing import hash32
from harness.protocol.protocol import DataSection

MEAN_COLOUR = (124, 116, 104)  # ImageNet's mean in 8 bits: what padding shows, `detector.images.FILL`

# Purposes that split one sample's key into unrelated draws.
_SIZE, _AUGMENT = 1, 2


@dataclass(frozen=True)
class Sample:
    """One image ready for a batch.

    Attributes:
        image: ``[3, h, w]`` uint8.
        boxes: ``[n, 4]`` float32 xyxy pixels of `image`; labels: ``[n]`` int64.
        ignore: ``[m, 4]`` float32 regions without negatives.
        scale: (resized width / original width, resized height / original height).
    """

    image: Tensor
    boxes: Tensor
    labels: Tensor
    ignore: Tensor
    scale: tuple[float, float]


@dataclass(frozen=True)
class Sizes:
    """Heights and widths ``(h, w)``: what the image is resized to, and what it is cropped or padded to after that."""

    resized: tuple[int, int]
    final: tuple[int, int]


def plan_sizes(size: tuple[int, int], data: DataSection, key: int | None) -> Sizes:
    """The sizes of a sample, known without decoding it: a process can tell the shape of a batch it holds a part of.

    Args:
        size: original ``(height, width)``.
        key: the sample's 32-bit key; ``None`` for evaluation, which has no jitter.
    """
    plain = fit(size, data.short_edge, data.long_edge)
    low, high = data.scale_jitter
    if key is None or low == high == 1.0:
        return Sizes(plain, plain)
    factor = low + (high - low) * hash32(key, _SIZE) / 2.0**32
    edges = [max(round(edge * factor), 1) for edge in (data.short_edge, data.long_edge)]
    jittered = fit(size, edges[0], edges[1])
    return Sizes(jittered, plain if data.crop else jittered)


def fit(size: tuple[int, int], short_edge: int, long_edge: int) -> tuple[int, int]:
    """``(height, width)`` scaled so that the shorter edge is `short_edge`, or the longer one `long_edge` if smaller.

    Integer arithmetic, halves rounded up, so that no platform rounds another way.
    """
    short, long = min(size), max(size)
    target, edge = (short_edge, short) if short_edge * long <= long_edge * short else (long_edge, long)
    height, width = (max((2 * side * target + edge) // (2 * edge), 1) for side in size)
    return height, width


def make_sample(image: npt.NDArray[np.uint8], objects: Annotations, data: DataSection, key: int | None) -> Sample:
    """Resize and, with a key, augment; boxes follow, are clamped to the image and dropped below `MIN_SIDE`.

    Args:
        image: ``[H, W, 3]`` uint8 RGB.
        objects: in pixels of `image`.
        key: everything random is a pure function of it; ``None`` for evaluation.
    """
    height, width = image.shape[:2]
    sizes = plan_sizes((height, width), data, key)
    picture = tv_tensors.Image(torch.from_numpy(image).permute(2, 0, 1))
    boxes = tv_tensors.BoundingBoxes(
        torch.from_numpy(objects.boxes), format=tv_tensors.BoundingBoxFormat.XYXY, canvas_size=(height, width)
    )
    picture = tvf.resize(picture, list(sizes.resized), antialias=True)
    boxes = tvf.resize(boxes, list(sizes.resized))
    if key is not None:
        with torch.random.fork_rng(devices=[]):
            # The generator of the CPU alone: torch.manual_seed would reseed the GPU's as well.
            torch.default_generator.manual_seed(hash32(key, _AUGMENT))
            picture, boxes = _augment(picture, boxes, data, sizes)
    plain = tvf.clamp_bounding_boxes(boxes).as_subclass(Tensor)
    # One mask for boxes, labels and roles, so that rows stay aligned.
    keep = (plain[:, 2:] - plain[:, :2] >= MIN_SIDE).all(dim=1)
    learnt, regions = (torch.from_numpy(mask) for mask in roles(objects, data))
    return Sample(
        image=picture.as_subclass(Tensor),
        boxes=plain[keep & learnt],
        labels=torch.from_numpy(objects.labels)[keep & learnt],
        ignore=plain[keep & regions],
        scale=(sizes.resized[1] / width, sizes.resized[0] / height),
    )


def roles(objects: Annotations, data: DataSection) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
    """Which objects are learnt and which are regions without negatives, masks ``[n]``; the others are not there."""
    apart = objects.crowd if data.difficult == "train" else objects.crowd | objects.difficult
    regions = np.zeros_like(apart)
    if data.crowd == "ignore":
        regions |= objects.crowd
    if data.difficult == "ignore":
        regions |= objects.difficult & ~objects.crowd
    return ~apart, regions


def _augment(
    picture: tv_tensors.Image, boxes: tv_tensors.BoundingBoxes, data: DataSection, sizes: Sizes
) -> tuple[tv_tensors.Image, tv_tensors.BoundingBoxes]:
    if sizes.final != sizes.resized:
        picture, boxes = _crop_or_pad(picture, boxes, sizes)
    steps: list[v2.Transform] = []
    if data.horizontal_flip > 0:
        steps.append(v2.RandomHorizontalFlip(data.horizontal_flip))
    if data.vertical_flip > 0:
        steps.append(v2.RandomVerticalFlip(data.vertical_flip))
    if data.color_jitter > 0:
        strength = data.color_jitter
        steps.append(v2.ColorJitter(brightness=strength, contrast=strength, saturation=strength))
    for step in steps:
        picture, boxes = step(picture, boxes)
    return picture, boxes


def _crop_or_pad(
    picture: tv_tensors.Image, boxes: tv_tensors.BoundingBoxes, sizes: Sizes
) -> tuple[tv_tensors.Image, tv_tensors.BoundingBoxes]:
    """Cut a random window of the final size, or put the image at a random place of it, each axis for itself."""
    (height, width), (final_height, final_width) = sizes.resized, sizes.final
    extra_y, extra_x = max(final_height - height, 0), max(final_width - width, 0)
    if extra_y or extra_x:
        left, top = _random_up_to(extra_x), _random_up_to(extra_y)
        padding = [left, top, extra_x - left, extra_y - top]
        picture, boxes = tvf.pad(picture, padding, fill=list(MEAN_COLOUR)), tvf.pad(boxes, padding)
    top, left = _random_up_to(max(height - final_height, 0)), _random_up_to(max(width - final_width, 0))
    window = (top, left, final_height, final_width)
    return tvf.crop(picture, *window), tvf.crop(boxes, *window)


def _random_up_to(high: int) -> int:
    return int(torch.randint(high + 1, ()).item())
