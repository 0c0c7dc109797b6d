"""Images brought to a detector as evaluation does it: resized and padded, not augmented."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch

from assigners.contract import Predictions, Targets
from assigners.grid import Grid
from detector import FCOS, pad_images
from harness.data.base import Annotations, ImageSet
from harness.data.transforms import Sample, make_sample
from harness.protocol.protocol import Protocol


@dataclass(frozen=True)
class ForwardPass:
    """One batch of images; G boxes reach the assigner.

    Attributes:
        objects: of each image, in original pixels.
        samples: the images after resizing, and what became of their objects.
        rows: ``[G]`` the object that each box is, counted through all images.
        targets: the G boxes.
        grid, predictions: of the detector for these images.
    """

    objects: tuple[Annotations, ...]
    samples: tuple[Sample, ...]
    rows: npt.NDArray[np.int64]
    targets: Targets
    grid: Grid
    predictions: Predictions


def forward(
    model: FCOS, images: ImageSet, indices: Sequence[int], protocol: Protocol, *, grads: bool = False
) -> ForwardPass:
    """Bring images to a detector in evaluation mode, in one batch; with `grads` predictions keep their gradient."""
    device = next(model.parameters()).device
    objects = tuple(images.annotations(index) for index in indices)
    # Rows instead of class ids on the way through the loader, which drops boxes without saying which.
    numbered = [replace(each, labels=np.arange(len(each), dtype=np.int64)) for each in objects]
    samples = tuple(
        make_sample(images.load(index), rows, protocol.data, None)
        for index, rows in zip(indices, numbered, strict=True)
    )
    batch = pad_images([sample.image.to(device) for sample in samples])
    with torch.set_grad_enabled(grads):
        grid, predictions = model.maps(batch)
    targets = Targets.collate(
        [s.boxes for s in samples], [s.labels for s in samples], grid, sizes=batch.sizes,
        image_ids=[images.image_id(index) for index in indices], ignore=[s.ignore for s in samples],
    )  # fmt: skip
    first = np.cumsum([0, *map(len, objects)])
    rows = first[targets.image.numpy()] + targets.labels.numpy()
    labels = torch.from_numpy(np.concatenate([each.labels for each in objects])[rows])
    return ForwardPass(objects, samples, rows, replace(targets, labels=labels).to(device), grid, predictions)
