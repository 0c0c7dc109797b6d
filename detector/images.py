"""Images of different sizes as one batch: padded right and below, normalised on the device."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

DIVISOR = 32  # the stride of C5
MEAN = (0.485, 0.456, 0.406)  # ImageNet, RGB in [0, 1]
STD = (0.229, 0.224, 0.225)
FILL = (124, 116, 104)  # MEAN in 8 bits, whatever the network subtracts: padding is close to 0 after normalisation


@dataclass(frozen=True)
class ImageBatch:
    """A padded batch.

    Attributes:
        pixels: ``[B, 3, H, W]`` uint8, H and W multiples of 32.
        sizes: ``(height, width)`` of each image before padding.
    """

    pixels: Tensor
    sizes: tuple[tuple[int, int], ...]


def pad_images(images: Sequence[Tensor]) -> ImageBatch:
    """Batch images ``[3, h, w]`` (uint8, or float in [0, 1]) at their common size, rounded up to `DIVISOR`.

    Raises:
        ValueError: for no image, or one of another shape or type.
    """
    if not images:
        raise ValueError("a batch needs at least one image")
    for index, image in enumerate(images):
        if image.ndim != 3 or image.shape[0] != 3 or image.numel() == 0:
            raise ValueError(f"image {index} has shape {tuple(image.shape)}; expected [3, height, width]")
    height = -(-max(i.shape[1] for i in images) // DIVISOR) * DIVISOR
    width = -(-max(i.shape[2] for i in images) // DIVISOR) * DIVISOR
    fill = torch.tensor(FILL, dtype=torch.uint8, device=images[0].device).view(1, 3, 1, 1)
    pixels = fill.repeat(len(images), 1, height, width)
    for slot, image in zip(pixels, images, strict=True):
        if image.is_floating_point():
            image = (image.clamp(0, 1) * 255).round().to(torch.uint8)
        slot[:, : image.shape[1], : image.shape[2]] = image
    return ImageBatch(pixels, tuple((i.shape[1], i.shape[2]) for i in images))


def normalise(pixels: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """uint8 ``[B, 3, H, W]`` -> float32; mean and standard deviation ``[3, 1, 1]`` of RGB in [0, 1]."""
    return (pixels.float() / 255 - mean) / std
