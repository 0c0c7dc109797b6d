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
from harness.data.loader import eval_batches
from harness.data.readers.folder import CLIPPED, NO_AREA, OUTSIDE, REPEATED_IMAGE, REPEATED_OBJECT
from harness.data.readers.reading import MAX_LINE
from harness.data.readers.wider import read_list
from harness.evaluation.coco_metrics import coco_metrics
from harness.protocol.protocol import DataSection
from tests.data.folders import face, protocol, write_image, write_wider

NOTHING = "0 0 0 0 0 0 0 0 0 0 \n"
A, B = "0--A/a.jpg\n", "1--B/b.jpg\n"
LIST = f"{A}3\n{face(10, 20, 30, 15)}{face(70, 5, 20, 10, invalid=1)}{face(4, 4, 0, 9)}{B}1\n{NOTHING}"


def open_role(root: Path, role: Any = "train", **data: Any):
    return open_data(f"wider:{root}", DataSection(**data), role=role)


def entries(tmp_path: Path, text: str | bytes) -> list[tuple[str, int]]:
    path = tmp_path / "list.txt"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return [(entry.name, len(entry.boxes)) for entry in read_list(path, lambda line: None)]


def test_reads_names_boxes_and_sizes(tmp_path: Path) -> None:
    images = open_role(write_wider(tmp_path / "faces", {"train": LIST}))
    assert (images.title, images.split, images.classes, len(images)) == ("faces", "train", ("face",), 2)
    assert images.name(0) == "WIDER_train/images/0--A/a.jpg"
    assert images.size(0) == (60, 80)
    assert images.load(0).shape == (60, 80, 3)
    found = images.annotations(0)
    assert found.boxes.tolist() == [[10, 20, 40, 35], [70, 5, 80, 15]]
    assert found.labels.tolist() == [0, 0]
    assert found.area.tolist() == [450, 100]
    assert images.warnings == {NO_AREA: 1, CLIPPED: 1}
    assert len(images.annotations(1)) == 0


def test_an_invalid_face_is_neither_found_nor_missed_and_no_negative(tmp_path: Path) -> None:
    images = open_role(write_wider(tmp_path, {"train": LIST, "val": LIST}), "val")
    assert images.annotations(0).crowd.tolist() == [False, True]
    (batch,) = eval_batches(images, protocol(short_edge=60, long_edge=80))
    assert batch.targets[0]["boxes"].tolist() == [[10, 20, 40, 35]]
    assert batch.targets[0]["ignore"].tolist() == [[70, 5, 80, 15]]

    def detected(*boxes: list[int]) -> dict[str, Any]:
        scores = np.linspace(0.9, 0.5, len(boxes), dtype=np.float32)
        table = np.array(boxes, dtype=np.float32).reshape(-1, 4)
        return {"boxes": table, "scores": scores, "labels": np.zeros(len(boxes), dtype=np.int64)}

    on_the_invalid_one = [[70, 5, 80, 15], [71, 5, 80, 15]]
    found = detected(*on_the_invalid_one, [10, 20, 40, 35])
    assert coco_metrics(images, [found, detected()])["AP"] == pytest.approx(100)
    assert coco_metrics(images, [detected([40, 40, 50, 50], [10, 20, 40, 35]), detected()])["AP"] == pytest.approx(50)
    assert coco_metrics(images, [detected(), detected()])["AP"] == 0


@pytest.mark.parametrize(
    "text",
    [
        f"{A}1\n{NOTHING}{B}1\n{face(1, 2, 3, 4)}",
        f"{A}0\n{NOTHING}{B}1\n{face(1, 2, 3, 4)}",
        f"{A}0\n{B}1\n{face(1, 2, 3, 4)}",
        f"\ufeff{A}0\n\n{B}1\n{face(1, 2, 3, 4)}\n\n".replace("\n", "\r\n"),
        f"{A}0\n{B}1\n{face(1, 2, 3, 4)}".rstrip(),
        f"{A}0\n{B}1\n{face('-1.5', '2e0', 3, 4)}",
    ],
    ids=["count 1", "count 0 and a row", "count 0 alone", "CRLF and a mark", "no line end", "decimal numbers"],
)
def test_every_spelling_of_an_image_without_a_face(tmp_path: Path, text: str) -> None:
    assert entries(tmp_path, text) == [("0--A/a.jpg", 0), ("1--B/b.jpg", 1)]


