from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from harness.data import open_data
from harness.errors import UserError
from harness.protocol import DataSection
from tests.harness.data.folders import coco_document, write_coco, write_image


def open_val(root: Path, **data: Any):
    return open_data(f"coco:{root}", DataSection(**data), role="val")


def test_reads_images_categories_and_boxes(tmp_path: Path) -> None:
    images = open_val(write_coco(tmp_path / "pets"))
    assert (images.title, images.split, len(images)) == ("pets", "val2017", 2)
    assert images.classes == ("dog", "cat")  # by id: 2, 9
    assert [images.image_id(i) for i in range(2)] == [7, 3]
    assert images.name(0) == "val2017/a.jpg"
    assert images.size(0) == (60, 80)
    assert images.load(0).shape == (60, 80, 3)
    found = images.annotations(0)
    assert found.boxes.tolist() == [[10, 20, 40, 35.5], [0, 0, 80, 60]]
    assert found.labels.tolist() == [1, 0]
    assert found.crowd.tolist() == [False, True]
    assert found.area.tolist() == [400, 900]
    assert not found.difficult.any()
    assert images.warnings == {"boxes without area dropped": 1}
    assert len(images.annotations(1)) == 0


def test_boxes_are_clipped_and_those_outside_dropped(tmp_path: Path) -> None:
    document = coco_document()
    for row, box in zip(document["annotations"], ([-5, 50, 10, 40], [90, 0, 5, 5], [0, 0, -3, 5]), strict=True):
        row["bbox"] = box
    images = open_val(write_coco(tmp_path, document))
    assert images.annotations(0).boxes.tolist() == [[0, 50, 5, 60]]
    assert images.warnings == {"boxes without area dropped": 1, "boxes outside the image dropped": 1}


def test_area_and_iscrowd_may_be_absent(tmp_path: Path) -> None:
    document = coco_document()
    del document["annotations"][0]["area"], document["annotations"][0]["iscrowd"]
    found = open_val(write_coco(tmp_path, document)).annotations(0)
    assert found.area[0] == 30 * 15.5
    assert not found.crowd[0]


def test_limit_keeps_the_first_images(tmp_path: Path) -> None:
    root = write_coco(tmp_path)
    assert [open_val(root, val_images=1).name(i) for i in range(1)] == ["val2017/a.jpg"]
    assert len(open_val(root, val_images=1)) == 1
    assert open_val(root, val_images=1).checksum() != open_val(root).checksum()


def test_default_splits(tmp_path: Path) -> None:
    root = write_coco(tmp_path, split="val")
    assert open_val(root).split == "val"
    write_coco(tmp_path, split="val2017")
    assert open_val(root).split == "val2017"
    write_coco(tmp_path, split="my_train")
    assert open_data(f"coco:{root}", DataSection(), role="train").split == "my_train"
    assert open_data(f"coco:{root}", DataSection(train_split="val"), role="train").split == "val"
    write_coco(tmp_path, split="train_b")
    with pytest.raises(UserError, match=r"cannot tell the train split .*my_train, train_b.*--train-split"):
        open_data(f"coco:{root}", DataSection(), role="train")
    with pytest.raises(UserError, match="no split 'val2018', did you mean 'val2017'"):
        open_val(root, val_split="val2018")


def test_checksum_follows_content(tmp_path: Path) -> None:
    one, two = write_coco(tmp_path / "one"), write_coco(tmp_path / "two")
    assert open_val(one).checksum() == open_val(two).checksum()
    with (two / "val2017" / "a.jpg").open("ab") as file:
        file.write(b"\0")
    assert open_val(one).checksum() != open_val(two).checksum()
    document = coco_document()
    document["annotations"][0]["bbox"][0] = 11
    write_coco(two, document)
    assert open_val(one).checksum() != open_val(two).checksum()


