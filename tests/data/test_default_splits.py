"""Which splits are taken where nobody names any: exact names win, and never two of which one lies within the other."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from harness.core.errors import UserError
from harness.data import open_data
from harness.protocol.protocol import DataSection
from tests.data.folders import voc_object, voc_xml, write_coco, write_voc

VOC_NAMES = {"train": "a", "val": "b", "trainval": "a\nb", "test": "c"}


def voc(root: Path, *splits: str) -> str:
    xml = voc_xml(voc_object("dog", 2, 2, 9, 9))
    write_voc(root, dict.fromkeys("abc", xml), {split: VOC_NAMES[split] for split in splits})
    return f"voc:{root}"


def coco(root: Path, *splits: str) -> str:
    for split in splits:
        write_coco(root, split=split)
    return f"coco:{root}"


def chosen(source: str, **data: Any) -> tuple[str, str]:
    """The splits of training and evaluation; a question mark for one that has to be named."""

    def split(role: Any) -> str:
        try:
            return open_data(source, DataSection(**data), role=role).split
        except UserError as error:
            return "?" if f"name one with --{role}-split" in str(error) else str(error)

    return split("train"), split("val")


@pytest.mark.parametrize(
    ("splits", "expected"),
    [
        (["train", "val", "trainval", "test"], ("trainval", "test")),
        (["train", "val", "trainval"], ("train", "val")),  # VOC's official lists without those of test
        (["train", "val"], ("train", "val")),
        (["train", "test"], ("train", "test")),
        (["trainval", "test"], ("trainval", "test")),
        (["trainval", "val"], ("?", "val")),
        (["test"], ("?", "test")),
    ],
)
def test_voc(tmp_path: Path, splits: list[str], expected: tuple[str, str]) -> None:
    assert chosen(voc(tmp_path, *splits)) == expected


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        ({"val_split": "val"}, ("train", "val")),
        ({"val_split": "trainval"}, ("?", "trainval")),
        ({"train_split": "trainval"}, ("trainval", "test")),
        ({"train_split": "val"}, ("val", "test")),
    ],
)
def test_a_named_split_decides_on_the_other(tmp_path: Path, data: Any, expected: tuple[str, str]) -> None:
    assert chosen(voc(tmp_path, "train", "val", "trainval", "test"), **data) == expected


def test_years_without_a_test_split(tmp_path: Path) -> None:
    for year in ("VOC2007", "VOC2012"):
        voc(tmp_path / year, "train", "val", "trainval")
    assert chosen(f"voc:{tmp_path}") == ("VOC2007/train+VOC2012/train", "VOC2007/val+VOC2012/val")


@pytest.mark.parametrize(
    ("splits", "expected"),
    [
        (["trainval", "test"], ("trainval", "test")),
        (["trainval", "val"], ("?", "val")),
        (["train", "val", "trainval", "test"], ("train", "val")),
        (["train", "valid"], ("train", "valid")),
        (["train", "test"], ("train", "test")),
        (["train2014", "val2014", "train2017", "val2017"], ("train2017", "val2017")),
        (["cars_train", "cars_val", "cars_trainval"], ("cars_train", "cars_val")),
        (["train_a", "train_b", "val"], ("?", "val")),
        (["minitrain2017", "val2017"], ("minitrain2017", "val2017")),
        (["monday", "tuesday"], ("?", "?")),
    ],
)
def test_coco(tmp_path: Path, splits: list[str], expected: tuple[str, str]) -> None:
    assert chosen(coco(tmp_path, *splits)) == expected


def test_coco_beside_a_named_split(tmp_path: Path) -> None:
    source = coco(tmp_path, "train", "val", "trainval", "test")
    assert chosen(source, train_split="trainval") == ("trainval", "test")
    assert chosen(source, val_split="test") == ("train", "test")
    assert chosen(source, val_split="val") == ("train", "val")