@pytest.mark.parametrize("last", ["0\n", f"0\n{NOTHING}", f"1\n{NOTHING}"])
def test_the_last_image_may_be_without_a_face(tmp_path: Path, last: str) -> None:
    assert entries(tmp_path, A + last) == [("0--A/a.jpg", 0)]


def test_a_face_in_the_corner_is_no_row_of_zeros(tmp_path: Path) -> None:
    text = f"{A}2\n{NOTHING}{NOTHING}{B}1\n0 0 0 0 1 0 0 0 0 0\n"
    assert entries(tmp_path, text) == [("0--A/a.jpg", 2), ("1--B/b.jpg", 1)]  # dropped later, and counted
    images = open_role(write_wider(tmp_path / "data", {"train": text}))
    assert images.warnings == {"boxes without area dropped": 3}


def test_negative_sides_and_faces_outside_are_dropped_and_counted(tmp_path: Path) -> None:
    text = f"{A}4\n{face(70, 40, -2, 9)}{face(200, 1, 5, 5)}{face(-5, -5, 10, 10)}{face(1, 1, 2, 2)}{B}0\n"
    images = open_role(write_wider(tmp_path, {"train": text}))
    assert images.annotations(0).boxes.tolist() == [[0, 0, 5, 5], [1, 1, 3, 3]]
    assert images.warnings == {NO_AREA: 1, OUTSIDE: 1, CLIPPED: 1}


def test_an_image_listed_twice_is_one_image_with_the_faces_of_both(tmp_path: Path) -> None:
    text = f"{A}1\n{face(1, 1, 9, 9)}{B}0\n{A}2\n{face(1, 1, 9, 9)}{face(20, 20, 9, 9)}"
    images = open_role(write_wider(tmp_path, {"train": text}))
    assert [images.name(i) for i in range(len(images))] == [
        "WIDER_train/images/0--A/a.jpg",
        "WIDER_train/images/1--B/b.jpg",
    ]
    assert images.annotations(0).boxes.tolist() == [[1, 1, 10, 10], [20, 20, 29, 29]]
    assert images.warnings == {REPEATED_IMAGE: 1, REPEATED_OBJECT: 1}


def test_corners_in_place_of_sides_are_refused(tmp_path: Path) -> None:
    rows = "".join(face(30 + n, 30, 60 + n, 50) for n in range(5))
    with pytest.raises(
        UserError, match=r"boxes look like corners .*; WIDER FACE's rows begin with x, y, w, h: convert"
    ):
        open_role(write_wider(tmp_path, {"train": f"{A}5\n{rows}{B}0\n"}))


def test_names_of_one_file_in_two_spellings_are_one_image(tmp_path: Path) -> None:
    text = f"{A}1\n{face(1, 1, 9, 9)}{B}0\n./0--A\\a.jpg\n1\n{face(20, 20, 9, 9)}"
    images = open_role(write_wider(tmp_path, {"train": text}))
    assert len(images) == 2
    assert len(images.annotations(0)) == 2
    assert images.warnings == {REPEATED_IMAGE: 1}


def test_splits_by_role_and_by_name(tmp_path: Path) -> None:
    root = write_wider(tmp_path, {"train": LIST, "val": LIST, "tiny": f"{B}0\n"})
    assert open_role(root, "val").name(0) == "WIDER_val/images/0--A/a.jpg"
    assert (open_role(root, "val", val_split="tiny").split, len(open_role(root, train_split="tiny"))) == ("tiny", 1)
    with pytest.raises(UserError, match=r"no split 'tini', did you mean 'tiny'.*it has tiny, train, val"):
        open_role(root, train_split="tini")
    with pytest.raises(UserError, match=r"no split 'train'; it has none .wider_face_split/wider_face_SPLIT"):
        open_role(tmp_path / "WIDER_val")


