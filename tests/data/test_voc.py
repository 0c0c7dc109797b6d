from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from harness.core.errors import UserError
from harness.data import open_data
from harness.data.readers import voc
from harness.data.readers.folder import CLIPPED, NO_AREA, REPEATED_IMAGE
from harness.protocol.protocol import DataSection
from tests.data.folders import voc_object, voc_xml, write_image, write_voc

ANNOTATIONS = {
    "one": voc_xml(voc_object("dog", 11, 21, 40, 35), voc_object("cat", "1.5", 1, 80, "60.5", difficult="1")),
    "two": voc_xml(voc_object("ant", 5, 5, 5, 5), voc_object("dog", 3, 3, 9, 2), voc_object("dog", 70, 50, 99, 99)),
    "three": voc_xml(voc_object("zebra", 1, 1, 2, 2)),
}
SPLITS = {"trainval": "one\ntwo\n", "test": "three\n"}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write_voc(tmp_path / "farm", ANNOTATIONS, SPLITS)


def open_role(root: Path, role: Any = "train", **data: Any):
    return open_data(f"voc:{root}", DataSection(**data), role=role)


def test_counts_pixels_from_one_with_corners_inside(root: Path) -> None:
    images = open_role(root)
    assert (images.title, images.split, len(images)) == ("farm", "trainval", 2)
    assert images.name(0) == "JPEGImages/one.jpg"
    assert images.size(0) == (60, 80)
    assert images.load(0).shape == (60, 80, 3)
    found = images.annotations(0)
    assert found.boxes.tolist() == [[10, 20, 40, 35], [0.5, 0, 80, 60]]
    assert found.area.tolist() == [450, 79.5 * 60]
    assert found.difficult.tolist() == [False, True]
    assert not found.crowd.any()


def test_boxes_without_area_are_dropped_and_counted(root: Path) -> None:
    images = open_role(root)
    assert images.annotations(1).boxes.tolist() == [[69, 49, 80, 60]]
    assert images.annotations(1).labels.tolist() == [images.classes.index("dog")]
    assert images.warnings == {NO_AREA: 2, CLIPPED: 1}
    assert images.warnings.lines()[1] == f"2 {NO_AREA} (JPEGImages/two.jpg object 1, JPEGImages/two.jpg object 2)"


def test_classes_are_those_of_every_split(root: Path) -> None:
    assert open_role(root).classes == open_role(root, "val").classes == ("ant", "cat", "dog", "zebra")
    assert open_role(root, train_images=1).classes == ("ant", "cat", "dog", "zebra")
    write_voc(root, {"four": voc_xml(voc_object("bee", 1, 1, 5, 5))}, {"mine": "four\n"})
    data = {"train_split": "mine"}
    assert open_role(root, **data).classes == open_role(root, "val", **data).classes == (
        "ant", "bee", "cat", "dog", "zebra"
    )  # fmt: skip


def test_annotations_of_another_split_may_be_held_back(root: Path) -> None:
    (root / "Annotations" / "three.xml").unlink()
    assert open_role(root).classes == ("ant", "cat", "dog")
    with pytest.raises(UserError, match=r"annotation file .*three\.xml cannot be read: No such file"):
        open_role(root, "val")


def test_default_splits_fall_back(tmp_path: Path) -> None:
    root = write_voc(tmp_path, ANNOTATIONS, {"train": "one\n", "val": "two\n"})
    assert open_role(root).split == "train"
    assert open_role(root, "val").split == "val"
    assert open_role(root, "val", val_split="train").split == "train"
    with pytest.raises(UserError, match=r"no split 'vol', did you mean 'val'.*it has train, val"):
        open_role(root, "val", val_split="vol")
    (root / "ImageSets" / "Main" / "val.txt").unlink()
    with pytest.raises(UserError, match=r"no default val split; it has train"):
        open_role(root, "val")


def test_lists_of_single_classes_have_a_mark_behind_the_id(root: Path) -> None:
    write_voc(root, {"a 1b": voc_xml(voc_object("dog", 1, 1, 5, 5))}, {"dog_val": "one  1\r\n\r\nthree -1\na 1b\n"})
    images = open_role(root, "val", val_split="dog_val")
    assert [images.name(i) for i in range(3)] == ["JPEGImages/one.jpg", "JPEGImages/three.jpg", "JPEGImages/a 1b.jpg"]


