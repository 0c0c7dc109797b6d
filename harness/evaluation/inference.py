"""Run a trained network over an image set, and judge it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from math import ceil
from time import perf_counter
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console

from detector import FCOS, ImageBatch
from detector.postprocess import Candidates
from harness.core.distributed import Processes
from harness.core.errors import UserError
from harness.core.progress import tracked
from harness.data.base import ImageSet
from harness.data.loader import Batch, eval_batches
from harness.evaluation.coco_metrics import coco_metrics, object_bins
from harness.evaluation.test_time_augmentation import merge, search, view_sections
from harness.protocol.protocol import Protocol

Detections = dict[str, NDArray[Any]]


def detect(
    model: FCOS,
    images: ImageSet,
    protocol: Protocol,
    device: torch.device,
    workers: int,
    group: Processes,
    console: Console | None = None,
) -> tuple[list[Detections], float]:
    """Detections for every image of a set, in its order and in original pixels, on the main process.

    Where the protocol tests at several scales or mirrors, an image's detections come from all its views.

    Args:
        console: where to show the progress of this process.

    Returns:
        detections (empty on other processes) and milliseconds per image, loading excluded.

    Raises:
        UserError: on the main process, if an image cannot be read, whichever process was to read it.
    """
    sections, flip = view_sections(protocol), protocol.evaluation.test_flip
    was_training = model.training
    model.eval()
    detections: dict[int, Detections] = {}
    seconds = 0.0
    precision = torch.autocast(device.type, torch.bfloat16, enabled=protocol.schedule.precision == "bfloat16")
    batches = eval_batches(images, protocol, sections=sections, workers=workers, rank=group.rank, world=group.world)
    views = ceil(len(images) / group.world) * len(sections)
    batches = tracked(batches, lambda batch: len(batch.indices), views, "evaluating", console)
    parts: list[Candidates] = []
    faults: list[UserError] = []
    with _noted(faults), torch.inference_mode(), precision:
        for number, batch in enumerate(batches, start=1):
            start = perf_counter()
            pixels = batch.images.to(device, memory_format=torch.channels_last)
            if len(sections) == 1 and not flip:
                detections.update(_to_original(batch, model(ImageBatch(pixels, tuple(batch.sizes))), images))
            else:
                parts += search(model, batch, pixels, [images.size(index) for index in batch.indices], flip=flip)
                if number % len(sections) == 0:  # that was the last view of these images
                    results = merge(model, parts, len(batch.indices), protocol.evaluation.nms_iou)
                    detections.update(zip(batch.indices, map(_on_host, results), strict=True))
                    parts = []
            seconds += perf_counter() - start
    model.train(was_training)
    done = len(detections)
    gathered = group.gather((detections, faults))
    for _, errors in gathered:
        if errors:
            raise errors[0]
    merged = {index: value for part, _ in gathered for index, value in part.items()}
    return [merged[index] for index in sorted(merged)], 1000 * seconds / max(done, 1)


def judge(images: ImageSet, detections: list[Detections]) -> dict[str, Any]:
    """All metrics of a record: COCO's, and recall by object shape where the set describes its objects."""
    return {**coco_metrics(images, detections), "bins": object_bins(images, detections) or None}


@contextmanager
def _noted(faults: list[UserError]) -> Iterator[None]:
    """End the block at a user's error and note it: only the main process speaks, and it waits for what others found."""
    try:
        yield
    except UserError as error:
        faults.append(error)


def _to_original(batch: Batch, results: list[dict[str, torch.Tensor]], images: ImageSet) -> dict[int, Detections]:
    """Undo the resizing: boxes over the scales, clipped to the original image."""
    out = {}
    for index, (x, y), result in zip(batch.indices, batch.scales, results, strict=True):
        height, width = images.size(index)
        detections = _on_host(result)
        boxes = detections["boxes"] / np.array([x, y, x, y], dtype=np.float32)
        out[index] = detections | {"boxes": np.clip(boxes, 0, np.array([width, height, width, height], np.float32))}
    return out


def _on_host(result: dict[str, torch.Tensor]) -> Detections:
    detections = {name: result[name].float().cpu().numpy() for name in ("boxes", "scores")}
    return detections | {"labels": result["labels"].cpu().numpy()}
