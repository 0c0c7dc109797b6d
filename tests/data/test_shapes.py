from __future__ import annotations

import hashlib

import numpy as np
import pytest

from harness.core.errors import UserError
from harness.data.hashing import Draws
from harness.data.shapes.raster import SHAPES, draw_mask, extent
from harness.data.shapes.shapes import ShapesSet, compose, describe, side_range

# Pixels, boxes and labels of 32 training images at 128 px. A change of this line means a new data set: raise VERSION.
DIGEST_OF_32 = "d211acc51e099549d8cca9be0d3e73ffab660d10d0125cfa79f2231d02033313"


@pytest.fixture(scope="module")
def shapes() -> ShapesSet:
    return ShapesSet(200, 128, "train")


def by_class(shapes: ShapesSet, attribute: str) -> dict[str, np.ndarray]:
    rows = [shapes.annotations(index) for index in range(len(shapes))]
    labels = np.concatenate([row.labels for row in rows])
    values = np.concatenate([row.attributes[attribute] for row in rows])
    return {name: values[labels == label] for label, name in enumerate(shapes.classes)}


def test_32_images_are_bit_identical_on_every_machine(shapes: ShapesSet) -> None:
    digest = hashlib.sha256()
    for index in range(32):
        digest.update(shapes.load(index).tobytes())
        digest.update(shapes.annotations(index).boxes.astype("<f4").tobytes())
        digest.update(shapes.annotations(index).labels.astype("<i8").tobytes())
    assert digest.hexdigest() == DIGEST_OF_32


def test_an_image_depends_on_its_name_alone(shapes: ShapesSet) -> None:
    again = ShapesSet(9, 128, "train")
    assert np.array_equal(again.load(8), shapes.load(8))
    assert np.array_equal(again.annotations(8).boxes, shapes.annotations(8).boxes)
    assert not np.array_equal(ShapesSet(9, 128, "val").load(8), shapes.load(8))
    assert not np.array_equal(ShapesSet(9, 128, "train", seed=1).load(8), shapes.load(8))


def test_images_and_boxes_are_well_formed(shapes: ShapesSet) -> None:
    assert len(shapes.classes) == 10
    counts = []
    for index in range(len(shapes)):
        found = shapes.annotations(index)
        counts.append(len(found))
        assert shapes.size(index) == (128, 128)
        assert (found.boxes[:, :2] >= 0).all()
        assert (found.boxes[:, 2:] <= 128).all()
        assert (found.boxes[:, 2:] - found.boxes[:, :2] >= 3).all()
        assert np.array_equal(found.area, np.prod(found.boxes[:, 2:] - found.boxes[:, :2], axis=1))
    assert set(counts) <= set(range(7))
    assert len(set(counts)) == 6
    image = shapes.load(0)
    assert image.dtype == np.uint8
    assert image.shape == (128, 128, 3)
    assert image.flags["C_CONTIGUOUS"]


def test_every_object_stays_visible_and_owns_its_pixels() -> None:
    for index in range(40):
        scene = compose(Draws(index), 128)
        for number, piece in enumerate(scene.pieces):
            height, width = piece.mask.shape
            owned = scene.owner == number
            inside = owned[piece.y : piece.y + height, piece.x : piece.x + width]
            assert owned.sum() == inside.sum()
            assert not (inside & ~piece.mask).any()
            assert owned.sum() >= 0.35 * piece.mask.sum()
            assert extent(piece.mask) == (0, 0, width, height)
        assert np.array_equal(describe(scene.pieces).boxes[:, 0], [piece.x for piece in scene.pieces])


def test_attributes_tell_centred_full_objects_from_the_others(shapes: ShapesSet) -> None:
    eccentricity, fill = by_class(shapes, "eccentricity"), by_class(shapes, "centre_fill")
    for name in ("disc", "square", "ring", "bar", "cross"):
        assert np.median(eccentricity[name]) < 0.02, name
    for name, least in (("triangle", 0.25), ("L", 0.3), ("crescent", 0.12), ("comb", 0.08)):
        assert np.median(eccentricity[name]) > least, name
    assert np.median(fill["disc"]) == np.median(fill["square"]) == 1
    for name in ("ring", "L"):
        assert np.median(fill[name]) < 0.25, name
    for name in ("crescent", "bar"):
        assert np.median(fill[name]) < 0.7, name


