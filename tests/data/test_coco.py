from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask

from harness.core.errors import UserError
from harness.data import open_data
from harness.data.check import checked
from harness.data.readers import coco_reader
from harness.data.readers.folder import CLIPPED, NO_AREA, OUTSIDE, REPEATED_IMAGE, REPEATED_OBJECT
from harness.evaluation.coco_results import write_results
from harness.protocol.protocol import DataSection
from tests.data.folders import coco_document, write_coco, write_image


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
    assert images.warnings == {NO_AREA: 1, OUTSIDE: 1, CLIPPED: 1}
    assert images.warnings.examples[CLIPPED] == ["val2017/a.jpg object 1"]


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
        (changed("categories.0.name", ""), "category 9 needs a 'name'"),
        (changed("images.0.id", 3), "image id 3 occurs twice"),
        (changed("images.0.id", None), "image number 0 needs a whole number or a text as 'id'"),
        (changed("images.0.id", True), "image number 0 needs a whole number or a text as 'id'"),
        (changed("images.0.id", 2**63), "image number 0 needs a whole number or a text as 'id'"),
        (changed("images.0.width", -80), "image 7: width and height must be whole numbers above 0, got -80"),
        (changed("images.0.width", 80.5), "image 7: width and height must be whole numbers above 0, got 80.5"),
        (changed("images.0.height", "sixty"), "image 7: width and height"),
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
        (changed("annotations.0.id", None), "annotation number 0 needs a whole number or a text as 'id'"),
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


# --- files as people's tools write them --------------------------------------------------------------------------


def rows(*changes: dict[str, Any]) -> dict[str, Any]:
    """The document with these annotations, each a cat in the first image but for what it changes."""
    document = coco_document()
    document["annotations"] = [
        {"id": number, "image_id": 7, "category_id": 9, "bbox": [10, 10, 20, 20]} | change
        for number, change in enumerate(changes)
    ]
    return document


def read(root: Path, document: dict[str, Any]) -> Any:
    return open_val(write_coco(root, document))


@pytest.mark.parametrize(("width", "height"), [(80.0, 60.0), ("80", "60")])
def test_whole_numbers_in_any_spelling(tmp_path: Path, width: Any, height: Any) -> None:
    document = rows({"image_id": 7.0, "category_id": 9.0, "id": 3.0})
    document["images"][0] |= {"width": width, "height": height}
    images = read(tmp_path, document)
    assert images.size(0) == (60, 80)
    assert images.annotations(0).labels.tolist() == [1]
    assert not images.warnings


@pytest.mark.parametrize(
    "size", [{"width": 0, "height": 0}, {"width": None, "height": None}, {"width": 80, "height": None}]
)
def test_a_size_that_is_not_said_is_read_from_the_image(tmp_path: Path, size: dict[str, Any]) -> None:
    document = rows({})
    document["images"][0] |= size
    images = read(tmp_path, document)
    assert images.size(0) == (60, 80)
    assert images.warnings == {coco_reader.NO_SIZE: 1}


def test_ids_may_be_text(tmp_path: Path) -> None:
    document = rows({"id": "first", "image_id": "img-ö"}, {"id": "2", "image_id": "3", "category_id": "9"})
    document["images"][0]["id"] = "img-ö"
    images = read(tmp_path, document)
    assert [len(images.annotations(index)) for index in range(2)] == [1, 1]
    assert images.image_id(1) == 3
    assert 0 < images.image_id(0) < 2**52
    assert images.text_ids == {images.image_id(0): "img-ö"}


def test_text_ids_come_back_in_a_results_file(tmp_path: Path) -> None:
    document = rows({"image_id": "img-ö", "category_id": "kitty"})
    document["images"][0]["id"] = "img-ö"
    document["categories"][0]["id"] = "kitty"
    images = read(tmp_path / "set", document)
    found = {"boxes": np.array([[1, 2, 9, 9]], np.float32), "scores": np.ones(1), "labels": np.array([1])}
    none = {"boxes": np.zeros((0, 4)), "scores": np.zeros(0), "labels": np.zeros(0, int)}
    write_results(tmp_path / "out.json", images, [found, none])
    (row,) = json.loads((tmp_path / "out.json").read_text())
    assert (row["image_id"], row["category_id"]) == ("img-ö", "kitty")


def test_null_is_absent_and_counted(tmp_path: Path) -> None:
    images = read(tmp_path, rows({"area": None}, {"iscrowd": None}, {}))
    assert images.annotations(0).area.tolist() == [400, 400, 400]
    assert not images.annotations(0).crowd.any()
    assert images.warnings == {coco_reader.NULL: 2}


@pytest.mark.parametrize(
    ("mark", "expected"), [(0, False), (1, True), (True, True), ("1", True), ("false", False), (1.0, True)]
)
def test_flags_in_any_spelling(tmp_path: Path, mark: Any, expected: bool) -> None:
    images = read(tmp_path, rows({"iscrowd": mark, "area": "399.5"}))
    assert images.annotations(0).crowd.tolist() == [expected]
    assert images.annotations(0).area.tolist() == [399.5]