def test_checksum_follows_content(root: Path, tmp_path: Path) -> None:
    other = write_voc(tmp_path / "copy", ANNOTATIONS, SPLITS)
    assert open_role(root).checksum() == open_role(other).checksum() != open_role(root, "val").checksum()
    (other / "Annotations" / "two.xml").write_text(voc_xml())
    assert open_role(root).checksum() != open_role(other).checksum()


def test_image_ids_are_unique_and_survive_truncation(root: Path) -> None:
    ids = [open_role(root).image_id(i) for i in range(2)]
    assert len(set(ids)) == 2
    assert open_role(root, train_images=1).image_id(0) == ids[0]


CHECKSUMS = ["a871275ccfea", "3de462e78052"]
UNION = "VOC2007/trainval+VOC2012/trainval"


@pytest.fixture
def devkit(tmp_path: Path) -> Path:
    """Two years; both have an image named "same", and neither has every class."""
    write_voc(
        tmp_path / "VOCdevkit" / "VOC2007",
        {"one": ANNOTATIONS["one"], "same": voc_xml(voc_object("ant", 1, 1, 9, 9)), "last": ANNOTATIONS["three"]},
        {"trainval": "same\none\n", "test": "last\n"},
    )
    write_voc(
        tmp_path / "VOCdevkit" / "VOC2012",
        {"same": voc_xml(voc_object("bee", 2, 2, 9, 9), voc_object("cat", 1, 1, 50, 50)), "2012_1": ANNOTATIONS["two"]},
        {"trainval": "same\n2012_1\n", "train": "same\n", "test": "hidden\n"},
    )
    (tmp_path / "VOCdevkit" / "results").mkdir()
    return tmp_path / "VOCdevkit"


def test_a_union_of_years(devkit: Path) -> None:
    train = open_role(devkit, train_split=UNION, val_split="VOC2007/test")
    assert (train.title, train.split, len(train)) == ("VOCdevkit", UNION, 4)
    assert [train.name(i) for i in range(4)] == [
        "VOC2007/JPEGImages/same.jpg", "VOC2007/JPEGImages/one.jpg",
        "VOC2012/JPEGImages/same.jpg", "VOC2012/JPEGImages/2012_1.jpg",
    ]  # fmt: skip
    assert len({train.image_id(i) for i in range(4)}) == 4
    labels = [[train.classes[label] for label in train.annotations(i).labels] for i in range(4)]
    assert labels == [["ant"], ["dog", "cat"], ["bee", "cat"], ["dog"]]
    assert [train.load(i).shape for i in range(4)] == [(60, 80, 3)] * 4
    assert train.warnings == {NO_AREA: 2, CLIPPED: 1}
    assert len(open_role(devkit, train_split=UNION, train_images=3)) == 3


def test_a_union_is_the_default_where_there_are_years(devkit: Path) -> None:
    train, test = open_role(devkit), open_role(devkit, "val")
    assert (train.split, test.split) == (UNION, "VOC2007/test")
    assert train.classes == test.classes == ("ant", "bee", "cat", "dog", "zebra")
    named = open_role(devkit, train_split=UNION, val_split="VOC2007/test")
    assert (named.classes, named.checksum()) == (train.classes, train.checksum())
    (devkit / "VOC2012").rename(devkit / "kept")
    assert open_role(devkit).split == "VOC2007/trainval"
    assert open_role(devkit).classes == open_role(devkit, "val").classes == ("ant", "cat", "dog", "zebra")


def test_both_roles_see_the_classes_of_every_year_in_use(devkit: Path) -> None:
    data = {"train_split": "VOC2012/train", "val_split": "VOC2007/trainval"}
    train, val = open_role(devkit, **data), open_role(devkit, "val", **data)
    assert train.classes == val.classes == ("ant", "bee", "cat", "dog", "zebra")
    only = {"train_split": "VOC2007/trainval", "val_split": "VOC2007/test"}
    assert open_role(devkit, **only).classes == ("ant", "cat", "dog", "zebra")


def test_the_first_year_in_a_union_is_the_same_as_alone(devkit: Path) -> None:
    year, alone = open_role(devkit, train_split="VOC2007/trainval"), open_role(devkit / "VOC2007")
    assert [year.image_id(i) for i in range(2)] == [alone.image_id(i) for i in range(2)]
    assert [year.name(i) for i in range(2)] == [f"VOC2007/{alone.name(i)}" for i in range(2)]
    assert year.annotations(1).boxes.tolist() == alone.annotations(1).boxes.tolist()


