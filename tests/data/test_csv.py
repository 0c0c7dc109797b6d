"""Tables of boxes: RetinaNet's rows and Open Images', their splits, classes and images."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.core.errors import UserError
from harness.data import open_data
from harness.data.check import checked
from harness.data.readers.csv_rows import read_table
from harness.data.readers.folder import CLIPPED, NO_AREA, OUTSIDE, REPEATED_IMAGE
from harness.protocol.protocol import DataSection
from tests.data.folders import write_image, write_tables

TRAIN = "img/a.jpg,10,20,40,35.5,dog\nimg/b.jpg,,,,,\nimg/a.jpg,0,0,80,60,cat\n"
VAL = "img/c.jpg,1,2,30,40,cat\n"
IMAGES = ("img/a.jpg", "img/b.jpg", "img/c.jpg")

HEADER = (
    "ImageID,Source,LabelName,Confidence,XMin,XMax,YMin,YMax,IsOccluded,IsTruncated,IsGroupOf,IsDepiction,IsInside\n"
)
OPEN_TRAIN = f"{HEADER}00a,xclick,/m/1,1,0.25,0.75,0.1,0.5,0,1,0,0,0\n00a,xclick,/m/2,1,0,1,0,1,0,0,1,0,0\n"
OPEN_VAL = f"{HEADER}00b,xclick,/m/2,1,0.5,1,0.5,1,-1,-1,-1,-1,-1\n"


def retina(root: Path, train: str = TRAIN, **more: str) -> Path:
    tables = {"train.csv": train, "val.csv": VAL} | {f"{name}.csv": text for name, text in more.items()}
    return write_tables(root, tables, IMAGES) / "train.csv"


def open_images(root: Path, train: str = OPEN_TRAIN, **more: str) -> Path:
    tables = {"train-annotations-bbox.csv": train, "validation-annotations-bbox.csv": OPEN_VAL}
    tables |= {f"{name.replace('_', '-')}.csv": text for name, text in more.items()}
    return write_tables(root, tables, ("train/00a.jpg", "validation/00b.png")) / "train-annotations-bbox.csv"


def open_role(table: Path | str, role: Any = "train", **data: Any):
    return open_data(f"csv:{table}", DataSection(**data), role=role)


def test_reads_rows_of_retinanet(tmp_path: Path) -> None:
    images = open_role(retina(tmp_path / "pets"))
    assert (images.title, images.split, images.classes, len(images)) == ("pets", "train", ("cat", "dog"), 2)
    assert [images.name(0), images.name(1)] == ["img/a.jpg", "img/b.jpg"]
    assert images.size(0) == (60, 80)
    assert images.annotations(0).boxes.tolist() == [[10, 20, 40, 35.5], [0, 0, 80, 60]]
    assert images.annotations(0).labels.tolist() == [1, 0]
    assert images.annotations(0).area.tolist() == [465, 4800]
    assert len(images.annotations(1)) == 0
    assert images.warnings == {}
    val = open_role(tmp_path / "pets" / "train.csv", "val")
    assert (val.split, val.classes, val.annotations(0).boxes.tolist()) == ("val", ("cat", "dog"), [[1, 2, 30, 40]])


def test_reads_rows_of_open_images(tmp_path: Path) -> None:
    table = open_images(tmp_path)
    images = open_role(table)
    assert (images.split, images.classes, images.name(0)) == (
        "train-annotations-bbox",
        ("/m/1", "/m/2"),
        "train/00a.jpg",
    )
    np.testing.assert_allclose(images.annotations(0).boxes, [[20, 6, 60, 30], [0, 0, 80, 60]], atol=1e-5)
    assert images.annotations(0).labels.tolist() == [0, 1]
    assert images.annotations(0).crowd.tolist() == [False, True]
    val = open_role(table, "val")
    assert (val.split, val.name(0), val.classes) == (
        "validation-annotations-bbox",
        "validation/00b.png",
        images.classes,
    )
    assert (val.annotations(0).labels.tolist(), val.annotations(0).crowd.tolist()) == ([1], [False])


def test_names_of_open_images_for_people(tmp_path: Path) -> None:
    table = open_images(tmp_path, class_descriptions_boxable="/m/9,Zebra\n/m/2,Apple\n/m/1,Pear\n")
    images = open_role(table)
    assert (images.classes, images.annotations(0).labels.tolist()) == (("Apple", "Pear"), [1, 0])
    (tmp_path / "classes.csv").write_text("Pear,0\nApple,1\nZebra,2\n")
    assert open_role(table).classes == ("Pear", "Apple", "Zebra")
    assert open_role(table, "val").annotations(0).labels.tolist() == [1]


@pytest.mark.parametrize("folder", ["images/train", "train", "train/data", "images", "."])
def test_where_images_of_open_images_lie(tmp_path: Path, folder: str) -> None:
    write_tables(tmp_path, {"train.csv": OPEN_TRAIN}, (f"{folder}/00a.JPEG",))
    assert open_role(tmp_path / "train.csv").name(0) == (Path(folder) / "00a.JPEG").as_posix()


def test_classes_by_their_ids(tmp_path: Path) -> None:
    table = retina(tmp_path, classes="dog,7\nbird,3\ncat,12\n")
    images = open_role(table)
    assert (images.classes, images.annotations(0).labels.tolist()) == (("bird", "dog", "cat"), [1, 2])
    (tmp_path / "classes.csv").write_text("class_name,id\ndog,0\n")
    with pytest.raises(UserError, match=r"train\.csv, line 3: class 'cat' is not in .*classes\.csv"):
        open_role(table)


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        ("", "is empty"),
        ("dog\n", "line 1 must be name,id, got 'dog'"),
        ("dog,0\ncat,x\n", "line 2 must be name,id, got 'cat,x'"),
        ("dog,-1\n", "line 1 must be name,id"),
        (",0\n", "line 1 must be name,id"),
        ("dog,0\ncat,0\n", "line 2: 'cat' or its id 0 stands there before"),
        ("dog,0\ndog,1\n", "line 2: 'dog' or its id 1 stands there before"),
    ],
)
def test_a_bad_list_of_classes_is_named(tmp_path: Path, classes: str, message: str) -> None:
    with pytest.raises(UserError, match=rf"list of classes .*classes\.csv,? ?{message}"):
        open_role(retina(tmp_path, classes=classes))


def test_splits_beside_the_table(tmp_path: Path) -> None:
    table = retina(tmp_path, test=VAL, mine=TRAIN)
    assert open_role(table, "val").split == "val"
    assert open_role(table, "val", val_split="test").split == "test"
    assert open_role(table, train_split="mine").split == "mine"
    (tmp_path / "val.csv").unlink()
    assert open_role(table, "val").split == "test"
    with pytest.raises(UserError, match=r"no table tset\.csv beside .*train\.csv, did you mean 'test'.*are mine, test"):
        open_role(table, "val", val_split="tset")
    with pytest.raises(UserError, match=r"no validation table beside .*that belongs to mine\.csv; .* with --val-split"):
        open_role(tmp_path / "mine.csv", "val")
    assert len(open_role(tmp_path / "mine.csv")) == 2
    (tmp_path / "oidv6-train-boxes.csv").write_text(TRAIN)
    (tmp_path / "validation-boxes.csv").write_text(VAL)
    assert open_role(tmp_path / "oidv6-train-boxes.csv", "val").split == "validation-boxes"


def test_a_folder_and_a_table_that_is_not_there(tmp_path: Path) -> None:
    table = retina(tmp_path)
    with pytest.raises(UserError, match=r"is a folder; name a table of boxes such as train\.csv.*: csv:.*/train\.csv"):
        open_role(tmp_path)
    table.unlink()
    with pytest.raises(UserError, match=r"table of boxes .*train\.csv cannot be read: No such file"):
        open_role(table)


def test_boxes_that_stick_out_are_clipped_and_those_without_area_dropped(tmp_path: Path) -> None:
    rows = "img/a.jpg,-5,50,10,90,dog\nimg/a.jpg,90,0,95,5,dog\nimg/a.jpg,4,4,4,9,dog\nimg/a.jpg,9,9,20,20,dog\n"
    images = open_role(retina(tmp_path, rows))
    assert images.annotations(0).boxes.tolist() == [[0, 50, 10, 60], [9, 9, 20, 20]]
    assert images.warnings == {NO_AREA: 1, OUTSIDE: 1, CLIPPED: 1}
    assert images.warnings.examples[OUTSIDE] == ["img/a.jpg of line 2"]


RETINA_BAD = [
    ("img/a.jpg,1,2,3,dog\n", r"line 1 must have path,x1,y1,x2,y2,class_name \(or a header with ImageID, .*got 'img/a"),
    ("filename,width,height,class,xmin,ymin,xmax,ymax\n", "line 1 must have path,x1"),
    ("file,x1,y1,x2,y2,class\n", "line 1 must have path,x1,y1"),
    ("img/a.jpg,1,2,3,nan,dog\n", "line 1 must have"),
    ("img/a.jpg,1,2,inf,4,dog\n", "line 1 must have"),
    ("img/a.jpg,1,2,1e300,4,dog\n", "line 1 must have"),
    ("img/a.jpg,1,2,,4,dog\n", "line 1 must have"),
    (f"{TRAIN}\nimg/a.jpg,1,2,x,4,dog\n", "line 5 must have"),
    ("img/a.jpg,1,2,3,4,\n", "line 1 names no class"),
    ("img/a.jpg,,,,,dog\n", "line 1 has a class and no box"),
    ("../a.jpg,1,2,3,4,dog\n", r"line 1: image '\.\./a\.jpg' must stay inside the folder of the table"),
    ("img/../../a.jpg,1,2,3,4,dog\n", "line 1: image .* must stay inside"),
    ("/etc/passwd,1,2,3,4,dog\n", "line 1: image '/etc/passwd' must stay inside"),
    ("C:\\a.jpg,1,2,3,4,dog\n", "line 1: image .* must stay inside"),
    (",1,2,3,4,dog\n", "line 1: image '' must stay inside"),
    ('"img/a.jpg,1,2,3,4,dog\n', "line 1 is no CSV: unexpected end of data"),
    ('"img/a.jpg"x,1,2,3,4,dog\n', "line 1 is no CSV"),
    ("x" * 5000, "line 1 is longer than 4096 bytes"),
]  # fmt: skip
OPEN_BAD = [
    (f"{HEADER}00a,x,/m/1,1,0.1,0.2\n", "line 2 must have the 13 columns of its header"),
    (f"{HEADER}00a,x,/m/1,1,10,20,30,40,0,0,0,0,0\n", "line 2 goes beyond 0 to 1.*; write shares of the image's sides"),
    (f"{HEADER}00a,x,/m/1,1,0.1,0.2,nan,0.4,0,0,0,0,0\n", "line 2 must have"),
    (f"{HEADER}00a,x,/m/1,1,0.1,0.2,0.3,0.4,0,0,2,0,0\n", "line 2: 'IsGroupOf' must be 0 or 1, got '2'"),
    (f"{HEADER}../00a,x,/m/1,1,0.1,0.2,0.3,0.4,0,0,0,0,0\n", "line 2: image '../00a' must stay inside"),
]


@pytest.mark.parametrize(("text", "message"), RETINA_BAD + OPEN_BAD)
def test_a_bad_row_is_named(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(UserError, match=rf"table of boxes .*train\.csv, {message}") as caught:
        open_role(retina(tmp_path, text))
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500


def test_an_empty_table_and_one_without_objects(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"train\.csv is empty"):
        open_role(retina(tmp_path, "\n\n"))
    (tmp_path / "val.csv").unlink()
    with pytest.raises(UserError, match=r"train\.csv names no class, so there is nothing to learn"):
        open_role(retina(tmp_path / "none", "img/b.jpg,,,,,\n", val="img/c.jpg,,,,,\n"))
    with pytest.raises(UserError, match="has no images"):
        open_role(write_tables(tmp_path / "head", {"train.csv": HEADER, "classes.csv": "dog,0\n"}) / "train.csv")


@given(st.binary(max_size=80), st.integers(0, len(TRAIN)))
def test_no_damage_makes_anything_but_a_line(tmp_path_factory: Any, junk: bytes, at: int) -> None:
    path = tmp_path_factory.mktemp("table") / "train.csv"
    for text in (TRAIN, OPEN_TRAIN):
        path.write_bytes(text.encode()[:at] + junk + text.encode()[at:])
        told = ""
        try:
            read_table(path, lambda _: None, lambda name: name)
        except UserError as error:
            told = str(error)
        assert "\n" not in told


def test_names_of_one_file_in_several_spellings_are_one_image(tmp_path: Path) -> None:
    root = tmp_path / "set"
    rows = f"./img/a.jpg,1,1,9,9,dog\nimg\\a.jpg,2,2,9,9,dog\n{root}/img/a.jpg,3,3,9,9,dog\n"
    images = open_role(retina(root, rows))
    assert (len(images), images.name(0), len(images.annotations(0))) == (1, "img/a.jpg", 3)
    assert images.warnings == {}
    images = open_role(retina(root, f"img/A.jpg,4,4,9,9,dog\nimg/a.JPG,3,3,9,9,dog\n{TRAIN}"))
    assert [images.name(0), images.name(1)] == ["img/a.jpg", "img/b.jpg"]
    assert (len(images), images.warnings) == (2, {REPEATED_IMAGE: 2})


def test_shares_and_sides_in_place_of_corners_are_refused(tmp_path: Path) -> None:
    shares = "".join(f"img/a.jpg,0.{n},0.1,0.9,0.{n},dog\n" for n in range(2, 6))
    with pytest.raises(UserError, match=r"shares of the image's sides; RetinaNet's xmin, ymin, xmax, ymax count"):
        open_role(retina(tmp_path / "shares", shares))
    sides = "".join(f"img/a.jpg,{50 + n},40,12,9,dog\n" for n in range(5))
    with pytest.raises(UserError, match="5 of 5 boxes end before they begin, so they are x, y, width, height"):
        open_role(retina(tmp_path / "sides", sides))


def test_an_image_is_known_by_its_name(tmp_path: Path) -> None:
    table = retina(tmp_path, turned="img/b.jpg,,,,,\nimg/a.jpg,1,2,30,40,cat\n")
    straight, turned = open_role(table), open_role(table, train_split="turned")
    ids = [straight.image_id(index) for index in range(2)]
    assert [turned.image_id(index) for index in range(2)] == ids[::-1]
    assert ids[0] == int(hashlib.sha256(b"img/a.jpg").hexdigest()[:13], 16)
    limited = open_role(table, train_images=1)
    assert (len(limited), limited.image_id(0), limited.classes) == (1, ids[0], ("cat", "dog"))


def test_checksum_follows_rows_classes_and_limit(tmp_path: Path) -> None:
    one, two = retina(tmp_path / "one"), retina(tmp_path / "two")
    assert open_role(one).checksum() == open_role(two).checksum()
    checksums = [open_role(one).checksum(), open_role(one, train_images=1).checksum()]
    checksums.append(open_role(retina(tmp_path / "two", TRAIN.replace("10,20", "10,21"))).checksum())
    checksums.append(open_role(retina(tmp_path / "one", classes="dog,0\ncat,1\n")).checksum())
    assert len(set(checksums)) == 4


def test_missing_and_damaged_images(tmp_path: Path) -> None:
    table = retina(tmp_path)
    (tmp_path / "img/b.jpg").write_text("no picture")
    with pytest.raises(UserError, match=r"b\.jpg cannot be decoded"):
        checked(open_role(table), DataSection(), None)
    (tmp_path / "img/b.jpg").unlink()
    with pytest.raises(UserError, match=r"img/b\.jpg is missing"):
        open_role(table)
    write_image(tmp_path / "img/B.JPG", format="JPEG")
    assert open_role(table).name(1) == "img/B.JPG"
    with pytest.raises(UserError, match=r"train/00z\.jpg is missing"):
        open_role(open_images(tmp_path / "open", OPEN_TRAIN.replace("00a", "00z")))