@pytest.mark.parametrize("change", [{"iscrowd": "yes"}, {"ignore": 2}, {"difficult": [1]}, {"area": "big"}])
def test_flags_that_mean_nothing_are_refused(tmp_path: Path, change: dict[str, Any]) -> None:
    (name,) = change
    with pytest.raises(UserError, match=f"annotation 0: '{name}' must be"):
        read(tmp_path, rows(change))


def test_an_object_marked_ignore_is_a_region_without_negatives(tmp_path: Path) -> None:
    images = read(tmp_path, rows({"ignore": 1}, {"ignore": 0}, {"difficult": True}))
    assert images.annotations(0).crowd.tolist() == [True, False, False]
    assert images.annotations(0).difficult.tolist() == [False, False, True]
    assert images.warnings == {coco_reader.IGNORED: 1, coco_reader.DIFFICULT: 1}


@pytest.mark.parametrize(
    "segmentation",
    [
        [[10, 20, 40, 20, 40, 35], [15, 30, 20, 35, 16, 33]],
        {"size": [60, 80], "counts": [10 * 60 + 20, 15, *[45, 15] * 29, 60 * 80 - 39 * 60 - 35]},
    ],
)
@pytest.mark.parametrize("absent", [True, False])
def test_a_box_that_is_missing_is_drawn_around_its_mask(tmp_path: Path, segmentation: Any, absent: bool) -> None:
    document = rows({"segmentation": segmentation, "bbox": None})
    if absent:
        del document["annotations"][0]["bbox"]
    images = read(tmp_path, document)
    assert images.annotations(0).boxes.tolist() == [[10, 20, 40, 35]]
    assert images.warnings == {coco_reader.FROM_MASK: 1}


@pytest.mark.parametrize(
    "segmentation",
    [None, [], [[1, 2, 3]], [[1, "x"]], {"size": [9, 9], "counts": [81]}, {"size": [60, 80], "counts": [-1, 4801]},
     {"size": [60, 80], "counts": ""}],
)  # fmt: skip
def test_a_mask_that_is_none_is_no_box(tmp_path: Path, segmentation: Any) -> None:
    with pytest.raises(UserError, match="annotation 0: 'bbox' must be 4 finite numbers x, y, w, h, got None"):
        read(tmp_path, rows({"segmentation": segmentation, "bbox": None}))


def test_one_file_under_two_ids_is_one_image_with_the_objects_of_both(tmp_path: Path) -> None:
    document = rows({}, {"image_id": 3}, {"image_id": 3, "bbox": [40, 30, 9, 9]})
    document["images"][1]["file_name"] = "a.jpg"
    images = read(tmp_path, document)
    assert [images.image_id(index) for index in range(len(images))] == [7]
    assert images.annotations(0).boxes.tolist() == [[10, 10, 30, 30], [40, 30, 49, 39]]
    assert images.warnings == {REPEATED_IMAGE: 1, REPEATED_OBJECT: 1}


def test_one_file_of_two_sizes_is_refused(tmp_path: Path) -> None:
    document = rows({}, {"image_id": 3, "bbox": [20, 20, 40, 40]})
    document["images"][1] |= {"file_name": "a.jpg", "width": 160, "height": 120}
    with pytest.raises(UserError, match=r"images 7 and 3 are both val2017/a\.jpg, of 80x60 and of 160x120; mend"):
        read(tmp_path, document)


def test_one_file_in_two_spellings_is_one_image_and_equal_objects_count_once(tmp_path: Path) -> None:
    document = rows({}, {"image_id": 3, "bbox": [10.0001, 10, 20, 20]})
    document["images"][1]["file_name"] = "./a.jpg"
    images = read(tmp_path, document)
    assert len(images) == 1
    assert len(images.annotations(0)) == 1


def test_compressed_masks_are_read_and_damaged_ones_refused(tmp_path: Path) -> None:
    box = np.zeros((60, 80), dtype=np.uint8, order="F")
    box[20:35, 10:40] = 1
    counts = mask.encode(box)["counts"].decode()
    found = read(tmp_path, rows({"bbox": None, "segmentation": {"size": [60, 80], "counts": counts}}))
    assert found.annotations(0).boxes.tolist() == [[10, 20, 40, 35]]
    for damaged in (counts[:5], "garbage", counts + "1", ""):
        with pytest.raises(UserError, match="annotation 0: 'bbox' must be 4 finite numbers"):
            read(tmp_path, rows({"bbox": None, "segmentation": {"size": [60, 80], "counts": damaged}}))


def test_an_image_of_unknown_size_that_cannot_be_read_is_left_to_the_check(tmp_path: Path) -> None:
    document = rows({})
    document["images"][0] |= {"width": 0, "height": 0}
    write_coco(tmp_path, document)
    (tmp_path / "val2017" / "a.jpg").write_bytes(b"no picture")
    images = open_val(tmp_path)
    with pytest.raises(UserError, match=r"a\.jpg cannot be decoded"):
        checked(images, DataSection(), None)
    assert len(checked(images, DataSection(unreadable="skip"), None)) == 1


