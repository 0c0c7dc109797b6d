"""Boxes of another convention than their format's are told from boxes that are merely odd."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from harness.core.errors import UserError
from harness.data import open_data
from harness.data.plausible import COCO_ORDER, sides_problem, voc_problem
from harness.protocol.protocol import DataSection
from tests.data.folders import coco_document, voc_object, voc_xml, write_coco, write_voc

SIDE = 100.0


def scene(seed: int, count: int) -> np.ndarray:
    """Corners ``[n, 4]`` of boxes inside an image of 100x100."""
    rng = np.random.default_rng(seed)
    corner = rng.uniform(0, 80, (count, 2))
    return np.concatenate((corner, corner + rng.uniform(4, 20, (count, 2))), axis=1).round(1)


def sides(corners: np.ndarray) -> np.ndarray:
    return np.concatenate((corners[:, :2], corners[:, 2:] - corners[:, :2]), axis=1)


def sizes(boxes: np.ndarray) -> np.ndarray:
    return np.full((len(boxes), 2), SIDE)


def coco_problem(boxes: np.ndarray, areas: np.ndarray | None = None, around: np.ndarray | None = None) -> str | None:
    none = np.full((len(boxes), 4), np.nan)
    areas, around = none[:, 0] if areas is None else areas, none if around is None else around
    return sides_problem(boxes, sizes(boxes), areas, around, COCO_ORDER)


@given(st.integers(0, 2**32), st.integers(10, 60))
def test_a_right_file_has_no_problem(seed: int, count: int) -> None:
    corners = scene(seed, count)
    assert coco_problem(sides(corners)) is None
    assert voc_problem(corners + np.array((1, 1, 0, 0)), sizes(corners)) is None


@given(st.integers(0, 2**32), st.integers(20, 60))
def test_corners_in_a_coco_file_are_seen(seed: int, count: int) -> None:
    corners = scene(seed, count)
    problem = coco_problem(corners)
    assert "boxes look like corners x1, y1, x2, y2" in problem


def upper_left(count: int = 8) -> np.ndarray:
    """Corners that fit as sides too, so that no place tells."""
    return np.array([[10, 12, 40, 32], [5, 30, 25, 55]] * (count // 2), dtype=np.float64)


def test_stated_areas_tell_where_no_place_does() -> None:
    corners = upper_left()
    area = sides(corners)[:, 2:].prod(axis=1)
    assert "have the areas stated" in coco_problem(corners, area)
    assert coco_problem(sides(corners), area) is None
    assert "have the areas stated" in coco_problem(corners, np.append(area[:-1], 0))  # an area of 0 says nothing
    assert "have the areas stated" in coco_problem(corners - (0, 0, 1, 1), area)  # corners that are the last pixels
    outside = np.array([[60.0, 60, 90, 90]])
    assert "have the areas stated" in coco_problem(outside, np.array([900.0]))  # one box that sticks out is enough


def test_masks_tell_where_areas_are_theirs() -> None:
    corners = upper_left()
    area = 0.6 * sides(corners)[:, 2:].prod(axis=1)
    assert "as their masks do" in coco_problem(corners, area, sides(corners))
    assert coco_problem(sides(corners), area, sides(corners)) is None


def test_stated_areas_speak_for_boxes_that_look_like_corners() -> None:
    """The whole image, and two pixels more, in every image."""
    boxes = np.array([[2.0, 2, SIDE, SIDE]] * 12)
    assert coco_problem(boxes, boxes[:, 2:].prod(axis=1)) is None
    alone = np.array([[2.0, 2, 9, 9]])
    assert coco_problem(alone, np.array([49.0])) is None  # the area of a mask may be that of the corners by chance


def test_swapped_corners_in_a_voc_file_are_seen() -> None:
    swapped = upper_left()[:, [2, 1, 0, 3]]
    assert "or have their corners swapped" in voc_problem(swapped, sizes(swapped))


@given(st.integers(0, 2**32), st.integers(10, 60))
def test_sides_in_a_voc_file_are_seen(seed: int, count: int) -> None:
    boxes = sides(scene(seed, count))
    assume((boxes[:, 2:] < boxes[:, :2]).any(axis=1).mean() > 0.5)
    assert "they are x, y, width, height, or have their corners swapped" in voc_problem(boxes, sizes(boxes))


@given(st.integers(0, 2**32), st.integers(1, 20))
def test_shares_of_the_sides_are_seen_in_either(seed: int, count: int) -> None:
    corners = scene(seed, count) / SIDE
    for problem in (coco_problem(sides(corners)), voc_problem(corners, sizes(corners))):
        assert "boxes lie between 0 and 1" in problem


def test_shares_a_little_beyond_the_side_are_shares() -> None:
    shares = np.tile(scene(0, 12) / SIDE, (2, 1))
    shares[0] = (-0.0001, 0.2, 0.5, 1.002)
    assert "boxes lie between 0 and 1 (24 of 24)" in coco_problem(shares)
    shares[0] = (0.1, 0.2, 3, 5)
    assert "boxes lie between 0 and 1 (23 of 24)" in coco_problem(shares)


def test_boxes_that_merely_stick_out_are_no_corners() -> None:
    """Objects at the right edge, annotated beyond it."""
    boxes = np.array([[90.0, 10 + 5 * n, 20, 4] for n in range(12)])
    assert coco_problem(boxes) is None


def test_nothing_is_no_problem() -> None:
    none = np.zeros((0, 4))
    assert coco_problem(none) is None
    assert voc_problem(none, np.zeros((0, 2))) is None


def rows(boxes: list[Any]) -> dict[str, Any]:
    document = coco_document()
    document["annotations"] = [
        {"id": number, "image_id": 7, "category_id": 9, "bbox": box} for number, box in enumerate(boxes)
    ]
    return document


@pytest.mark.parametrize(
    ("boxes", "message"),
    [
        ([[10, 20, 50, 40], [30, 30, 70, 50], [5, 40, 60, 58]], "boxes look like corners.*convert them"),
        ([[0.1, 0.2, 0.5, 0.5], [0.3, 0.1, 0.2, 0.7]], "boxes lie between 0 and 1 .2 of 2.*multiply by width"),
    ],
)
def test_a_set_of_another_convention_is_refused(tmp_path: Path, boxes: list[Any], message: str) -> None:
    source = f"coco:{write_coco(tmp_path, rows(boxes))}"
    with pytest.raises(UserError, match=message) as caught:
        open_data(source, DataSection(), role="val")
    assert str(caught.value).endswith(f"`harness data {source}` draws the boxes as they were read")
    assert len(open_data(source, DataSection(), role="val", strict=False)) == 2


def test_a_voc_set_of_shares_is_refused(tmp_path: Path) -> None:
    xml = voc_xml(voc_object("dog", 0.1, 0.2, 0.5, 0.5))
    write_voc(tmp_path, {"a": xml, "b": xml}, {"train": "a", "val": "b"})
    with pytest.raises(UserError, match="boxes lie between 0 and 1"):
        open_data(f"voc:{tmp_path}", DataSection(), role="train")