def test_splits_of_a_plain_set_may_be_joined_too(root: Path) -> None:
    images = open_role(root, train_split="trainval+test")
    assert (len(images), images.split) == (3, "trainval+test")
    write_voc(root, {}, {"a+b": "one\n"})
    assert len(open_role(root, train_split="a+b")) == 1  # a name that is there is no union


@pytest.mark.parametrize(
    ("split", "message"),
    [
        ("trainval", "no split 'trainval', did you mean 'VOC20.*it has VOC2007/test, VOC2007/trainval, VOC2012/test"),
        ("VOC2007/trainval+VOC2012/trainvall", "no split 'VOC2012/trainvall', did you mean 'VOC2012/trainval'"),
        ("VOC2007/trainval+", "no split ''; it has"),
        ("../VOC2007/trainval", "no split '../VOC2007/trainval'"),
        ("VOC2012/test", r"VOC2012.Annotations.hidden\.xml cannot be read"),
    ],
)
def test_a_bad_union_is_one_line(devkit: Path, split: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        open_role(devkit, train_split=split)
    assert "\n" not in str(caught.value)


def test_years_without_the_default_splits(tmp_path: Path) -> None:
    write_voc(tmp_path / "VOC2012", ANNOTATIONS, {"trainval": "one\n", "val": "two\n"})
    assert open_role(tmp_path, "val").split == "VOC2012/val"
    with pytest.raises(
        UserError, match=r"no default train split; it has VOC2012/trainval, VOC2012/val .*--train-split"
    ):
        open_role(tmp_path)  # trainval holds what is evaluated
    assert open_role(tmp_path, train_split="VOC2012/trainval").classes == open_role(tmp_path, "val").classes


def test_a_plain_set_is_read_as_ever(root: Path) -> None:
    """Run ids hang on these checksums; bytes of pictures do not count, their lengths do, so they are fixed here."""
    for name in ("one", "two", "three"):
        (root / "JPEGImages" / f"{name}.jpg").write_bytes(b"x" * 100)
    assert [open_role(root, role).checksum()[:12] for role in ("train", "val")] == CHECKSUMS


BOMB = '<!DOCTYPE a [<!ENTITY x "ha"><!ENTITY y "&x;&x;">]><annotation>&y;</annotation>'
EXTERNAL = '<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/passwd">]><annotation>&x;</annotation>'


@pytest.mark.parametrize(
    ("xml", "message"),
    [
        ("<annotation>", "not plain well-formed XML"),
        ("", "not plain well-formed XML"),
        ('<?xml version="1.0" encoding="none"?><a/>', "not plain well-formed XML"),
        (BOMB, "not plain well-formed XML: EntitiesForbidden"),
        (EXTERNAL, "not plain well-formed XML: EntitiesForbidden"),
        (voc_xml(size="<size><width>80</width></size>"), "'height' must be a number, got None"),
        (voc_xml(size="<size><width>80</width><height>-1</height></size>"), "size must be whole numbers above 0"),
        (voc_xml(size="<size><width>80</width><height>1e300</height></size>"), "size must be whole numbers above 0"),
        (voc_xml(voc_object("", 1, 1, 2, 2)), "object 1 has no 'name'"),
        (voc_xml("<object><name>dog</name></object>"), "object 1 has no 'bndbox'"),
        (voc_xml(voc_object("dog", 1, 1, 9, 9), voc_object("dog", "x", 1, 2, 2)), "object 2: 'xmin' must be a number"),
        (voc_xml(voc_object("dog", 1, "nan", 2, 2)), "object 1: 'ymin' must be a number, got 'nan'"),
        (voc_xml(voc_object("dog", 1, 1, "inf", 2)), "object 1: 'xmax' must be a number, got 'inf'"),
        (voc_xml(voc_object("dog", 1, 1, 2, "")), "object 1: 'ymax' must be a number"),
        (voc_xml(voc_object("dog", 1, 1, 2, 2, difficult="yes")), "object 1: 'difficult' must be 0 or 1, got 'yes'"),
    ],
)
def test_bad_annotations_are_one_line_that_says_where(root: Path, xml: str, message: str) -> None:
    (root / "Annotations" / "two.xml").write_text(xml)
    with pytest.raises(UserError, match=message) as caught:
        open_role(root)
    assert "two.xml" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("one\n../one\n", r"trainval\.txt, line 2: '../one' must stay inside"),
        ("/one\n", "line 1: '/one' must stay inside"),
        ("missing\n", r"missing\.xml cannot be read"),
        ("\n", "split 'trainval' of .* has no images"),
    ],
)
def test_bad_split_files(root: Path, text: str, message: str) -> None:
    (root / "ImageSets" / "Main" / "trainval.txt").write_text(text)
    with pytest.raises(UserError, match=message):
        open_role(root)


