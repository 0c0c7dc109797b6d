"""YOLO folders: what describes them, where their images and labels lie, what a line means."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.core.errors import UserError
from harness.data import open_data
from harness.data.base import Oddities
from harness.data.check import checked
from harness.data.readers.folder import CLIPPED, NO_AREA, OUTSIDE, REPEATED_IMAGE, SAME_NAME
from harness.data.readers.yolo_images import ABOVE
from harness.data.readers.yolo_labels import parse_labels
from harness.data.readers.yolo_layout import ELSEWHERE, find_layout
from harness.protocol.protocol import DataSection
from tests.data.folders import write_image, write_yolo

YAML = "train: images/train\nval: images/val\nnames: [cat, dog]\n"
FILES: dict[str, str | None] = {
    "images/train/a.jpg": "0 0.5 0.5 0.25 0.5\n1 0.1 0.2 0.1 0.2\n",
    "images/train/b.jpg": "",
    "images/train/c.jpg": None,
    "images/val/d.jpg": "1 0.5 0.5 1 1\n",
}


def open_role(root: Path, role: Any = "train", **data: Any):
    return open_data(f"yolo:{root}", DataSection(**data), role=role)


def names(images: Any) -> list[str]:
    return [images.name(index) for index in range(len(images))]


def test_reads_names_boxes_and_sizes(tmp_path: Path) -> None:
    images = open_role(write_yolo(tmp_path / "pets", FILES, YAML))
    assert (images.title, images.split, images.classes) == ("pets", "train", ("cat", "dog"))
    assert names(images) == ["images/train/a.jpg", "images/train/b.jpg", "images/train/c.jpg"]
    assert images.size(0) == (60, 80)
    found = images.annotations(0)
    np.testing.assert_allclose(found.boxes, [[30, 15, 50, 45], [4, 6, 12, 18]], atol=1e-5)
    assert found.labels.tolist() == [0, 1]
    np.testing.assert_allclose(found.area, [600, 96], rtol=1e-6)
    assert (len(images.annotations(1)), len(images.annotations(2))) == (0, 0)
    assert images.warnings == {}
    assert open_role(tmp_path / "pets", "val").annotations(0).boxes.tolist() == [[0, 0, 80, 60]]


@pytest.mark.parametrize(
    ("line", "box"),
    [
        ("0 0.25 0.25 0.75 0.25 0.5 0.75", [20, 15, 60, 45]),  # a triangle
        ("0 0.1 0.5 0.5 0.1 0.9 0.5 0.5 0.9", [8, 6, 72, 54]),  # an oriented box
        ("0.0\t0.5  0.5 0.5 0.5", [20, 15, 60, 45]),
        ("0 5e-1 .5 .5 0.5\r", [20, 15, 60, 45]),
        ("0 " + "0.25 0.25 0.75 0.75 " * 400, [20, 15, 60, 45]),  # longer than a path may be
    ],
    ids=["triangle", "oriented", "blanks", "spellings", "long"],
)
def test_a_line_is_a_box_or_an_outline(tmp_path: Path, line: str, box: list[int]) -> None:
    images = open_role(write_yolo(tmp_path, {**FILES, "images/train/a.jpg": f"\n{line}\n"}, YAML))
    np.testing.assert_allclose(images.annotations(0).boxes, [box], atol=1e-4)


def test_labels_lie_in_place_of_the_last_images_or_else_beside(tmp_path: Path) -> None:
    root = write_yolo(tmp_path, {"images/set/images/a.jpg": None}, "train: images\nval: images\nnames: [cat, dog]\n")
    places = ["images/set/images/a.txt", "images/set/labels/a.txt"]  # the second one counts where both are there
    for label, place in enumerate(places):
        (root / place).parent.mkdir(exist_ok=True)
        (root / place).write_text(f"{label} 0.5 0.5 0.5 0.5\n")
        assert open_role(root).annotations(0).labels.tolist() == [label]


def test_keypoints_stand_behind_the_box(tmp_path: Path) -> None:
    line = "1 0.5 0.5 0.25 0.5 0.9 0.9 2 0 0 0\n"
    root = write_yolo(tmp_path, {**FILES, "images/train/a.jpg": line}, f"{YAML}kpt_shape: [2, 3]\n")
    np.testing.assert_allclose(open_role(root).annotations(0).boxes, [[30, 15, 50, 45]], atol=1e-5)
    (root / "data.yaml").write_text(f"{YAML}kpt_shape: [3, 3]\n")
    with pytest.raises(UserError, match=r"a\.txt, line 1 must be a class, cx cy w h and 9 numbers of keypoints"):
        open_role(root)


def test_boxes_that_stick_out_are_clipped_and_those_without_area_dropped(tmp_path: Path) -> None:
    text = "0 0 0.5 0.5 0.5\n0 0.5 0.5 0 0.5\n1 0.5 0.5 0.1 0.1\n0 1.005 0.5 0.005 0.5\n0 0.9 0.5 0.202 0.5\n"
    images = open_role(write_yolo(tmp_path, {**FILES, "images/train/a.jpg": text}, YAML))
    expected = [[0, 15, 20, 45], [36, 27, 44, 33], [63.92, 15, 80, 45]]
    np.testing.assert_allclose(images.annotations(0).boxes, expected, atol=1e-4)
    assert images.warnings == {NO_AREA: 1, CLIPPED: 1, OUTSIDE: 1}
    assert images.warnings.examples[NO_AREA] == ["images/train/a.jpg object 2"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "0 0.5 0.5 0.5",
            "line 1 must be a class and cx cy w h, or a class and the points x y of an outline, got '0",
        ),
        ("\n0 0.5 0.5 0.5 0.5 0.9", "line 2 must be a class and cx"),
        ("0 0.5 0.5 0.5 0.5 0.9 0.9 0.9", "line 1 must be a class and cx"),
        ("0 0.5 0.5 0.5 nan", "line 1 must be"),
        ("0 0.5 0.5 0.5 inf", "line 1 must be"),
        ("cat 0.5 0.5 0.5 0.5", "line 1 must be a class"),
        ("0,0.5,0.5,0.5,0.5", "line 1 must be"),
        ("2 0.5 0.5 0.5 0.5", "line 1: class 2 is not among the 2 that have names, 0 to 1"),
        ("-1 0.5 0.5 0.5 0.5", "line 1: class -1 is not among"),
        ("0.5 0.5 0.5 0.5 0.5", "line 1: class 0.5 is not among"),
        ("1e300 0.5 0.5 0.5 0.5", r"line 1: class 1e\+300 is not among"),
        ("0 40 30 20 20", "line 1: '0 40 30 20 20' goes beyond 0 to 1; write shares of the image's width and height"),
        ("0 0.5 0.5 -0.5 0.5", "line 1: .* goes beyond 0 to 1"),
        ("0 0.5 0.5 0.5 0.5\n0 0.1 0.1 1.2 0.1 0.3 0.3", "line 2: .* goes beyond 0 to 1"),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, text: str, message: str) -> None:
    root = write_yolo(tmp_path, {**FILES, "images/train/a.jpg": text}, YAML)
    with pytest.raises(UserError, match=rf"^label file .*labels/train/a\.txt, {message}") as caught:
        open_role(root)
    assert "\n" not in str(caught.value)


@given(st.text(max_size=60) | st.lists(st.floats(width=16), max_size=12).map(lambda row: " ".join(map(str, row))))
def test_any_text_is_objects_or_one_line(text: str) -> None:
    told, found = "", None
    try:
        found = parse_labels(text, Path("a.txt"), 3)
    except UserError as error:
        told = str(error)
    if found is None:
        assert told.startswith("label file a.txt, line ")
        assert "\n" not in told
    else:
        assert len(found.classes) == len(found.boxes) == len(found.outlined)
        assert np.isfinite(found.boxes).all()
        assert set(found.classes.tolist()) <= {0, 1, 2}


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=3, max_size=8))
def test_the_box_of_an_outline_touches_its_outermost_points(points: list[tuple[float, float]]) -> None:
    line = "1 " + " ".join(f"{x!r} {y!r}" for x, y in points)
    found = parse_labels(line, Path("a.txt"), 2)
    center, sides = found.boxes[0, :2], found.boxes[0, 2:]
    np.testing.assert_allclose(center - sides / 2, np.min(points, axis=0), atol=1e-12)
    np.testing.assert_allclose(center + sides / 2, np.max(points, axis=0), atol=1e-12)


def test_bytes_that_are_no_text_are_one_line(tmp_path: Path) -> None:
    root = write_yolo(tmp_path, FILES, YAML)
    (root / "labels/train/a.txt").write_bytes(b"0 \xff")
    with pytest.raises(UserError, match=r"label file .*a\.txt is not UTF-8 text"):
        open_role(root)
    (root / "labels/train/a.txt").unlink()
    (root / "labels/train/a.txt").mkdir()
    with pytest.raises(UserError, match=r"a\.txt is a folder or a device"):
        open_role(root)


SIDE_BY_SIDE = {"train/a.jpg": "0 0.5 0.5 0.5 0.5", "val/b.jpg": "1 0.5 0.5 0.5 0.5"}
ROBOFLOW = {"train/images/a.jpg": "0 0.5 0.5 0.5 0.5", "valid/images/b.jpg": "1 0.5 0.5 0.5 0.5"}


@pytest.mark.parametrize(
    ("files", "description", "splits"),
    [
        (FILES, "train: images/train\nval: images/val\nnames:\n  1: dog\n  0: cat\nnc: 2\n", ("train", "val")),
        (FILES, "path: .\ntrain: [images/train]\nval: ./images/val/\nnames: [cat, dog]\n", ("train", "val")),
        (ROBOFLOW, "train: ../train/images\nval: ../valid/images\nnc: 2\nnames: ['cat', 'dog']\n", ("train", "val")),
        (SIDE_BY_SIDE, "train: train\nval: val\nnames: [cat, dog]\n", ("train", "val")),
        (FILES, "train: images/train\ntest: images/val\nval:\nnames: [cat, dog]\n", ("train", "test")),
    ],
    ids=["mapping", "lists of folders", "roboflow", "side by side", "test"],
)
def test_descriptions(tmp_path: Path, files: Any, description: str, splits: tuple[str, str]) -> None:
    root = write_yolo(tmp_path, files, description)
    train, val = open_role(root), open_role(root, "val")
    assert ((train.split, val.split), train.classes, val.classes) == (splits, ("cat", "dog"), ("cat", "dog"))
    assert [Path(train.name(0)).name, Path(val.name(0)).stem] == ["a.jpg", "d" if files is FILES else "b"]
    assert (train.annotations(0).labels[0], val.annotations(0).labels[0]) == (0, 1)
    assert train.warnings == ({ABOVE: 1} if files is ROBOFLOW else {})


@pytest.mark.parametrize("files", [FILES, SIDE_BY_SIDE, ROBOFLOW], ids=["apart", "side by side", "by split"])
def test_folders_without_a_description(tmp_path: Path, files: Any) -> None:
    root = write_yolo(tmp_path, files)
    with pytest.raises(UserError, match=r"has no list of class names; put one into classes\.txt"):
        open_role(root)
    (root / "classes.txt").write_text("cat\ndog\n\n")
    train, val = open_role(root), open_role(root, "val")
    assert (train.split, val.split) == ("train", "valid" if files is ROBOFLOW else "val")
    assert (train.classes, train.annotations(0).labels[0], val.annotations(0).labels[0]) == (("cat", "dog"), 0, 1)


def test_nothing_that_was_looked_for(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"holds no data set that was found; looked for data\.yaml, or an obj\.data"):
        open_role(tmp_path)


def test_darknet(tmp_path: Path) -> None:
    root = write_yolo(tmp_path / "data", {"obj/a.jpg": "0 0.5 0.5 0.5 0.5", "obj/b.jpg": "1 0.5 0.5 0.5 0.5"})
    (root / "obj.data").write_text(
        "classes = 2\ntrain  = data/train.txt\nvalid= data/valid.txt\nnames=data/obj.names\n"
    )
    (root / "obj.names").write_text("cat\ndog\n")
    (root / "train.txt").write_text("data/obj/a.jpg\n")
    (root / "valid.txt").write_text("obj/b.jpg\n")
    for _ in range(2):
        train, val = open_role(root), open_role(root, "val")
        assert (names(train), names(val), val.split) == (["obj/a.jpg"], ["obj/b.jpg"], "valid")
        assert (val.classes, val.annotations(0).labels.tolist()) == (("cat", "dog"), [1])
        (root / "obj.data").unlink(missing_ok=True)  # the lists and the names say it all


def test_a_list_of_images(tmp_path: Path) -> None:
    root = write_yolo(tmp_path, FILES, YAML.replace("images/train", "lists/train.txt"))
    (root / "lists").mkdir()
    listed = ["images/train/b.jpg", "../images/train/a.jpg", f"{root}/images/train/c.jpg", "images\\train\\b.jpg", ""]
    (root / "lists/train.txt").write_text("\n".join(listed))
    images = open_role(root)
    assert names(images) == ["images/train/b.jpg", "images/train/a.jpg", "images/train/c.jpg"]
    assert images.warnings == {REPEATED_IMAGE: 1}
    assert names(open_role(root, train_images=1)) == ["images/train/b.jpg"]
    (root / "lists/train.txt").write_text("./a.jpg\nimages/train/gone.jpg\n")
    with pytest.raises(UserError, match=r"lists/a\.jpg is missing, and so are 1 of the 2 images"):
        open_role(root)


@pytest.mark.parametrize("line", ["../../secret.jpg", "/etc/passwd", "C:/x.jpg", "images/../../x.jpg", "a\0.jpg"])
def test_nothing_outside_the_folder_is_read(tmp_path: Path, line: str) -> None:
    write_image(tmp_path / "secret.jpg")
    root = write_yolo(tmp_path / "set", FILES, YAML.replace("images/train", "train.txt"))
    (root / "train.txt").write_text(f"images/train/a.jpg\n{line}\n")
    with pytest.raises(UserError, match=r"list of images .*train\.txt, line 2: .* must stay inside the data folder"):
        open_role(root)
    if "\0" not in line:
        (root / "data.yaml").write_text(f"train: '{line}'\nval: images/val\nnames: [cat, dog]\n")
        with pytest.raises(UserError, match=r"'train' names .*, which must stay inside the data folder; write it"):
            open_role(root)


def test_a_path_counts_within_the_folder_alone(tmp_path: Path) -> None:
    write_yolo(tmp_path / "other", {"images/train/secret.jpg": "0 0.5 0.5 0.5 0.5"})
    root = write_yolo(tmp_path / "set", FILES, YAML)
    for path in ("../other", str(tmp_path / "other"), "/content/datasets/pets", "gone", "[1]"):
        (root / "data.yaml").write_text(f"path: {path}\n{YAML}")
        images = open_role(root)
        assert names(images)[0] == "images/train/a.jpg"
        assert images.warnings == {ELSEWHERE: 1}
    for path in (".", "''", str(root)):
        (root / "data.yaml").write_text(f"path: {path}\n{YAML}")
        assert open_role(root).warnings == {}
    write_yolo(root / "inner", {"images/train/e.jpg": "0 0.5 0.5 0.5 0.5"})
    (root / "data.yaml").write_text(f"path: inner\n{YAML}")
    assert names(open_role(root)) == ["inner/images/train/e.jpg"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("train: [", r"data\.yaml, line 1 is not valid YAML \("),
        ("a: !!python/object/apply:os.system ['touch pwned']", r"line 1 is not valid YAML \(could not determine a con"),
        ("names: !!bool x", "is not valid YAML"),
        ("names: !!timestamp x", "is not valid YAML"),
        ("nc: 2001-99-99", "is not valid YAML"),
        ("nc: " + "9" * 5000, "is not valid YAML"),
        pytest.param("[" * 5000, "is not valid YAML", id="nested"),
        ("", "must have entries such as"),
        ("- a", "must have entries such as 'train', 'val' and 'names', got"),
        ("names: [cat]", "names no split; write 'train' and 'val'"),
        ("train: 3\nnames: [cat]", "'train' must be a folder, a list of folders or a .txt file, got 3"),
        ("train: [[a]]\nnames: [cat]", "'train' must be a folder"),
        ("train: &a [*a]\nnames: [cat]", "'train' must be a folder"),
        ("train: images/train", "needs 'names', a list of class names or a mapping from ids, got None"),
        ("train: images/train\nnames: cat", "needs 'names'"),
        ("train: images/train\nnames: []", "needs 'names'"),
        ("train: images/train\nnames: {}", "needs 'names'"),
        ("train: images/train\nnames: {1: cat, 2: dog}", "the keys of 'names' must be the ids 0 to 1"),
        ("train: images/train\nnames: {0: cat, yes: dog}", "the keys of 'names' must be the ids 0 to 1"),
        ("train: images/train\nnames: [yes, no]", "class name True is no text; put it in quotes"),
        ("train: images/train\nnames: [1.10]", "class name 1.1 is no text"),
        ("train: images/train\nnames: ['']", "class name '' is no text"),
        ("train: images/train\nnames: [0x" + "f" * 5000 + "]", "class name int is no text"),
        ('train: images/train\nnames: ["\\ud800"]', "class name .* is no text"),
        ("train: images/train\nnames: [cat, dog]\nnc: 3", "'nc' is 3, but 'names' has 2; mend the wrong one"),
        ("train: images/train\nnames: [cat]\nkpt_shape: [17]", "'kpt_shape' must be two whole numbers"),
        ("train: images/gone\nnames: [cat, dog]", "'train' names 'images/gone', which is not in "),
        ("train: data.yaml\nnames: [cat, dog]", "'train' names 'data.yaml', which is neither a folder nor"),
        ("train: empty\nnames: [cat, dog]", r"split 'train' of .* has no images \(empty\)"),
    ],
)
def test_a_bad_description_is_one_line(tmp_path: Path, monkeypatch: Any, text: str, message: str) -> None:
    monkeypatch.chdir(tmp_path)
    root = write_yolo(tmp_path, FILES, text)
    (root / "empty").mkdir()
    with pytest.raises(UserError, match=message) as caught:
        open_role(root)
    assert "\n" not in str(caught.value)
    assert str(tmp_path) in str(caught.value)
    assert len(str(caught.value)) < 700
    assert not (tmp_path / "pwned").exists()


@given(st.text(max_size=40), st.integers(0, len(YAML)))
def test_no_damage_to_a_description_makes_anything_but_one_line(tmp_path_factory: Any, junk: str, at: int) -> None:
    root = tmp_path_factory.mktemp("set")
    for text in (junk, YAML[:at] + junk + YAML[at:]):
        (root / "data.yaml").write_text(text, "utf-8", errors="replace")
        told = ""
        try:
            find_layout(root, Oddities())
        except UserError as error:
            told = str(error)
        assert "\n" not in told


def test_a_split_without_any_label_file_is_refused(tmp_path: Path) -> None:
    root = write_yolo(tmp_path, FILES, YAML)
    (root / "labels/train").rename(root / "labels/elsewhere")
    with pytest.raises(UserError, match=r"'train' of .* has no label files; looked for labels/train/a\.txt and images"):
        open_role(root)
    (root / "labels/elsewhere").rename(root / "labels/train")
    (root / "labels/train/a.txt").unlink()
    assert sum(len(open_role(root).annotations(index)) for index in range(3)) == 0


def test_two_ids_of_one_name_are_one_class(tmp_path: Path) -> None:
    images = open_role(write_yolo(tmp_path, FILES, YAML.replace("[cat, dog]", "[cat, cat]")))
    assert (images.classes, images.annotations(0).labels.tolist()) == (("cat",), [0, 0])
    assert images.warnings.examples == {SAME_NAME: ["cat (0, 1)"]}


def test_splits_by_name(tmp_path: Path) -> None:
    root = write_yolo(tmp_path, {**FILES, "images/test/e.jpg": "0 0.5 0.5 0.5 0.5"}, f"{YAML}test: images/test\n")
    assert names(open_role(root, "val", val_split="test")) == ["images/test/e.jpg"]
    with pytest.raises(UserError, match=r"has no split 'tset', did you mean 'test'\?; it has train, val, test"):
        open_role(root, "val", val_split="tset")
    (root / "data.yaml").write_text("test: images/test\nnames: [cat, dog]\n")
    with pytest.raises(UserError, match=r"cannot tell the train split of .*it has test; name one with --train-split"):
        open_role(root)


def test_hidden_files_and_folders_below(tmp_path: Path) -> None:
    root = write_yolo(tmp_path, {**FILES, "images/train/deep/er/f.PNG": "1 0.5 0.5 0.5 0.5"}, YAML)
    write_image(root / "images/train/._a.jpg", format="JPEG")
    (root / "images/train/notes.md").write_text("no image")
    (root / "images/train/deep/loop").symlink_to(root / "images/train")
    images = open_role(root)
    assert names(images)[3:] == ["images/train/deep/er/f.PNG"]
    assert images.annotations(3).labels.tolist() == [1]


def test_a_name_that_is_no_text_is_one_line(tmp_path: Path) -> None:
    root = write_yolo(tmp_path, FILES, YAML)
    (root / "images/train/a.jpg").rename(root / "images/train" / os.fsdecode(b"a\xff.jpg"))
    with pytest.raises(UserError, match=r"the name of image .*a\\xff\.jpg is no UTF-8 text"):
        open_role(root)


def test_several_descriptions(tmp_path: Path) -> None:
    root = write_yolo(tmp_path, FILES)
    (root / "pets.yaml").write_text(YAML)
    assert len(open_role(root)) == 3
    (root / "other.yml").write_text(YAML)
    with pytest.raises(UserError, match=r"has other\.yml, pets\.yaml; rename the one that counts to data\.yaml"):
        open_role(root)
    (root / "data.yaml").write_text(YAML)
    assert len(open_role(root)) == 3


def test_a_list_with_the_path_of_a_folder_behind_a_link(tmp_path: Path) -> None:
    root = write_yolo(tmp_path / "real", FILES, YAML.replace("images/train", "train.txt"))
    (tmp_path / "link").symlink_to(root)
    (root / "train.txt").write_text(f"{root}/images/train/a.jpg\n{tmp_path}/link/images/train/b.jpg\n")
    assert names(open_role(tmp_path / "link")) == ["images/train/a.jpg", "images/train/b.jpg"]


def test_checksum_follows_labels_names_and_limit(tmp_path: Path) -> None:
    one, two = (write_yolo(tmp_path / name, FILES, YAML) for name in ("one", "two"))
    assert open_role(one).checksum() == open_role(two).checksum()
    checksums = {open_role(one).checksum(), open_role(one, train_images=1).checksum()}
    (two / "labels/train/a.txt").write_text("0 0.5 0.5 0.25 0.5\n1 0.1 0.2 0.1 0.3\n")
    checksums.add(open_role(two).checksum())
    (one / "data.yaml").write_text(YAML.replace("dog", "hog"))
    checksums.add(open_role(one).checksum())
    assert len(checksums) == 4


def test_an_image_keeps_its_id(tmp_path: Path) -> None:
    root = write_yolo(tmp_path, FILES, YAML)
    before = open_role(root)
    ids = {before.name(index): before.image_id(index) for index in range(3)}
    (root / "images/train/a.jpg").unlink()
    after = open_role(root)
    assert {after.name(i): after.image_id(i) for i in range(2)} == {name: ids[name] for name in names(after)}
    assert len(set(ids.values())) == 3


def test_damaged_images_are_told_by_the_check(tmp_path: Path) -> None:
    root = write_yolo(tmp_path, FILES, YAML)
    (root / "images/train/a.jpg").write_text("no picture")
    with pytest.raises(UserError, match=r"a\.jpg cannot be decoded"):
        checked(open_role(root), DataSection(), None)
    assert len(checked(open_role(root), DataSection(unreadable="skip"), None)) == 2


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([(0.1, 0.1, 0.5, 0.6), (0.2, 0.1, 0.9, 0.9), (0.0, 0.0, 0.4, 0.5)], "look like corners x1, y1, x2, y2"),
        ([(0.0, 0.1, 0.5, 0.6), (0.1, 0.0, 0.9, 0.05), (0.01, 0.5, 0.4, 0.3)], "look like x, y, w, h from the upper"),
    ],
)
def test_rows_that_begin_with_a_corner_are_refused(tmp_path: Path, rows: Any, message: str) -> None:
    text = "".join(f"0 {' '.join(map(str, row))}\n" for row in rows)
    with pytest.raises(UserError, match=rf"boxes {message}.*YOLO's are the centre and the sides, cx, cy, w, h: conv"):
        open_role(write_yolo(tmp_path, {**FILES, "images/train/a.jpg": text}, YAML))
