"""``harness data``: a whole data set read, counted, judged and drawn."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from PIL import Image

from harness.cli import main
from harness.data.check import CHECKED
from harness.data.survey import survey, worth_a_look
from harness.protocol.protocol import load_protocol
from tests.data.folders import coco_document, voc_object, voc_xml, write_coco, write_image, write_voc

DOG = voc_xml(voc_object("dog", 2, 2, 30, 30), voc_object("cat", 40, 40, 60, 55), voc_object("dog", 5, 5, 5, 5))


@pytest.fixture
def call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    write_voc(tmp_path / "set", dict.fromkeys("abcd", DOG), {"train": "a\nb\nc", "val": "d"})

    def invoke(*words: str, source: str = "voc:set") -> Any:
        return CliRunner().invoke(main, ["data", source, "--protocol", "tiny", *words])

    return invoke


def test_what_is_there_and_what_is_odd(call) -> None:
    result = call()
    assert result.exit_code == 0, result.output
    assert "warning: 3 boxes without area dropped in split train (JPEGImages/a.jpg object 3, " in result.stdout
    assert result.stdout.splitlines()[-1] == "a run can begin"
    for role in ("train", "val"):
        with Image.open(f"data-sheets/set-{role}.png") as sheet:
            assert min(sheet.size) > 100
    assert not Path("results").exists()  # nothing is remembered where there is no such directory


def test_the_numbers(call) -> None:
    Path("results").mkdir()
    result = call("--json", "--images", "0")
    answer = json.loads(result.stdout)
    assert (answer["ok"], answer["problems"], answer["sheets"]) == (True, [], [])
    train, val = answer["splits"]["train"], answer["splits"]["val"]
    assert (train["images"], train["objects"], train["not_learnt"], train["images_without_object"]) == (3, 6, 0, 0)
    assert train["classes"] == {"cat": 3, "dog": 3}
    assert train["levels"] == {"P3": 6, "P4": 0, "P5": 0, "P6": 0, "P7": 0}
    assert val["warnings"] == {"boxes without area dropped": 1}
    assert len(list(Path("results", CHECKED).glob("*.json"))) == 2
    assert not Path("data-sheets").exists()


def test_levels_are_those_of_half_the_longer_side_at_the_size_of_the_protocol(call) -> None:
    write_image(Path("set/JPEGImages/a.jpg"), (600, 800))
    size = "<size><height>600</height><width>800</width></size>"
    boxes = [(1, 1, 128, 9), (1, 1, 129, 9), (1, 1, 9, 257), (1, 1, 513, 9)]
    Path("set/Annotations/a.xml").write_text(voc_xml(*(voc_object("dog", *box) for box in boxes), size=size))
    answer = json.loads(call("--json", "--set", "data.short_edge=600", "--set", "data.long_edge=800").stdout)
    others = 4  # of the images b and c, ten times larger here
    levels = answer["splits"]["train"]["levels"]
    assert sum(levels.values()) == len(boxes) + others
    assert levels == {"P3": 1, "P4": 3, "P5": 3, "P6": 1, "P7": 0}


def test_every_problem_is_named_and_the_sheets_are_drawn_all_the_same(call) -> None:
    Path("set/ImageSets/Main/val.txt").write_text("c\nd\n")
    Path("set/JPEGImages/b.jpg").write_bytes(b"no picture")
    result = call()
    assert result.exit_code == 1
    told = [line for line in result.stdout.splitlines() if line.startswith("problem: ")]
    assert "1 of 2 validation images (val) are trained on as well (train): JPEGImages/c.jpg" in told[0]
    assert "b.jpg cannot be decoded: it is no image" in told[1]
    assert result.stderr == "data: 2 problems\n"
    assert Path("data-sheets/set-train.png").exists()
    answer = json.loads(call("--json").stdout)
    assert (answer["ok"], len(answer["problems"])) == (False, 2)


def test_images_that_are_left_out_are_no_problem(call) -> None:
    Path("set/JPEGImages/b.jpg").write_bytes(b"no picture")
    result = call("--set", "data.unreadable=skip")
    assert result.exit_code == 0, result.output
    assert "warning: 1 images that cannot be decoded, left out in split train (JPEGImages/b.jpg)" in result.stdout


def test_names_with_line_ends_are_drawn(call) -> None:
    document = coco_document()
    document["categories"][0]["name"] = "a\ncat"
    for split in ("train2017", "val2017"):
        write_coco(Path("coco"), document, split)
    assert call(source="coco:coco").exit_code == 0


def test_boxes_of_another_convention_are_drawn_as_read(call) -> None:
    document = coco_document()
    document["annotations"] = [
        {"id": number, "image_id": 7, "category_id": 9, "bbox": [30 + number, 30, 60 + number, 50]}
        for number in range(5)
    ]
    for split in ("train2017", "val2017"):
        write_coco(Path("coco"), document, split)
    result = call(source="coco:coco")
    assert result.exit_code == 1
    assert "problem: train2017: boxes look like corners x1, y1, x2, y2" in result.stdout
    assert Path("data-sheets/coco-train.png").exists()


def test_a_set_that_cannot_be_opened_is_one_line(call) -> None:
    result = call(source="voc:gone")
    assert (result.exit_code, result.stdout) == (2, "")
    assert (
        result.stderr
        == "error: data folder gone does not exist; expected Annotations/, JPEGImages/ and ImageSets/Main/SPLIT.txt\n"
    )


def test_the_embedded_set_can_be_looked_at(call) -> None:
    result = call("--set", "data.train_images=3", "--set", "data.val_images=2", "--images", "2", source="shapes")
    assert result.exit_code == 0, result.output
    assert Path("data-sheets/shapes-val.png").exists()


def test_odd_images_are_drawn_first(call, tmp_path: Path) -> None:
    names = [f"{number:02}" for number in range(20)]
    plain = voc_xml(voc_object("dog", 2, 2, 30, 30))
    root = write_voc(
        tmp_path / "many", dict.fromkeys(names, plain) | {"13": DOG}, {"train": "\n".join(names), "val": ""}
    )
    write_voc(root, {"x": plain}, {"val": "x"})
    found = survey(f"voc:{root}", load_protocol("tiny"), None, 0, None)
    chosen = worth_a_look(found.splits["train"].images, 4)
    assert 13 in chosen
    assert len(chosen) == 4
    assert worth_a_look(found.splits["val"].images, 4) == [0]