def test_binary_split_file(root: Path) -> None:
    (root / "ImageSets" / "Main" / "trainval.txt").write_bytes(b"\xff\xff")
    with pytest.raises(UserError, match="is not UTF-8 text"):
        open_role(root)


def test_missing_image_and_no_class_at_all(root: Path, tmp_path: Path) -> None:
    (root / "JPEGImages" / "two.jpg").unlink()
    with pytest.raises(UserError, match=r"two\.jpg is missing"):
        open_role(root)
    write_image(root / "JPEGImages" / "two.png")
    assert open_role(root).name(1) == "JPEGImages/two.png"
    with pytest.raises(UserError, match="no class to learn"):
        open_role(write_voc(tmp_path / "none", {"one": voc_xml()}, {"trainval": "one\n"}))


def test_real_blood_cells(data_root: Path) -> None:
    if not (data_root / "bccd").is_dir():
        pytest.skip("no bccd")
    train, test = (open_role(data_root / "bccd", role) for role in ("train", "val"))
    assert (train.split, len(train), test.split, len(test)) == ("trainval", 292, "test", 72)
    assert train.classes == test.classes == ("Platelets", "RBC", "WBC")
    assert sum(len(train.annotations(i)) for i in range(292)) == 3943 - 2
    assert sum(len(test.annotations(i)) for i in range(72)) == 945
    assert train.warnings == {"boxes without area dropped": 2}
    assert not test.warnings
    assert test.load(0).shape == (480, 640, 3)


def test_real_labelme_export(data_root: Path) -> None:
    if not (data_root / "voc-mini").is_dir():
        pytest.skip("no voc-mini")
    images = open_role(data_root / "voc-mini")
    assert (len(images), images.classes) == (3, ("bus", "car", "dog", "person"))
    assert images.annotations(0).boxes[0].tolist() == pytest.approx([190, 106.369, 313, 329.369], abs=1e-3)
    assert not any(images.annotations(i).difficult.any() for i in range(3))
    assert all(images.load(i).shape[:2] == images.size(i) for i in range(3))


# --- files as people have them -----------------------------------------------------------------------------------

DOG = voc_xml(voc_object("dog", 2, 2, 30, 30))


def listed(root: Path, text: str | bytes, *names: str) -> Any:
    """A data set with images of these names and one split, `text`."""
    write_voc(root, dict.fromkeys(names, DOG), {"mine": ""})
    content = text.encode() if isinstance(text, str) else text
    (root / "ImageSets" / "Main" / "mine.txt").write_bytes(content)
    return open_role(root, train_split="mine")


def stems(images: Any) -> list[str]:
    return [Path(images.name(index)).stem for index in range(len(images))]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("photo 1\nphoto 2\n", ["photo 1", "photo 2"]),
        ("photo 1 1\nphoto 2  -1\n", ["photo 1", "photo 2"]),
        ("photo 1\t1\nphoto 2\t-1\n", ["photo 1", "photo 2"]),
        ("photo 1 \r\nphoto 2\r\n", ["photo 1", "photo 2"]),
        ("photo 1\rphoto 2\r", ["photo 1", "photo 2"]),
        ("\ufeffphoto 2", ["photo 2"]),
        ("photo 1".encode("utf-16"), ["photo 1"]),
    ],
)
def test_names_with_a_blank_and_a_number(tmp_path: Path, text: str | bytes, expected: list[str]) -> None:
    images = listed(tmp_path, text, "photo 1", "photo 2")
    assert stems(images) == expected
    assert not images.warnings


def test_a_name_that_is_there_comes_before_a_mark(tmp_path: Path) -> None:
    images = listed(tmp_path, "photo 1\nphoto 0\nother -1\n", "photo", "photo 1", "other")
    assert stems(images) == ["photo 1", "photo", "other"]
    assert images.warnings == {voc.NUMBERED: 1}
    assert images.warnings.examples[voc.NUMBERED] == ["photo 1"]