def changed(path: str, value: Any) -> dict[str, Any]:
    """The document with one entry replaced, such as ``annotations.0.bbox``."""
    document: Any = coco_document()
    *way, last = [int(part) if part.isdigit() else part for part in path.split(".")]
    target = document
    for part in way:
        target = target[part]
    target[last] = value
    return document


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ("{", "not valid JSON"),
        ("[1]", "'images' must be a list"),
        pytest.param("[" * 100_000, "nested too deeply|not valid JSON", id="nested"),
        (changed("images", None), "'images' must be a list"),
        (changed("annotations", [3]), "'annotations' must be a list of objects"),
        (changed("categories", []), "'categories' is empty"),
        (changed("categories.0.id", 2), "category id 2 occurs twice"),
        (changed("categories.0.id", "9"), "category number 0 needs a whole number as 'id', got '9'"),
        (changed("categories.0.name", ""), "category 9 needs a 'name'"),
        (changed("images.0.id", 3), "image id 3 occurs twice"),
        (changed("images.0.id", None), "image number 0 needs a whole number as 'id'"),
        (changed("images.0.id", True), "image number 0 needs a whole number as 'id'"),
        (changed("images.0.id", 2**63), "image number 0 needs a whole number as 'id'"),
        (changed("images.0.width", 0), "image 7: width and height must be above 0, got 0"),
        (changed("images.0.height", "60"), "image 7: width and height"),
        (changed("images.0.height", 10**400), "image 7: width and height"),
        (changed("images.0.file_name", "../a.jpg"), r"image 7: 'file_name' must stay inside val2017/, got '../a.jpg'"),
        (changed("images.0.file_name", "/etc/passwd"), "image 7: 'file_name' must stay inside"),
        (changed("images.0.file_name", "..\\a.jpg"), "image 7: 'file_name' must stay inside"),
        (changed("images.0.file_name", "c:\\a.jpg"), "image 7: 'file_name' must stay inside"),
        (changed("images.0.file_name", ""), "image 7: 'file_name' must stay inside"),
        (changed("images.0.file_name", 3), "image 7: 'file_name' must stay inside"),
        (changed("images.0.file_name", "gone.jpg"), r"gone\.jpg is missing"),
        (changed("images", []), "annotation 1: image_id 7 is not among 'images'"),
        (changed("annotations.0.image_id", 8), "annotation 1: image_id 8 is not among 'images'"),
        (changed("annotations.0.image_id", [7]), r"annotation 1: image_id \[7\] is not among"),
        (changed("annotations.1.category_id", 3), "annotation 908400535506: category_id 3 is not among 'categories'"),
        (changed("annotations.0.bbox", [1, 2, 3]), "annotation 1: 'bbox' must be 4 finite numbers"),
        (changed("annotations.0.bbox", [1, 2, 3, float("nan")]), "annotation 1: 'bbox' must be 4 finite numbers"),
        (changed("annotations.0.bbox", [1, 2, float("inf"), 4]), "annotation 1: 'bbox' must be 4 finite numbers"),
        (changed("annotations.0.bbox", [1, 2, 10**400, 4]), "annotation 1: 'bbox' must be 4 finite numbers"),
        (changed("annotations.0.bbox", [1, 2, "3", 4]), "annotation 1: 'bbox' must be 4 finite numbers"),
        (changed("annotations.0.bbox", None), "annotation 1: 'bbox' must be 4 finite numbers"),
        (changed("annotations.0.area", -1), "annotation 1: 'area' must be"),
        (changed("annotations.0.iscrowd", 2), "annotation 1: 'iscrowd' must be 0 or 1, got 2"),
        (changed("annotations.0.id", None), "annotation number 0 needs a whole number as 'id'"),
    ],
)
def test_bad_annotations_are_one_line_that_says_where(tmp_path: Path, document: Any, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        open_val(write_coco(tmp_path, document))
    assert "\n" not in str(caught.value)
    assert str(tmp_path) in str(caught.value)


def test_no_images_at_all(tmp_path: Path) -> None:
    document = {**coco_document(), "images": [], "annotations": []}
    with pytest.raises(UserError, match=r"split 'val2017' of .* has no images"):
        open_val(write_coco(tmp_path, document))


def test_size_must_agree_with_the_image(tmp_path: Path) -> None:
    images = open_val(write_coco(tmp_path))
    write_image(tmp_path / "val2017" / "a.jpg", (30, 20))
    with pytest.raises(UserError, match=r"a\.jpg is 20x30, but its annotation says 80x60"):
        images.load(0)


def write_list(root: Path, split: str = "test-dev2017", **more: Any) -> Path:
    document = {key: value for key, value in coco_document().items() if key != "annotations"}
    path = root / "annotations" / f"image_info_{split}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document | more))
    return root


def open_list(root: Path, split: str | None = "test-dev2017") -> Any:
    return open_data(f"coco:{root}", DataSection(val_split=split), role="val", annotated=False)


def test_a_list_of_images_without_annotations(tmp_path: Path) -> None:
    root = write_list(write_coco(tmp_path, split="val2017"))
    for name in ("a.jpg", "b.jpg"):
        write_image(root / "test2017" / name)
    images = open_list(root)
    assert (images.split, len(images), images.annotated) == ("test-dev2017", 2, False)
    assert (images.classes, images.category_ids) == (("dog", "cat"), (2, 9))
    assert images.name(0) == "test2017/a.jpg"  # test-dev2017 is a part of test2017
    assert sum(len(images.annotations(i)) for i in range(2)) == 0
    assert images.load(1).shape == (60, 80, 3)
    write_image(root / "test-dev2017" / "a.jpg")
    write_image(root / "test-dev2017" / "b.jpg")
    assert open_list(root).name(0) == "test-dev2017/a.jpg"


def test_a_list_serves_neither_training_nor_evaluation(tmp_path: Path) -> None:
    root = write_list(write_coco(tmp_path, split="val2017"))
    with pytest.raises(
        UserError, match=r"has no annotations .image_info_test-dev2017\.json.; `harness eval RUN --results-"
    ):
        open_val(root, val_split="test-dev2017")
    with pytest.raises(
        UserError, match=r"no split 'test-dev', did you mean 'test-dev2017'.*val2017, test-dev2017 .no ann"
    ):
        open_val(root, val_split="test-dev")
    assert open_list(root, None).split == "val2017"  # never by itself
    assert open_list(root, "val2017").annotated
    write_list(root, "val2017")
    assert open_list(root, "val2017").annotated  # annotations come first
    write_list(root, annotations=[{"id": 1}])
    with pytest.raises(UserError, match=r"test2017/a\.jpg is missing"):
        open_list(root)  # whatever the list says of objects


@pytest.mark.parametrize(("role", "count", "boxes", "crowds"), [("train", 166, 1580, 15), ("val", 188, 1692, 20)])
def test_real_coco(data_root: Path, role: Any, count: int, boxes: int, crowds: int) -> None:
    if not (data_root / "coco-mini").is_dir():
        pytest.skip("no coco-mini")
    images = open_data(f"coco:{data_root / 'coco-mini'}", DataSection(), role=role)
    found = [images.annotations(i) for i in range(len(images))]
    assert (len(images), len(images.classes)) == (count, 80)
    assert images.classes[0] == "person"
    assert images.classes[-1] == "toothbrush"
    assert sum(map(len, found)) == boxes
    assert sum(int(row.crowd.sum()) for row in found) == crowds
    assert not images.warnings
    assert sum(len(row) == 0 for row in found) == (2 if role == "val" else 0)
    assert all(images.load(i).shape[:2] == images.size(i) for i in range(0, count, 20))


def test_real_grey_images_become_rgb(data_root: Path) -> None:
    if not (data_root / "steel-mini").is_dir():
        pytest.skip("no steel-mini")
    images = open_data(f"coco:{data_root / 'steel-mini'}", DataSection(), role="val")
    assert (len(images), len(images.classes)) == (120, 8)
    image = images.load(0)
    assert image.shape == (144, 780, 3)
    assert np.array_equal(image[..., 0], image[..., 2])
