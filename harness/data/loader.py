"""Batches: in which order, by which process, in which worker, padded to which shape.

A sample is named by (seed, epoch, image id). Order and augmentation are pure functions of that name, so neither the
number of workers nor the split over processes nor a restart can change what a step sees.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from harness.core.errors import UserError
from harness.core.stopping import leave_to_the_main_process
from harness.data.base import ImageSet
from harness.data.hashing import hash32, permutation
from harness.data.transforms import MEAN_COLOUR, Sample, make_sample, plan_sizes
from harness.protocol.protocol import DataSection, Protocol

DIVISOR = 32  # px; batches are padded to multiples of it, as in `detector.images`, which loads timm

# Purposes that split a run's seed into unrelated draws.
_ORDER, _SAMPLE = 1, 2


@dataclass
class Batch:
    """Images of one step on one process, padded at the right and the bottom with the mean colour.

    Attributes:
        images: ``[B, 3, H, W]`` uint8, H and W multiples of 32.
        sizes: ``(height, width)`` of each image before padding, after resizing.
        targets: per image "boxes" ``[n, 4]`` float32 xyxy pixels of `images`, "labels" ``[n]`` int64, "ignore"
            ``[m, 4]`` float32 and "image_id" int64 scalar, on the CPU.
        scales: (x, y) factor of the resize; detections are divided by it to return to the original image.
        indices: position of each image in its `ImageSet`.
        digest: CRC-32 of which images these are, their boxes after augmentation, and a grid of their pixels.
    """

    images: Tensor
    sizes: list[tuple[int, int]]
    targets: list[dict[str, Tensor]]
    scales: list[tuple[float, float]]
    indices: list[int]
    digest: int

    def __getstate__(self) -> dict[str, Any]:
        # From process to process each tensor takes a file of shared memory, with a descriptor; an array is sent itself.
        return {**self.__dict__, "targets": [{key: value.numpy() for key, value in t.items()} for t in self.targets]}

    def __setstate__(self, state: dict[str, Any]) -> None:
        targets = [{key: torch.from_numpy(value) for key, value in t.items()} for t in state["targets"]]
        self.__dict__.update(state, targets=targets)

    def pin_memory(self) -> Batch:
        """The same batch with its images in page-locked memory, for copies to a GPU beside the computation."""
        return replace(self, images=self.images.pin_memory())


@dataclass(frozen=True)
class _Plan:
    """What one process loads in one step: samples as (key or None, index), the padded shape of the global batch, and
    the section that says how."""

    samples: tuple[tuple[int | None, int], ...]
    shape: tuple[int, int]
    data: DataSection


class _Batches(Dataset[Batch | UserError]):
    """Makes the batch of a plan. A user's error travels as a value: workers would wrap it in a page of traceback."""

    def __init__(self, images: ImageSet) -> None:
        self._images = images

    def __getitem__(self, plan: _Plan) -> Batch | UserError:
        try:
            samples = [
                make_sample(self._images.load(index), self._images.annotations(index), plan.data, key)
                for key, index in plan.samples
            ]
        except UserError as error:
            return error
        indices = [index for _, index in plan.samples]
        return _collate(samples, indices, [self._images.image_id(index) for index in indices], plan.shape)


def _collate(samples: Sequence[Sample], indices: list[int], image_ids: Sequence[int], shape: tuple[int, int]) -> Batch:
    images = torch.empty(len(samples), 3, *shape, dtype=torch.uint8)
    mean = torch.tensor(MEAN_COLOUR, dtype=torch.uint8)[:, None, None]
    sizes = []
    for row, sample in zip(images, samples, strict=True):
        height, width = sample.image.shape[-2:]
        row[:, :height, :width] = sample.image
        row[:, height:] = mean
        row[:, :height, width:] = mean
        sizes.append((height, width))
    targets = [
        {"boxes": s.boxes, "labels": s.labels, "ignore": s.ignore, "image_id": torch.tensor(identity)}
        for s, identity in zip(samples, image_ids, strict=True)
    ]
    return Batch(images, sizes, targets, [s.scale for s in samples], indices, _digest(images, targets))


def _digest(images: Tensor, targets: Sequence[dict[str, Tensor]]) -> int:
    # One pixel in 61 rows and columns: colour shows in any of them, and a batch of COCO must not cost milliseconds.
    value = zlib.crc32(images[:, :, ::61, ::61].contiguous().numpy().data)
    for target in targets:
        for name in ("image_id", "boxes", "labels", "ignore"):
            value = zlib.crc32(target[name].contiguous().numpy().data, value)
    return value