def test_an_image_is_known_by_its_name(tmp_path: Path) -> None:
    root = write_wider(tmp_path, {"train": f"{A}0\n{B}0\n", "turned": f"{B}0\n{A}0\n"})
    straight, turned = open_role(root), open_role(root, train_split="turned")
    ids = [straight.image_id(i) for i in range(2)]
    assert [turned.image_id(i) for i in range(2)] == ids[::-1]
    assert ids[0] == int(hashlib.sha256(b"0--A/a.jpg").hexdigest()[:13], 16) != ids[1]
    assert [open_role(root, train_images=1).image_id(i) for i in range(1)] == ids[:1]


def test_checksum_follows_content_and_limit(tmp_path: Path) -> None:
    root = write_wider(tmp_path / "one", {"train": LIST})
    assert open_role(root).checksum() == open_role(write_wider(tmp_path / "two", {"train": LIST})).checksum()
    other = write_wider(tmp_path / "three", {"train": LIST.replace("70 5", "70 6")})
    assert (
        len({open_role(root).checksum(), open_role(other).checksum(), open_role(root, train_images=1).checksum()}) == 3
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (f"../a.jpg\n0\n{B}0\n", r"line 1: image name '../a.jpg' must stay inside images/"),
        (f"{A}0\n/etc/x.jpg\n0\n", r"line 3: image name '/etc/x.jpg' must stay inside"),
        (f"{A}0\nC:\\x.jpg\n0\n", "line 3: image name .* must stay inside"),
        (f"{A}two\n", "line 2: expected the number of faces in '0--A/a.jpg', got 'two'"),
        (f"{A}-1\n", "line 2: expected the number of faces in '0--A/a.jpg', got '-1'"),
        (f"{A}1.0\n", "line 2: expected the number of faces"),
        (f"{A}{'9' * 5000}\n", "line 2 is longer than 4096 bytes"),
        (f"{A}\u0663\n", "line 2: expected the number of faces"),
        (f"{A}{B}0\n", "line 2: expected the number of faces in '0--A/a.jpg', got '1--B/b.jpg'"),
        (f"{A}2\n{face(1, 2, 3, 4)}{B}0\n", "line 4: face 2 of 2 in '0--A/a.jpg' must be 10 numbers.*count too high"),
        (
            f"{A}1\n{face(1, 2, 3, 4)}{face(1, 2, 3, 4)}{B}0\n",
            "line 4: expected the name of an image, got the row .*low",
        ),
        (f"{A}0\n{face(1, 2, 3, 4)}", "line 3: a face after a count of 0 in '0--A/a.jpg'"),
        (f"{A}0\n1 2 3 4\n", "line 3: the row after a count of 0 in '0--A/a.jpg' must be 10 numbers"),
        (f"{A}1\n1 2 3 4\n", "line 3: face 1 of 1 in '0--A/a.jpg' must be 10 numbers, x y w h and six marks, got '1 2"),
        (f"{A}1\n1 2 3 x 0 0 0 0 0 0\n", "line 3: face 1 of 1 .* must be 10 numbers"),
        (f"{A}1\n1 2 3 nan 0 0 0 0 0 0\n", "line 3: face 1 of 1 .* is out of range"),
        (f"{A}1\n1 2 3 inf 0 0 0 0 0 0\n", "line 3: face 1 of 1 .* is out of range"),
        (f"{A}1\n1 2 3 1e300 0 0 0 0 0 0\n", "line 3: face 1 of 1 .* is out of range"),
        (f"{A}1\n{face(1, 2, 3, 4, invalid=2)}", "line 3: face 1 of 1 .*'invalid', the eighth number, is 0 or 1"),
        (f"{A}1\n{face(1, 2, 3, 4, invalid=-1)}", "line 3: face 1 of 1 .* out of range"),
        (A, "line 1: the file ends in the middle of an image"),
        (f"{A}999999999\n{face(1, 2, 3, 4)}", "line 3: the file ends in the middle of an image; is it whole?"),
        (b"\xff\xfe0\x00", "line 1 is not UTF-8 text"),
        (A.encode() + b"0\n\xff.jpg\n0\n", "line 3 is not UTF-8 text"),
        (A.encode() + b"0\na\0b.jpg\n0\n", "line 3: image name 'a.x00b.jpg' must stay inside"),
        (b"x" * (MAX_LINE + 1), "line 1 is longer than 4096 bytes; is it another file"),
        ("", "split 'train' of .* has no images"),
    ],
)
def test_a_bad_list_is_one_line_that_says_where(tmp_path: Path, text: str | bytes, message: str) -> None:
    root = write_wider(tmp_path, {"train": text})
    with pytest.raises(UserError, match=message) as caught:
        open_role(root)
    assert "\n" not in str(caught.value)
    assert str(tmp_path) in str(caught.value)
    assert len(str(caught.value)) < 500


