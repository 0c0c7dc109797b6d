"""Training and evaluation apart, and something to learn: what is refused, what is left out, what is said."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from harness.core.errors import UserError
from harness.data import splits
from harness.data.splits import open_splits, shared_images
from tests.data.folders import (
    coco_document,
    face,
    protocol,
    voc_object,
    voc_xml,
    write_coco,
    write_image,
    write_voc,
    write_wider,
)  # fmt: skip

DOG = voc_xml(voc_object("dog", 2, 2, 30, 30))


def opened(source: str, **data: Any):
    return open_splits(source, protocol(short_edge=60, long_edge=80, **data))


def voc(root: Path, train: str = "a\nb\nc", val: str = "d") -> str:
    write_voc(root, dict.fromkeys("abcd", DOG), {"train": train, "val": val})
    return f"voc:{root}"


def copy_image(root: Path, source: str, target: str) -> None:
    shutil.copyfile(root / "JPEGImages" / f"{source}.jpg", root / "JPEGImages" / f"{target}.jpg")


# --- apart -------------------------------------------------------------------------------------------------------


def test_splits_that_are_apart_say_nothing(tmp_path: Path) -> None:
    train, val = opened(voc(tmp_path))
    assert (len(train), len(val)) == (3, 1)
    assert not train.warnings
    assert not val.warnings


def test_an_image_named_in_both_is_refused_with_its_name_and_the_ways_out(tmp_path: Path) -> None:
    source = voc(tmp_path, "a\nb\nc", "c\nd")
    with pytest.raises(
        UserError, match=r"1 of 2 validation images .val. are trained on as well .train.: .*c\.jpg; "
    ) as caught:
        opened(source)
    for way in ("--train-split", "--val-split", "data.overlap=drop", "data.overlap=allow"):
        assert way in str(caught.value)


def test_an_image_in_both_may_be_left_out_of_training(tmp_path: Path) -> None:
    source = voc(tmp_path, "a\nb\nc", "c\nd")
    train, val = opened(source, overlap="drop")
    assert [train.name(i) for i in range(len(train))] == ["JPEGImages/a.jpg", "JPEGImages/b.jpg"]
    assert train.warnings == {splits.LEFT_TO_VAL: 1}
    assert len(val) == 2
    assert train.checksum() != opened(source, overlap="allow")[0].checksum()


def test_an_image_in_both_may_be_allowed_and_is_counted(tmp_path: Path) -> None:
    train, val = opened(voc(tmp_path, "a\nb\nc", "c\nd"), overlap="allow")
    assert (len(train), len(val)) == (3, 2)
    assert val.warnings == {splits.SHARED: 1}
    assert val.warnings.examples[splits.SHARED] == ["JPEGImages/c.jpg"]


def test_a_copy_under_another_name_is_the_same_image(tmp_path: Path) -> None:
    source = voc(tmp_path)
    copy_image(tmp_path, "b", "d")
    with pytest.raises(UserError, match=r"1 of 1 validation image .*JPEGImages/d\.jpg"):
        opened(source)
    (tmp_path / "JPEGImages" / "d.jpg").unlink()
    (tmp_path / "JPEGImages" / "d.jpg").symlink_to("b.jpg")
    with pytest.raises(UserError, match="are trained on as well"):
        opened(source)


def test_files_of_one_length_and_one_beginning_and_end_are_read_whole(tmp_path: Path) -> None:
    source = voc(tmp_path)
    train, val = opened(source)
    for name, middle in (("b", b"x"), ("d", b"y")):
        path = tmp_path / "JPEGImages" / f"{name}.jpg"
        path.write_bytes(b"0" * splits._ENDS + middle + b"0" * splits._ENDS)
    train, val = opened(source)
    assert shared_images(train, val) == []
    (tmp_path / "JPEGImages" / "d.jpg").write_bytes((tmp_path / "JPEGImages" / "b.jpg").read_bytes())
    assert shared_images(*opened(source, overlap="allow")) == [(1, 0)]


def test_coco_folders_with_the_same_names_are_no_overlap_and_copies_are(tmp_path: Path) -> None:
    for split in ("train2017", "val2017"):
        write_coco(tmp_path, split=split)
    assert opened(f"coco:{tmp_path}")[0].name(0) == "train2017/a.jpg"
    shutil.copyfile(tmp_path / "train2017" / "b.jpg", tmp_path / "val2017" / "a.jpg")
    with pytest.raises(UserError, match=r"1 of 2 validation images .val2017.*: val2017/a\.jpg"):
        opened(f"coco:{tmp_path}")


def test_one_split_for_both_roles_is_refused(tmp_path: Path) -> None:
    for split in ("train2017", "val2017"):
        write_coco(tmp_path, split=split)
    with pytest.raises(UserError, match=r"2 of 2 validation images .val2017. are trained on as well .val2017."):
        opened(f"coco:{tmp_path}", train_split="val2017", val_split="val2017")


def test_wider_copies_are_seen(tmp_path: Path) -> None:
    text = f"0--A/a.jpg\n1\n{face(2, 2, 30, 30)}"
    write_wider(tmp_path, {"train": text, "val": text})
    images = "images/0--A/a.jpg"
    shutil.copyfile(tmp_path / "WIDER_train" / images, tmp_path / "WIDER_val" / images)
    with pytest.raises(UserError, match="1 of 1 validation image"):
        opened(f"wider:{tmp_path}")


# --- something to learn ------------------------------------------------------------------------------------------


def coco(root: Path, train: Any, val: Any = None) -> str:
    write_coco(root, train, split="train2017")
    write_coco(root, val or coco_document(), split="val2017")
    return f"coco:{root}"


def rows(*changes: dict[str, Any]) -> dict[str, Any]:
    document = coco_document()
    document["annotations"] = [
        {"id": number, "image_id": 7, "category_id": 9, "bbox": [10, 10, 20, 20]} | change
        for number, change in enumerate(changes)
    ]
    return document


@pytest.mark.parametrize(
    ("document", "why"),
    [
        (rows(), "0 of 0 boxes in split train2017 can be learnt .none is annotated."),
        (rows({"iscrowd": 1}, {"iscrowd": 1}), "0 of 2 boxes .*2 crowd, ignored or difficult"),
        (rows({"bbox": [5, 5, 0.5, 0.5]}), "0 of 1 boxes .*1 below 1 px at the protocol's size"),
        (rows({"bbox": [200, 5, 9, 9]}, {"bbox": [5, 5, 0, 9]}), "0 of 2 boxes .*2 without an area inside the image"),
        (rows({}, *({"bbox": [5, 5, 0, 9]} for _ in range(40))), "1 of 41 boxes .*40 without an area"),
    ],
)
def test_nothing_to_learn_stops_before_anything_is_trained(tmp_path: Path, document: Any, why: str) -> None:
    source = coco(tmp_path, document)
    with pytest.raises(UserError, match=f"{why}.*nothing to train on; `harness data {source}` shows"):
        opened(source)


def test_difficult_objects_alone_are_learnt_or_not_as_the_protocol_says(tmp_path: Path) -> None:
    xml = voc_xml(voc_object("dog", 2, 2, 30, 30, difficult="1"))
    write_voc(tmp_path, {"a": xml, "b": DOG}, {"train": "a", "val": "b"})
    assert not opened(f"voc:{tmp_path}")[0].warnings
    with pytest.raises(UserError, match="1 crowd, ignored or difficult"):
        opened(f"voc:{tmp_path}", difficult="ignore")


def test_small_objects_are_counted(tmp_path: Path) -> None:
    train, _ = opened(coco(tmp_path, rows({}, {"bbox": [5, 5, 0.5, 9]}, {"category_id": 2})))
    assert train.warnings == {splits.TOO_SMALL: 1}
    assert train.warnings.examples[splits.TOO_SMALL] == ["train2017/a.jpg"]


def test_classes_that_one_split_lacks_are_named(tmp_path: Path) -> None:
    train, val = opened(coco(tmp_path, rows({}), rows({}, {"category_id": 2})))
    assert not train.warnings
    assert val.warnings == {splits.ONLY_THERE: 1}
    assert val.warnings.examples[splits.ONLY_THERE] == ["dog"]
    train, val = opened(coco(tmp_path, rows({}), rows({})))
    assert train.warnings == {splits.UNLEARNT: 1}
    assert train.warnings.examples[splits.UNLEARNT] == ["dog"]
    assert not val.warnings


def test_a_validation_split_without_objects_is_said(tmp_path: Path) -> None:
    _, val = opened(coco(tmp_path, rows({}, {"category_id": 2}), rows({"iscrowd": 1})))
    assert val.warnings == {splits.NOTHING_TO_FIND: 1}


def test_class_names_that_look_alike_are_said(tmp_path: Path) -> None:
    xml = voc_xml(voc_object("dog", 2, 2, 30, 30), voc_object("Dog ", 2, 2, 40, 40), voc_object("cat", 2, 2, 9, 9))
    write_voc(tmp_path, {"a": xml, "b": DOG}, {"train": "a", "val": "b"})
    train, _ = opened(f"voc:{tmp_path}")
    assert train.warnings == {splits.ALIKE: 2}
    assert train.warnings.examples[splits.ALIKE] == ["Dog", "dog"]


def test_different_classes_are_refused_with_a_way_out(tmp_path: Path) -> None:
    other = coco_document()
    other["categories"] = [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}]
    other["annotations"] = [{"id": 1, "image_id": 7, "category_id": 1, "bbox": [1, 1, 20, 20]}]
    source = coco(tmp_path, rows({}, {"category_id": 2}), other)
    with pytest.raises(UserError, match=r"different classes \(their order\); .*--set 'data\.classes="):
        opened(source)
    train, val = opened(source, classes=("cat", "dog"))
    assert train.classes == val.classes == ("cat", "dog")
    assert train.annotations(0).labels.tolist() == [0, 1]
    assert val.annotations(0).labels.tolist() == [0]


def test_chosen_classes(tmp_path: Path) -> None:
    source = coco(tmp_path, rows({}, {"category_id": 2}, {"category_id": 2}))
    train, val = opened(source, classes=("dog",))
    assert (train.classes, train.category_ids) == (("dog",), (2,))
    assert train.annotations(0).labels.tolist() == [0, 0]
    assert train.warnings["objects of classes that are not chosen, left out"] == 1
    assert len(val.annotations(0)) == 1  # the crowd
    with pytest.raises(UserError, match=r"data\.classes: .* has no class 'dogs', did you mean 'dog'.; it has dog, cat"):
        opened(source, classes=("dogs",))
    with pytest.raises(UserError, match=r"data\.classes: shapes has its own classes"):
        open_splits("shapes", protocol(short_edge=64, long_edge=64, classes=("disc",)))


def test_a_chosen_class_may_be_named_in_one_split_alone(tmp_path: Path) -> None:
    other = rows({"category_id": 2})
    other["categories"] = [{"id": 2, "name": "dog"}]
    source = coco(tmp_path, rows({}, {"category_id": 2}), other)
    train, val = opened(source, classes=("cat", "dog"))
    assert train.classes == val.classes == ("cat", "dog")
    assert val.annotations(0).labels.tolist() == [1]


def test_objects_that_repeat_another_are_counted_and_kept(tmp_path: Path) -> None:
    train, _ = opened(coco(tmp_path, rows({}, {}, {"bbox": [10.01, 10, 20, 20]}, {"category_id": 2})))
    assert train.warnings == {splits.REPEATED: 2}
    assert len(train.annotations(0)) == 4


def test_thousands_of_files_of_one_length_are_read_once_each(tmp_path: Path, monkeypatch: Any) -> None:
    write_voc(tmp_path, dict.fromkeys("abcd", DOG), {"train": "a\nb", "val": "c\nd"})
    for name in "abcd":
        (tmp_path / "JPEGImages" / f"{name}.jpg").write_bytes(b"0" * 9000 + name.encode() + b"0" * 9000)
    read: list[str] = []
    whole = splits._whole
    monkeypatch.setattr(splits, "_whole", lambda path: (read.append(path.name), whole(path))[1])
    opened(f"voc:{tmp_path}")
    assert sorted(read) == ["a.jpg", "b.jpg", "c.jpg", "d.jpg"]


def test_a_broken_file_is_no_business_of_the_overlap(tmp_path: Path) -> None:
    source = voc(tmp_path)
    write_image(tmp_path / "JPEGImages" / "d.jpg")
    (tmp_path / "JPEGImages" / "d.jpg").write_bytes(b"")
    assert len(opened(source)[1]) == 1