def test_missing_images_are_counted(tmp_path: Path) -> None:
    write_coco(tmp_path)
    for name in ("a.jpg", "b.jpg"):
        (tmp_path / "val2017" / name).unlink()
    with pytest.raises(
        UserError, match=r"a\.jpg is missing, and so are 1 of the 2 images; put it there or take it out"
    ):
        open_val(tmp_path)


def test_ids_beyond_what_a_tensor_holds_are_text(tmp_path: Path) -> None:
    document = rows({"image_id": "9999999999999999999"})
    document["images"][0]["id"] = "9999999999999999999"
    assert 0 <= read(tmp_path, document).image_id(0) < 2**52


def test_categories_of_one_name_are_one_class(tmp_path: Path) -> None:
    document = rows({}, {"category_id": 12})
    document["categories"].append({"id": 12, "name": "cat"})
    images = read(tmp_path, document)
    assert (images.classes, images.category_ids) == (("dog", "cat"), (2, 9))
    assert images.annotations(0).labels.tolist() == [1, 1]
    assert images.warnings.examples == {coco_reader.SAME_NAME: ["cat (9, 12)"]}


def test_a_root_that_only_groups_is_no_class(tmp_path: Path) -> None:
    document = rows({})
    document["categories"] = [
        {"id": 0, "name": "pets", "supercategory": "none"},
        {"id": 9, "name": "cat", "supercategory": "pets"},
        {"id": 2, "name": "dog", "supercategory": "pets"},
    ]
    images = read(tmp_path, document)
    assert images.classes == ("dog", "cat")
    assert images.warnings.examples == {coco_reader.GROUPS: ["pets"]}
    document["annotations"][0]["category_id"] = 0  # used, so it is one
    assert read(tmp_path, document).classes == ("pets", "dog", "cat")


def test_a_category_may_be_its_own_group_and_ids_begin_at_0(tmp_path: Path) -> None:
    document = rows({"category_id": 0})
    document["categories"] = [
        {"id": n, "name": name, "supercategory": "person"} for n, name in enumerate(("person", "cat"))
    ]
    document["annotations"].append({"id": 5, "image_id": 7, "category_id": 1, "bbox": [1, 1, 9, 9]})
    images = read(tmp_path, document)
    assert (images.classes, images.category_ids) == (("person", "cat"), (0, 1))
    assert not images.warnings


@pytest.mark.parametrize(
    ("said", "lies"), [("sub\\A.jpg", "sub/A.jpg"), ("A.JPG", "A.jpg"), ("sub/a.JPEG", "sub/A.jpeg")]
)
def test_names_with_other_slashes_or_letters(tmp_path: Path, said: str, lies: str) -> None:
    document = rows({})
    document["images"][0]["file_name"] = said
    write_image(tmp_path / "val2017" / lies)
    write_coco(tmp_path, document)
    (tmp_path / "val2017" / "a.jpg").unlink()
    images = open_val(tmp_path)
    assert images.name(0) == f"val2017/{lies}"
    assert images.warnings == {coco_reader.OTHER_SPELLING: 1}


@pytest.mark.parametrize("said", ["val2017/a.jpg", "images/a.jpg", "images\\a.jpg"])
def test_names_from_the_data_folder_on(tmp_path: Path, said: str) -> None:
    document = rows({})
    document["images"][0]["file_name"] = said
    write_image(tmp_path / "images" / "a.jpg")
    images = read(tmp_path, document)
    assert images.name(0) == said.replace("\\", "/")
    assert images.warnings == {coco_reader.FROM_ROOT: 1}


def test_a_name_that_fits_two_files_in_other_letters_is_missing(tmp_path: Path) -> None:
    document = rows({})
    document["images"][0]["file_name"] = "PIC.jpg"
    for name in ("pic.jpg", "Pic.jpg"):
        write_image(tmp_path / "val2017" / name)
    if len(list((tmp_path / "val2017").iterdir())) < 2:
        pytest.skip("this file system takes the two names for one")
    with pytest.raises(UserError, match=r"PIC\.jpg is missing"):
        read(tmp_path, document)


def test_json_in_another_encoding(tmp_path: Path) -> None:
    write_coco(tmp_path)
    path = tmp_path / "annotations" / "instances_val2017.json"
    path.write_bytes(path.read_text().encode("utf-16"))
    assert len(open_val(tmp_path)) == 2


def test_an_image_stored_on_its_side(tmp_path: Path) -> None:
    write_coco(tmp_path, rows({}))
    exif = Image.Exif()
    exif[0x0112] = 6
    write_image(tmp_path / "val2017" / "a.jpg", (80, 60), exif=exif)  # shown as 60x80
    write_image(tmp_path / "val2017" / "b.jpg", (60, 80), exif=exif)  # its annotation counts stored pixels
    images = open_val(tmp_path)
    assert [images.load(index).shape for index in range(2)] == [(60, 80, 3)] * 2
