from __future__ import annotations

from collections import Counter
from dataclasses import replace
from itertools import islice
from pathlib import Path

import pytest
import torch

from detector import images as detector_images
from harness.core.errors import UserError
from harness.data import open_data
from harness.data.loader import DIVISOR, Batch, eval_batches, train_batches
from harness.data.shapes.shapes import ShapesSet
from harness.data.transforms import MEAN_COLOUR
from harness.protocol.protocol import EvaluationSection, Protocol
from tests.data.folders import MemorySet, objects, protocol, write_coco

SIZES = [(60, 90), (100, 70), (64, 64), (50, 150), (90, 60), (33, 80), (70, 71)]
AUGMENTED = {"short_edge": 64, "long_edge": 120, "scale_jitter": (0.6, 1.4), "color_jitter": 0.2}


def assert_same(one: Batch, other: Batch) -> None:
    assert one.indices == other.indices
    assert one.sizes == other.sizes
    assert one.scales == other.scales
    assert torch.equal(one.images, other.images)
    for a, b in zip(one.targets, other.targets, strict=True):
        assert a.keys() == b.keys()
        assert all(torch.equal(a[key], b[key]) for key in a)


def assert_same_all(ones: list[Batch], others: list[Batch]) -> None:
    for one, other in zip(ones, others, strict=True):
        assert_same(one, other)


@pytest.fixture(scope="module")
def images() -> MemorySet:
    return MemorySet(SIZES)


def test_batches_are_padded_as_the_detector_pads() -> None:
    assert (MEAN_COLOUR, DIVISOR) == (detector_images.FILL, detector_images.DIVISOR)


def test_batches_keep_their_layout(images: MemorySet) -> None:
    (batch,) = train_batches(images, protocol(steps=1, **AUGMENTED), seed=0)
    assert batch.images.dtype == torch.uint8
    assert batch.images.shape[2] % 32 == batch.images.shape[3] % 32 == 0
    mean = torch.tensor(MEAN_COLOUR, dtype=torch.uint8)[:, None, None]
    for row, (height, width), target, index in zip(
        batch.images, batch.sizes, batch.targets, batch.indices, strict=True
    ):
        assert (row[:, height:] == mean).all()
        assert (row[:, :, width:] == mean).all()
        assert target["boxes"].dtype == torch.float32
        assert target["labels"].dtype == torch.int64
        assert target["boxes"].shape == (1, 4)
        assert target["ignore"].shape == (0, 4)
        assert target["image_id"].shape == ()
        assert target["image_id"].dtype == torch.int64
        assert target["image_id"] == 100 + index
        bright = row[:, :height, :width].float().mean(dim=0) > 128
        assert bright.any(dim=0).sum() == pytest.approx(float(target["boxes"][0, 2] - target["boxes"][0, 0]), abs=1)


def test_every_epoch_is_a_permutation_of_its_own(images: MemorySet) -> None:
    seen = [i for batch in train_batches(images, protocol(steps=7, **AUGMENTED), seed=3) for i in batch.indices]
    epochs = [tuple(seen[start : start + 7]) for start in range(0, 28, 7)]
    assert all(sorted(epoch) == list(range(7)) for epoch in epochs)
    assert len(set(epochs)) == 4
    other = [i for batch in train_batches(images, protocol(steps=7, **AUGMENTED), seed=4) for i in batch.indices]
    assert other != seen


def test_augmentation_differs_between_epochs_and_not_with_the_batch(images: MemorySet) -> None:
    def samples(batch_size: int, steps: int) -> list[tuple[int, tuple[int, int]]]:
        chosen = protocol(steps=steps, batch_size=batch_size, **AUGMENTED)
        return [
            pair
            for batch in train_batches(images, chosen, seed=0)
            for pair in zip(batch.indices, batch.sizes, strict=True)
        ]

    assert samples(2, 14) == samples(7, 4) == samples(28, 1)
    sizes_of_first = {size for index, size in samples(7, 4) if index == 0}
    assert len(sizes_of_first) > 1


def test_a_batch_may_be_larger_than_the_set(images: MemorySet) -> None:
    (batch,) = train_batches(images, protocol(steps=1, batch_size=16, **AUGMENTED), seed=0)
    assert sorted(Counter(batch.indices).values()) == [2, 2, 2, 2, 2, 3, 3]