@given(st.binary(max_size=80), st.integers(0, len(LIST)))
def test_no_damage_makes_anything_but_such_a_line(tmp_path_factory: Any, junk: bytes, at: int) -> None:
    folder = tmp_path_factory.mktemp("list")
    content = LIST.encode()
    for text in (content[:at], content[:at] + junk + content[at:], junk):
        told = ""
        try:
            entries(folder, text)
        except UserError as error:
            told = str(error)
        assert "\n" not in told


def test_missing_and_damaged_images(tmp_path: Path) -> None:
    root = write_wider(tmp_path, {"train": LIST})
    path = root / "WIDER_train" / "images" / "1--B" / "b.jpg"
    path.write_text("no picture")
    with pytest.raises(UserError, match=r"b\.jpg cannot be decoded"):
        checked(open_role(root), DataSection(), None)
    assert len(checked(open_role(root), DataSection(unreadable="skip"), None)) == 1
    path.unlink()
    with pytest.raises(UserError, match=r"b\.jpg is missing"):
        open_role(root)
    assert len(open_role(root, train_images=1)) == 1
    write_image(path)
    images = open_role(root)
    write_image(path, (30, 20))
    with pytest.raises(UserError, match=r"b\.jpg is 20x30, but its annotation says 80x60"):
        images.load(1)


@pytest.mark.parametrize(
    ("role", "count", "rows", "largest", "invalid", "empty"),
    [("train", 140, 3097, 473, 13, 1), ("val", 60, 1275, 276, 26, 0)],
)
def test_real_faces(data_root: Path, role: Any, count: int, rows: int, largest: int, invalid: int, empty: int) -> None:
    if not (data_root / "widerface-mini").is_dir():
        pytest.skip("no widerface-mini")
    images = open_role(data_root / "widerface-mini", role)
    found = [images.annotations(i) for i in range(len(images))]
    assert (len(images), len({images.image_id(i) for i in range(count)})) == (count, count)
    assert images.warnings == {"boxes without area dropped": 1}
    assert sum(map(len, found)) == rows - 1 - empty  # without the box that has no area, and the row of zeros
    assert max(map(len, found)) == largest
    assert sum(int(row.crowd.sum()) for row in found) == invalid
    assert sum(len(row) == 0 for row in found) == empty
    assert {images.size(i) for i in range(count)} == {(416, 416)}
    assert images.load(0).shape == (416, 416, 3)


def test_the_real_list_of_3226_images(data_root: Path) -> None:
    path = data_root / "widerface-mini" / "official_wider_face_val_bbx_gt.txt"
    if not path.is_file():
        pytest.skip("no list of WIDER FACE")
    digest = hashlib.sha256()
    found = list(read_list(path, digest.update))
    boxes, invalid = (np.concatenate([getattr(entry, name) for entry in found]) for name in ("boxes", "invalid"))
    assert (len(found), len(boxes) + sum(len(entry.boxes) == 0 for entry in found)) == (3226, 39708)
    assert sum(len(entry.boxes) == 0 for entry in found) == 4
    assert (int(invalid.sum()), int((boxes[:, 2:] <= 0).any(axis=1).sum())) == (585, 11 - 4)
    assert max(len(entry.boxes) for entry in found) == 709
    assert digest.hexdigest() == hashlib.sha256(path.read_bytes()).hexdigest()
