"""COCO files as they are exported: where each layout has its annotations and images."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from harness.core.errors import UserError
from harness.data import open_data
from harness.data.readers.coco_reader import FROM_ROOT, GROUPS
from harness.protocol.protocol import DataSection
from tests.data.folders import coco_document, write_image


def export(root: Path, layout: dict[str, str], document: Any = None) -> Path:
    """Annotation files with the folder of their images."""
    for path, images in layout.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(json.dumps(document or coco_document()))
        for name in ("a.jpg", "b.jpg"):
            write_image(root / images / name)
    return root


def open_role(root: Path, role: Any, **data: Any):
    return open_data(f"coco:{root}", DataSection(**data), role=role)


LAYOUTS = {
    "roboflow": {"train/_annotations.coco.json": "train", "valid/_annotations.coco.json": "valid"},
    "cvat": {
        "annotations/instances_train.json": "images/train", "annotations/instances_val.json": "images/val",
    },
    "plain": {"annotations/train.json": "train", "annotations/val.json": "val"},
    "plain, images apart": {"annotations/train.json": "images/train", "annotations/val.json": "images/val"},
}  # fmt: skip


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts(tmp_path: Path, layout: str) -> None:
    root = export(tmp_path / "pets", LAYOUTS[layout])
    for role, folder in zip(("train", "val"), LAYOUTS[layout].values(), strict=True):
        images = open_role(root, role)
        assert (images.split, images.name(0), images.size(0)) == (folder.split("/")[-1], f"{folder}/a.jpg", (60, 80))
        assert images.annotations(0).boxes.tolist() == [[10, 20, 40, 35.5], [0, 0, 80, 60]]
        assert images.load(1).shape == (60, 80, 3)


def test_one_folder_of_images_for_all_splits(tmp_path: Path) -> None:
    root = export(tmp_path, {"annotations/train.json": "images", "annotations/instances_default.json": "images"})
    assert open_role(root, "val", val_split="default").name(0) == "images/a.jpg"
    with pytest.raises(UserError, match=r"cannot tell the train split of .*it has default; name one with --train"):
        open_role(root, "train")  # beside instances_*.json, other names are of other things


def test_what_is_said_where_nothing_fits(tmp_path: Path) -> None:
    export(tmp_path, {"labels/train.json": "train", "annotations/captions_train.json": "train"})
    expected = (
        r"has no annotation file; expected annotations/instances_SPLIT\.json or annotations/SPLIT\.json with images in "
        r"SPLIT/, images/SPLIT/ or images/, or SPLIT/_annotations\.coco\.json beside its images"
    )
    with pytest.raises(UserError, match=expected):
        open_role(tmp_path, "train")


def test_a_root_that_only_groups_is_left_out(tmp_path: Path) -> None:
    document = coco_document()
    document["categories"] = [
        {"id": 0, "name": "pets", "supercategory": "none"},
        {"id": 2, "name": "dog", "supercategory": "pets"},
        {"id": 9, "name": "cat", "supercategory": "pets"},
    ]
    images = open_role(export(tmp_path, LAYOUTS["roboflow"], document), "train")
    assert images.classes == ("dog", "cat")
    assert images.warnings[GROUPS] == 1


def test_names_that_begin_at_a_folder_above(tmp_path: Path) -> None:
    for place in ("images/train", "train"):
        document = coco_document()
        for row in document["images"]:
            row["file_name"] = f"{place}/{row['file_name']}"
        root = export(tmp_path / place.replace("/", "-"), {"annotations/train.json": "images/train"}, document)
        images = open_role(root, "train")
        assert (images.name(0), images.warnings[FROM_ROOT]) == ("images/train/a.jpg", 2)


def test_names_that_leave_the_folder_are_refused(tmp_path: Path) -> None:
    document = coco_document()
    document["images"][0]["file_name"] = "../../secret.jpg"
    with pytest.raises(UserError, match=r"train/_annotations\.coco\.json: image 7: 'file_name' must stay inside"):
        open_role(export(tmp_path, LAYOUTS["roboflow"], document), "train")


def test_the_first_layout_counts_for_a_name(tmp_path: Path) -> None:
    root = export(tmp_path, {"annotations/instances_train.json": "train"})
    document = coco_document()
    document["images"] = document["images"][:1]
    export(root, {"train/_annotations.coco.json": "train", "valid/_annotations.coco.json": "valid"}, document)
    assert (len(open_role(root, "train")), open_role(root, "val").split) == (2, "valid")