@pytest.mark.parametrize("start", [1, 3, 6])
def test_resuming_continues_bit_for_bit(images: MemorySet, start: int) -> None:
    chosen = protocol(steps=6, **AUGMENTED, crop=True)
    whole = list(train_batches(images, chosen, seed=5))
    assert len(whole) == 6
    assert_same_all(list(train_batches(images, chosen, seed=5, start_step=start)), whole[start:])


def test_workers_do_not_change_a_batch(images: MemorySet) -> None:
    chosen = protocol(steps=5, **AUGMENTED, crop=True)
    alone = list(train_batches(images, chosen, seed=1))
    assert_same_all(list(train_batches(images, chosen, seed=1, workers=2)), alone)
    shapes = ShapesSet(10, 64, "train")
    chosen = protocol(steps=3, short_edge=64, long_edge=64)
    assert_same_all(list(train_batches(shapes, chosen, seed=1, workers=2)), list(train_batches(shapes, chosen, seed=1)))


@pytest.mark.parametrize("world", [2, 4])
def test_shares_of_the_processes_make_the_whole_batch(images: MemorySet, world: int) -> None:
    chosen = protocol(steps=4, **AUGMENTED)
    whole = list(train_batches(images, chosen, seed=2))
    parts = [list(train_batches(images, chosen, seed=2, rank=rank, world=world)) for rank in range(world)]
    for batch, *shares in zip(whole, *parts, strict=True):
        # Also the padded shape: a network's borders must not depend on the number of processes.
        joined = replace(
            batch,
            images=torch.cat([share.images for share in shares]),
            **{
                key: [item for share in shares for item in getattr(share, key)]
                for key in ("sizes", "targets", "scales", "indices")
            },
        )
        assert_same(joined, batch)


def test_an_uneven_share_is_refused(images: MemorySet) -> None:
    with pytest.raises(UserError, match="batch_size 4 cannot be shared evenly by 3 processes"):
        train_batches(images, protocol(**AUGMENTED), seed=0, world=3)


def test_loading_takes_nothing_from_the_global_generator(images: MemorySet) -> None:
    torch.manual_seed(0)
    state = torch.get_rng_state()
    list(train_batches(images, protocol(**AUGMENTED), seed=0))
    list(eval_batches(images, protocol(**AUGMENTED), workers=1))
    assert torch.equal(torch.get_rng_state(), state)


def evaluation(batch_size: int) -> Protocol:
    return protocol(**AUGMENTED).model_copy(update={"evaluation": EvaluationSection(batch_size=batch_size)})


def test_evaluation_passes_once_in_order_without_augmentation(images: MemorySet) -> None:
    batches = list(eval_batches(images, evaluation(3)))
    assert [batch.indices for batch in batches] == [[0, 1, 2], [3, 4, 5], [6]]
    assert batches[0].sizes == [(64, 96), (91, 64), (64, 64)]
    assert_same_all(list(eval_batches(images, evaluation(3), workers=2)), batches)


def test_evaluation_deals_batches_to_the_processes(images: MemorySet) -> None:
    whole = list(eval_batches(images, evaluation(2)))
    for rank in range(3):
        assert_same_all(list(eval_batches(images, evaluation(2), rank=rank, world=3)), whole[rank::3])
    assert list(eval_batches(images, evaluation(2), rank=4, world=5)) == []


def test_images_without_boxes_are_kept() -> None:
    class Empty(MemorySet):
        def annotations(self, index: int):
            return objects([])

    (batch,) = train_batches(Empty(SIZES), protocol(steps=1, **AUGMENTED), seed=0)
    assert [target["boxes"].shape for target in batch.targets] == [(0, 4)] * 4


@pytest.mark.parametrize("workers", [0, 1])
def test_a_broken_image_is_one_line_from_any_worker(tmp_path: Path, workers: int) -> None:
    root = write_coco(tmp_path / "set")
    images = open_data(f"coco:{root}", protocol().data, role="val")
    (root / "val2017" / "b.jpg").write_bytes(b"not an image")
    with pytest.raises(UserError, match=r"b\.jpg cannot be decoded") as caught:
        list(eval_batches(images, protocol(short_edge=64, long_edge=96), workers=workers))
    assert "\n" not in str(caught.value)


def test_stopping_early_is_clean(images: MemorySet) -> None:
    batches = train_batches(images, protocol(steps=1000, **AUGMENTED), seed=0, workers=1)
    assert len(list(islice(batches, 2))) == 2
    batches.close()