def train_batches(
    images: ImageSet,
    protocol: Protocol,
    *,
    seed: int,
    start_step: int = 0,
    rank: int = 0,
    world: int = 1,
    workers: int = 0,
    pin: bool = False,
) -> Iterator[Batch]:
    """The batches of steps ``start_step .. protocol.schedule.steps - 1``, this process's share of each.

    The data set is passed through in epochs without end, each in an order of its own; a batch may cross the border
    of two epochs. Every process pads to the shape of the whole batch.

    Args:
        start_step: where to resume.
        rank, world: this process among all; it takes its contiguous share of every batch.
        workers: loading processes; 0 loads in this one. The batches are the same.
        pin: page-lock the images.

    Raises:
        UserError: if the batch cannot be shared out evenly, or an image cannot be read.
    """
    size = protocol.schedule.batch_size
    if size % world:
        raise UserError(f"schedule.batch_size {size} cannot be shared evenly by {world} processes")
    plans = _train_plans(images, protocol, seed, start_step, rank, world)
    return _run(images, plans, workers, pin)


def eval_batches(
    images: ImageSet,
    protocol: Protocol,
    *,
    sections: Sequence[DataSection] = (),
    workers: int = 0,
    rank: int = 0,
    world: int = 1,
    pin: bool = False,
) -> Iterator[Batch]:
    """All images in order and without augmentation; this process takes every `world`-th batch.

    Args:
        sections: how to load, the protocol's own data section by default; with several, the batches of the same
            images in every section's way follow one another.
        workers, rank, world, pin: as in `train_batches`.

    Raises:
        UserError: if an image cannot be read.
    """
    return _run(images, _eval_plans(images, protocol, sections or (protocol.data,), rank, world), workers, pin)


def _train_plans(
    images: ImageSet, protocol: Protocol, seed: int, start_step: int, rank: int, world: int
) -> Iterator[_Plan]:
    size, count = protocol.schedule.batch_size, len(images)
    share = size // world
    known, order = -1, permutation(0, 0)
    for step in range(start_step, protocol.schedule.steps):
        samples = []
        for position in range(step * size, (step + 1) * size):
            epoch, slot = divmod(position, count)
            if epoch != known:
                known, order = epoch, permutation(hash32(seed, _ORDER, epoch), count)
            index = int(order[slot])
            samples.append((hash32(seed, _SAMPLE, epoch, images.image_id(index)), index))
        share_of_batch = tuple(samples[rank * share : (rank + 1) * share])
        yield _Plan(share_of_batch, _padded(images, protocol.data, samples), protocol.data)


def _eval_plans(
    images: ImageSet, protocol: Protocol, sections: Sequence[DataSection], rank: int, world: int
) -> Iterator[_Plan]:
    size = protocol.evaluation.batch_size
    for start in range(rank * size, len(images), world * size):
        samples = [(None, index) for index in range(start, min(start + size, len(images)))]
        for section in sections:
            yield _Plan(tuple(samples), _padded(images, section, samples), section)


def _padded(images: ImageSet, data: DataSection, samples: Sequence[tuple[int | None, int]]) -> tuple[int, int]:
    finals = [plan_sizes(images.size(index), data, key).final for key, index in samples]
    height, width = (-(-max(sides) // DIVISOR) * DIVISOR for sides in zip(*finals, strict=True))
    return height, width


def _run(images: ImageSet, plans: Iterator[_Plan], workers: int, pin: bool) -> Iterator[Batch]:
    loader = DataLoader(
        _Batches(images),
        batch_size=None,  # a plan is a whole batch
        sampler=plans,
        worker_init_fn=leave_to_the_main_process,
        num_workers=workers,
        pin_memory=pin,
        generator=torch.Generator().manual_seed(0),  # else every pass takes a number from the global generator
    )
    items = iter(loader)
    while True:
        try:
            item = next(items)
        except StopIteration:
            return
        except (ConnectionError, EOFError, FileNotFoundError) as error:
            if not workers:
                raise
            # One that dies with a batch on its way is noticed first by who would fetch it; torch's words for it.
            raise RuntimeError("DataLoader worker exited unexpectedly") from error
        if isinstance(item, UserError):
            raise item
        yield item
