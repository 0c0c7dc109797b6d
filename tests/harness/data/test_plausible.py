"""Boxes of another convention than their format's are told from boxes that are merely odd."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.data import open_data
from harness.data.plausible import coco_problem, voc_problem
from harness.errors import UserError
from harness.protocol import DataSection
from tests.harness.data.folders import coco_document, voc_object, voc_xml, write_coco, write_voc

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


def no_area(boxes: np.ndarray) -> np.ndarray:
    return np.full(len(boxes), np.nan)


@given(st.integers(0, 2**32), st.integers(10, 60))
def test_a_right_file_has_no_problem(seed: int, count: int) -> None:
    corners = scene(seed, count)
    assert coco_problem(sides(corners), sizes(corners), no_area(corners)) is None
    assert voc_problem(corners + np.array((1, 1, 0, 0)), sizes(corners)) is None


@given(st.integers(0, 2**32), st.integers(10, 60))
def test_corners_in_a_coco_file_are_seen(seed: int, count: int) -> None:
    corners = scene(seed, count)
    problem = coco_problem(corners, sizes(corners), no_area(corners))
    assert "boxes look like corners x1, y1, x2, y2" in problem


@given(st.integers(0, 2**32))
def test_one_box_is_enough_where_its_area_is_stated(seed: int) -> None:
    corners = scene(seed, 1)
    area = sides(corners)[:, 2:].prod(axis=1)
    assert "whose areas are those stated" in coco_problem(corners, sizes(corners), area)
    assert coco_problem(sides(corners), sizes(corners), area) is None


@given(st.integers(0, 2**32), st.integers(10, 60))
def test_sides_in_a_voc_file_are_seen(seed: int, count: int) -> None:
    assert "boxes look like x, y, width, height" in voc_problem(sides(scene(seed, count)), sizes(scene(seed, count)))


@given(st.integers(0, 2**32), st.integers(1, 20))
def test_shares_of_the_sides_are_seen_in_either(seed: int, count: int) -> None:
    corners = scene(seed, count) / SIDE
    for problem in (
        coco_problem(sides(corners), sizes(corners), no_area(corners)),
        voc_problem(corners, sizes(corners)),
    ):
        assert "all boxes lie between 0 and 1" in problem


def test_boxes_that_merely_stick_out_are_no_corners() -> None:
    """Objects at the right edge, annotated beyond it."""
    boxes = np.array([[90.0, 10 + 5 * n, 20, 4] for n in range(12)])
    assert coco_problem(boxes, sizes(boxes), no_area(boxes)) is None


def test_nothing_is_no_problem() -> None:
    none = np.zeros((0, 4))
    assert coco_problem(none, np.zeros((0, 2)), np.zeros(0)) is None
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
        ([[0.1, 0.2, 0.5, 0.5], [0.3, 0.1, 0.2, 0.7]], "all boxes lie between 0 and 1 .2 of them.*multiply by width"),
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
    with pytest.raises(UserError, match="all boxes lie between 0 and 1"):
        open_data(f"voc:{tmp_path}", DataSection(), role="train")
