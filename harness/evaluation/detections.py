"""Detections of an image set: one dict per image, in the set's order and in pixels of the original image.

``boxes`` ``[n, 4]`` xyxy, ``scores`` ``[n]``, ``labels`` ``[n]``. Pixels have no +1 anywhere.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from harness.data.base import ImageSet

Detections = Mapping[str, NDArray[Any]]


def check(images: ImageSet, detections: Sequence[Detections]) -> None:
    """Whether there is one dict per image with arrays that fit together and finite numbers.

    Raises:
        ValueError: if not.
    """
    if len(detections) != len(images):
        raise ValueError(f"{len(detections)} detections for {len(images)} images; give one dict per image, in order")
    for index, result in enumerate(detections):
        count = len(result["scores"])
        if result["boxes"].shape != (count, 4) or result["labels"].shape != (count,):
            shapes = {name: value.shape for name, value in result.items()}
            raise ValueError(f"image {index}: boxes must be [n, 4] with n scores and n labels, got {shapes}")
        if not (np.isfinite(result["boxes"]).all() and np.isfinite(result["scores"]).all()):
            raise ValueError(f"image {index}: detections hold NaN or infinity")