def test_names_may_have_their_suffix_in_a_list(tmp_path: Path) -> None:
    images = listed(tmp_path, "a.jpg\nb.JPG 1\nv1.2\n", "a", "b", "v1.2")
    assert stems(images) == ["a", "b", "v1.2"]
    assert images.warnings == {voc.SPELLED_OUT: 2}
    with pytest.raises(UserError, match=r"Annotations/c\.jpg\.xml cannot be read"):
        listed(tmp_path, "c.jpg", "a")


def test_a_name_twice_is_read_once_and_counted(tmp_path: Path) -> None:
    images = listed(tmp_path, "a\nb\na\na\n", "a", "b")
    assert stems(images) == ["a", "b"]
    assert images.warnings == {REPEATED_IMAGE: 2}
    union = open_role(tmp_path, train_split="mine+mine")
    assert (stems(union), union.warnings) == (["a", "b"], {REPEATED_IMAGE: 6})


@pytest.mark.parametrize("suffix", [".bmp", ".webp", ".tif", ".tiff", ".gif", ".png", ".jpeg", ".Jpg", ".JPG", ".PnG"])
def test_images_of_every_format_and_spelling(tmp_path: Path, suffix: str) -> None:
    listed(tmp_path, "a", "a")
    (tmp_path / "JPEGImages" / "a.jpg").unlink()
    write_image(tmp_path / "JPEGImages" / f"a{suffix}")
    (tmp_path / "Annotations" / "a.xml").rename(tmp_path / "Annotations" / "a.XML")
    images = open_role(tmp_path, train_split="mine")
    assert images.name(0) == f"JPEGImages/a{suffix}"
    assert images.load(0).shape == (60, 80, 3)


def test_a_missing_image_names_all_that_was_looked_for(tmp_path: Path) -> None:
    listed(tmp_path, "a", "a")
    (tmp_path / "JPEGImages" / "a.jpg").unlink()
    with pytest.raises(UserError, match=r"JPEGImages/a\.jpg is missing, and so are those of jpeg, png, .*webp; put it"):
        open_role(tmp_path, train_split="mine")


def test_boxes_from_0_hold_their_last_pixel_without_a_stated_size(tmp_path: Path) -> None:
    xml = voc_xml(voc_object("dog", 0, 0, 79, 30), voc_object("dog", 10, 20, 79, 59), size="")
    images = open_role(write_voc(tmp_path, {"a": xml}, {"train": "a"}))
    assert images.annotations(0).boxes.tolist() == [[0, 0, 80, 31], [10, 20, 80, 60]]


def test_an_annotation_of_another_kind_is_refused(tmp_path: Path) -> None:
    for text, root in (("<html><body/></html>", "html"), (f"<annotations>{DOG}</annotations>", "annotations")):
        write_voc(tmp_path, {"a": text}, {"train": "a"})
        with pytest.raises(UserError, match=f"a.xml is no VOC annotation: it begins with <{root}>"):
            open_role(tmp_path)
    write_voc(tmp_path, {"a": "\n" + DOG.replace("object>", "Object>")}, {"train": "a"})
    assert len(open_role(tmp_path).annotations(0)) == 1


def test_of_several_files_of_one_name_the_first_is_read_and_they_are_counted(tmp_path: Path) -> None:
    listed(tmp_path, "a", "a")
    for suffix in ("JPG", "png"):
        write_image(tmp_path / "JPEGImages" / f"a.{suffix}")
    images = open_role(tmp_path, train_split="mine")
    assert images.name(0) == "JPEGImages/a.jpg"
    assert images.warnings.examples == {voc.SEVERAL: ["JPEGImages/a.jpg of 3"]}


def test_names_spelled_alike(tmp_path: Path) -> None:
    images = listed(tmp_path, "B\u00e4r\n", "ba\u0308r")  # accents apart, as on a Mac
    assert images.name(0) == "JPEGImages/ba\u0308r.jpg"


@pytest.mark.parametrize(
    "size", ["", "<size/>", "<size><width/><height/></size>", "<size><width>0</width><height>0</height></size>"]
)
def test_a_size_that_is_not_said_is_read_from_the_image(tmp_path: Path, size: str) -> None:
    write_voc(tmp_path, {"a": voc_xml(voc_object("dog", 2, 2, 30, 30), size=size)}, {"train": "a"})
    images = open_role(tmp_path)
    assert images.size(0) == (60, 80)
    assert images.warnings == {voc.NO_SIZE: 1}


