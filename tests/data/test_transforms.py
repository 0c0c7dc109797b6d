from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from harness.data.transforms import MEAN_COLOUR, Sample, fit, make_sample, plan_sizes
from harness.protocol.protocol import DataSection
from tests.data.folders import MemorySet, objects

HEIGHT, WIDTH = 90, 120
BOX = (30, 22, 60, 67)


def sample(key: int | None, **data: object) -> Sample:
    images = MemorySet([(HEIGHT, WIDTH)])
    return make_sample(images.load(0), images.annotations(0), DataSection(**data), key)


def measured(image: Tensor) -> list[int]:
    """The box of the bright pixels; the mean colour of padding is darker than half."""
    bright = image.float().mean(dim=0) > 160
    rows, columns = bright.any(dim=1).nonzero().squeeze(1), bright.any(dim=0).nonzero().squeeze(1)
    return [int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1]


@pytest.mark.parametrize(
    ("size", "short", "long", "expected"),
    [
        ((480, 640), 800, 1333, (800, 1067)),
        ((640, 480), 800, 1333, (1067, 800)),
        ((144, 780), 320, 448, (83, 448)),
        ((100, 100), 128, 128, (128, 128)),
        ((5, 1000), 100, 100, (1, 100)),
        ((3, 2), 1, 9, (2, 1)),  # 1.5 is rounded up
        ((5, 2), 1, 9, (3, 1)),  # and so is 2.5
    ],
)
def test_fit(size: tuple[int, int], short: int, long: int, expected: tuple[int, int]) -> None:
    assert fit(size, short, long) == expected


def test_evaluation_resizes_only_and_tells_the_exact_scale() -> None:
    plain = sample(None, short_edge=60, long_edge=100, horizontal_flip=1.0, color_jitter=0.5, scale_jitter=(0.5, 0.5))
    assert plain.image.shape == (3, 60, 80)
    assert plain.image.dtype == torch.uint8
    assert plain.scale == (80 / 120, 60 / 90)
    assert torch.allclose(plain.boxes, torch.tensor([BOX]) * (2 / 3), atol=1e-4)
    assert torch.allclose(plain.boxes / torch.tensor(plain.scale * 2), torch.tensor([BOX]).float(), atol=1e-4)


def test_identity_size_keeps_every_pixel() -> None:
    image = MemorySet([(HEIGHT, WIDTH)]).load(0)
    assert np.array_equal(sample(None, short_edge=90, long_edge=120).image.permute(1, 2, 0).numpy(), image)


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        ({}, [30, 22, 60, 67]),
        ({"horizontal_flip": 1.0}, [60, 22, 90, 67]),
        ({"vertical_flip": 1.0}, [30, 23, 60, 68]),
        ({"horizontal_flip": 1.0, "vertical_flip": 1.0}, [60, 23, 90, 68]),
    ],
)
def test_flips_move_pixels_and_boxes_alike(data: dict[str, float], expected: list[int]) -> None:
    found = sample(1, short_edge=90, long_edge=120, **{"horizontal_flip": 0.0, **data})
    assert measured(found.image) == expected
    assert found.boxes.tolist() == [expected]


@pytest.mark.parametrize("crop", [False, True])
@pytest.mark.parametrize("jitter", [(0.5, 0.9), (1.1, 1.6), (0.6, 1.7)])
def test_boxes_follow_jitter_and_crop(crop: bool, jitter: tuple[float, float]) -> None:
    shapes, empty = set(), 0
    for key in range(40):
        data = {"short_edge": 90, "long_edge": 120, "scale_jitter": jitter, "crop": crop, "horizontal_flip": 0.5}
        found = sample(key, **data)
        sizes = plan_sizes((HEIGHT, WIDTH), DataSection(**data), key)
        shapes.add(tuple(found.image.shape[1:]))
        assert found.image.shape[1:] == sizes.final
        assert found.scale == (sizes.resized[1] / WIDTH, sizes.resized[0] / HEIGHT)
        if not len(found.boxes):
            empty += 1
            continue
        assert np.abs(np.array(measured(found.image)) - found.boxes[0].numpy()).max() <= 1.0, key
    assert shapes == {(90, 120)} if crop else len(shapes) > 5
    assert empty == 0


def test_padding_shows_the_mean_colour() -> None:
    found = sample(3, short_edge=90, long_edge=120, scale_jitter=(0.5, 0.5), crop=True, horizontal_flip=0.0)
    assert plan_sizes((HEIGHT, WIDTH), DataSection(short_edge=90, long_edge=120), None).final == (90, 120)
    mean = torch.tensor(MEAN_COLOUR, dtype=torch.uint8)[:, None, None]
    padded = (found.image == mean).all(dim=0)
    assert padded.sum() == 90 * 120 - 45 * 60