def test_attributes_of_a_known_mask() -> None:
    piece = compose(Draws(0), 128).pieces[0]
    mask = np.zeros((8, 8), dtype=bool)
    mask[:, :2] = True  # centroid 3 px left of the centre of a box with half a side of 4 px
    mask[0] = True  # the centroid of 8 more pixels, 6 of them new: the box stays 8 x 8
    mask[0, 2:7] = False
    found = describe((type(piece)(0, 5, 6, mask, (0, 0, 0), (0, 0, 3, 0)),))
    count, x, y = 17, (16 * -3 + 3.5) / 17, (1 * -3.5) / 17
    assert mask.sum() == count
    assert found.boxes.tolist() == [[5, 6, 13, 14]]
    assert found.attributes["eccentricity"][0] == pytest.approx(np.hypot(x / 4, y / 4))
    assert found.attributes["centre_fill"][0] == 0


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: shape.name)
@pytest.mark.parametrize("side", [8, 12, 40, 700])
def test_masks_are_tight_at_every_size(shape: object, side: int) -> None:
    for seed in range(5):
        mask = draw_mask(shape, side, Draws(seed))
        height, width = mask.shape
        assert extent(mask) == (0, 0, width, height)
        assert max(height, width) <= side
        assert min(height, width) >= 3


@pytest.mark.parametrize(
    ("image_side", "expected"), [(128, (20, 100)), (1024, (24, 700)), (64, (19, 51)), (256, (20, 185))]
)
def test_object_sides_grow_with_the_image(image_side: int, expected: tuple[int, int]) -> None:
    assert side_range(image_side) == expected


def test_sides_span_the_range_about_log_uniformly(shapes: ShapesSet) -> None:
    boxes = np.concatenate([shapes.annotations(index).boxes for index in range(len(shapes))])
    side = (boxes[:, 2:] - boxes[:, :2]).max(axis=1)
    assert side.max() <= 100
    assert (side > 64).mean() > 0.1
    assert (side < 40).mean() > 0.3


def test_large_images_hold_large_and_small_objects() -> None:
    large = ShapesSet(30, 1024, "val")
    side = np.concatenate([np.ptp(large.annotations(i).boxes.reshape(-1, 2, 2), axis=1).max(axis=1) for i in range(30)])
    assert side.max() > 400
    assert side.min() < 40
    assert large.load(0).shape == (1024, 1024, 3)


def test_colour_is_no_clue_to_the_class(shapes: ShapesSet) -> None:
    colours: dict[int, list[tuple[int, int, int]]] = {}
    for index in range(300):
        for piece in compose(Draws(index), 128).pieces:
            colours.setdefault(piece.label, []).append(piece.colour)
    means = np.array([np.mean(rows, axis=0) for rows in colours.values()])
    assert np.ptp(means, axis=0).max() < 45  # each mean has a standard error of about 6


def test_checksum_names_the_content(shapes: ShapesSet) -> None:
    assert shapes.checksum() == ShapesSet(200, 128, "train").checksum()
    others = [ShapesSet(199, 128, "train"), ShapesSet(200, 96, "train"), ShapesSet(200, 128, "val")]
    assert len({shapes.checksum(), *(other.checksum() for other in others)}) == 4


def test_unknown_split_small_side_and_index_are_refused(shapes: ShapesSet) -> None:
    with pytest.raises(UserError, match="no split 'test'; it has train and val"):
        ShapesSet(1, 128, "test")
    with pytest.raises(UserError, match="at least 64 px, got 32"):
        ShapesSet(1, 32, "train")
    with pytest.raises(IndexError):
        shapes.load(200)