def test_a_namespace_means_nothing(tmp_path: Path) -> None:
    xml = DOG.replace("<annotation>", '<annotation xmlns="http://example.org/voc">')
    write_voc(tmp_path, {"a": xml}, {"train": "a"})
    assert open_role(tmp_path).annotations(0).boxes.tolist() == [[1, 1, 30, 30]]


@pytest.mark.parametrize(
    ("mark", "expected"), [("0", False), ("1", True), ("", False), ("true", True), ("False", False)]
)
def test_difficult_in_any_spelling(tmp_path: Path, mark: str, expected: bool) -> None:
    write_voc(tmp_path, {"a": voc_xml(voc_object("dog", 2, 2, 30, 30, difficult=mark))}, {"train": "a"})
    assert open_role(tmp_path).annotations(0).difficult.tolist() == [expected]


def origin(root: Path, *boxes: tuple[float, ...]) -> Any:
    xml = voc_xml(*(voc_object("dog", *box) for box in boxes))
    return open_role(write_voc(root, {"a": xml, "b": xml}, {"train": "a", "val": "b"}))


def test_boxes_that_begin_at_0_are_counted_from_0(tmp_path: Path) -> None:
    images = origin(tmp_path, (0, 0, 40, 30), (10, 20, 80, 60))
    assert images.annotations(0).boxes.tolist() == [[0, 0, 40, 30], [10, 20, 80, 60]]
    assert images.warnings == {voc.FROM_ZERO: 1}
    assert images.warnings.examples[voc.FROM_ZERO] == ["JPEGImages/a.jpg object 1"]


def test_boxes_that_end_one_before_the_edge_hold_their_last_pixel(tmp_path: Path) -> None:
    images = origin(tmp_path, (0, 0, 39, 29), (10, 20, 79, 59))
    assert images.annotations(0).boxes.tolist() == [[0, 0, 40, 30], [10, 20, 80, 60]]
    assert images.warnings == {voc.FROM_ZERO: 1}


def test_one_slip_does_not_move_a_set_that_counts_from_1(tmp_path: Path) -> None:
    images = origin(tmp_path, (1, 1, 40, 30), (0, 20, 80, 60), (1, 5, 9, 9))
    assert images.annotations(0).boxes.tolist() == [[0, 0, 40, 30], [0, 19, 80, 60], [0, 4, 9, 9]]
    assert images.warnings == {voc.SLIPS: 1}
    xml = voc_xml(voc_object("dog", 0, 20, 40, 30), voc_object("dog", 10, 20, 80, 60))
    alone = open_role(write_voc(tmp_path / "alone", {"a": xml}, {"train": "a"}))
    assert alone.annotations(0).boxes.tolist() == [[0, 19, 40, 30], [9, 19, 80, 60]]
    assert alone.warnings == {voc.SLIPS: 1}


def test_both_splits_count_alike_and_a_checksum_says_how(tmp_path: Path) -> None:
    zero, one = voc_xml(voc_object("dog", 0, 0, 40, 30)), voc_xml(voc_object("dog", 10, 20, 40, 30))
    root = write_voc(tmp_path, {"a": zero, "b": one}, {"train": "a", "val": "b"})
    assert open_role(root, "val").annotations(0).boxes.tolist() == [[10, 20, 40, 30]]
    assert open_role(root, "val").warnings == {voc.FROM_ZERO_TOO: 1}
    before = open_role(root, "val").checksum()
    write_voc(root, {"a": one}, {})
    assert open_role(root, "val").annotations(0).boxes.tolist() == [[9, 19, 40, 30]]
    assert open_role(root, "val").checksum() != before


def test_real_debris_is_counted_from_0_and_named_once(data_root: Path) -> None:
    if not (data_root / "fod").is_dir():
        pytest.skip("no fod")
    train, test = (open_role(data_root / "fod", role) for role in ("train", "val"))
    assert (len(train), len(test), len(train.classes)) == (2399, 900, 31)
    assert train.warnings == {voc.FROM_ZERO: 189, REPEATED_IMAGE: 1}
    assert test.warnings == {voc.FROM_ZERO: 49}