def test_colour_jitter_changes_pixels_and_no_box() -> None:
    plain = sample(5, short_edge=90, long_edge=120, horizontal_flip=0.0)
    jittered = sample(5, short_edge=90, long_edge=120, horizontal_flip=0.0, color_jitter=0.5)
    assert not torch.equal(plain.image, jittered.image)
    assert torch.equal(plain.boxes, jittered.boxes)


def test_labels_and_crowd_flags_follow_when_a_box_leaves() -> None:
    found = objects(
        [[-9, -9, -1, -1], [0, 0, 40, 40], [50, 50, 50.5, 90], [10, 10, 400, 30], [5, 5, 30, 30]],
        labels=[0, 1, 2, 3, 4],
        crowd=[False, False, False, False, True],
    )
    image = np.zeros((100, 100, 3), dtype=np.uint8)
    kept = make_sample(image, found, DataSection(short_edge=100, long_edge=100), None)
    assert kept.labels.tolist() == [1, 3]
    assert kept.boxes.tolist() == [[0, 0, 40, 40], [10, 10, 100, 30]]
    assert kept.ignore.tolist() == [[5, 5, 30, 30]]
    dropped = make_sample(image, found, DataSection(short_edge=100, long_edge=100, crowd="drop"), None)
    assert dropped.labels.tolist() == [1, 3]
    assert dropped.ignore.shape == (0, 4)


def test_an_image_without_objects_goes_through() -> None:
    image = np.zeros((50, 60, 3), dtype=np.uint8)
    data = DataSection(short_edge=64, long_edge=96, scale_jitter=(0.5, 1.5), crop=True, color_jitter=0.3)
    found = make_sample(image, objects([]), data, 11)
    assert found.boxes.shape == found.ignore.shape == (0, 4)
    assert found.labels.shape == (0,)


def test_a_key_gives_one_augmentation_and_leaves_the_global_generator_alone() -> None:
    data = {"short_edge": 90, "long_edge": 120, "scale_jitter": (0.6, 1.7), "crop": True, "color_jitter": 0.4}
    torch.manual_seed(1)
    state = torch.get_rng_state()
    first = sample(17, **data)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(2)
    again, other = sample(17, **data), sample(18, **data)
    assert torch.equal(first.image, again.image)
    assert torch.equal(first.boxes, again.boxes)
    assert not torch.equal(first.image, other.image)


def test_arrays_of_the_data_set_are_not_written_to() -> None:
    images = MemorySet([(HEIGHT, WIDTH)])
    image, found = images.load(0), images.annotations(0)
    copy, boxes = image.copy(), found.boxes.copy()
    data = DataSection(short_edge=90, long_edge=120, horizontal_flip=1.0, vertical_flip=1.0, color_jitter=0.5)
    make_sample(image, found, data, 3).image.fill_(7)
    assert np.array_equal(image, copy)
    assert np.array_equal(found.boxes, boxes)


ALL_KINDS = objects([[0, 0, 40, 40], [10, 10, 60, 60], [20, 20, 80, 80], [30, 30, 70, 70]], crowd=[0, 1, 0, 1])
ALL_KINDS.difficult[2:] = True  # plain, crowd, difficult, both


@pytest.mark.parametrize(
    ("crowd", "difficult", "learnt", "regions"),
    [
        ("ignore", "train", [0, 2], [1, 3]),
        ("ignore", "ignore", [0], [1, 2, 3]),
        ("ignore", "drop", [0], [1, 3]),
        ("drop", "train", [0, 2], []),
        ("drop", "ignore", [0], [2]),
        ("drop", "drop", [0], []),
    ],
)
def test_what_training_makes_of_crowds_and_difficult_objects(
    crowd: str, difficult: str, learnt: list[int], regions: list[int]
) -> None:
    data = DataSection.model_validate({"crowd": crowd, "difficult": difficult, "short_edge": 90, "long_edge": 120})
    made = make_sample(MemorySet([(HEIGHT, WIDTH)]).load(0), ALL_KINDS, data, None)
    assert made.labels.tolist() == learnt
    assert made.boxes.tolist() == ALL_KINDS.boxes[learnt].tolist()
    assert made.ignore.tolist() == ALL_KINDS.boxes[regions].tolist()
