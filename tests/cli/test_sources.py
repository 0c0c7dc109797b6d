"""Every data source in a folder, from the command line to a record: trained on, evaluated, read again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from harness.cli import main
from tests.data.folders import coco_document, write_image, write_tables, write_yolo

TINY = [
    "--protocol", "tiny", "--set", "schedule.steps=3", "--set", "schedule.batch_size=2", "--set",
    "data.short_edge=64", "--set", "data.long_edge=64", "--device", "cpu", "--threads", "1",
]  # fmt: skip
HEADER = "ImageID,XMin,XMax,YMin,YMax,LabelName,IsGroupOf\n"


def yolo(root: Path) -> str:
    files = {f"images/{split}/{name}.jpg": "0 0.5 0.5 0.5 0.5\n1 0.4 0.4 0.6 0.5\n" for split, name in PLACES}
    write_yolo(root, dict(files), "train: images/train\nval: images/val\nnames: [cat, dog]\n")
    return f"yolo:{root.name}"


def retinanet(root: Path) -> str:
    rows = {split: "" for split, _ in PLACES}
    for split, name in PLACES:
        rows[split] += f"{split}/{name}.jpg,10,10,60,50,dog\n{split}/{name}.jpg,5,6,40,40,cat\n"
    write_tables(root, {f"{split}.csv": text for split, text in rows.items()}, IMAGES)
    return f"csv:{root.name}/train.csv"


def open_images(root: Path) -> str:
    rows = {split: HEADER for split, _ in PLACES}
    for split, name in PLACES:
        rows[split] += f"{name},0.2,0.8,0.2,0.8,dog,0\n{name},0.1,0.5,0.1,0.5,cat,0\n"
    write_tables(root, {f"{split}.csv": text for split, text in rows.items()}, IMAGES)
    return f"csv:{root.name}/train.csv"


def roboflow(root: Path) -> str:
    for split in ("train", "val"):
        write_image(root / split / "a.jpg")
        write_image(root / split / "b.jpg")
        (root / split / "_annotations.coco.json").write_text(json.dumps(coco_document()))
    return f"coco:{root.name}"


PLACES = (("train", "a"), ("train", "b"), ("train", "c"), ("val", "d"), ("val", "e"))
IMAGES = tuple(f"{split}/{name}.jpg" for split, name in PLACES)


@pytest.mark.parametrize("make", [yolo, retinanet, open_images, roboflow])
def test_a_source_is_trained_on_evaluated_and_recorded(tmp_path: Path, monkeypatch: Any, make: Any) -> None:
    monkeypatch.chdir(tmp_path)
    spec = make(tmp_path / "pets")
    ran = CliRunner().invoke(main, ["run", "-a", "center", "--data", spec, *TINY, "--workers", "0"])
    assert ran.exit_code == 0, (ran.stderr, ran.exception)
    (path,) = Path("results/runs").glob("*.json")
    record = json.loads(path.read_text())
    data = record["data"]
    assert (data["kind"], data["title"], sorted(data["classes"])) == (spec.partition(":")[0], "pets", ["cat", "dog"])
    assert (data["train"]["split"], data["val"]["split"]) == ("train", "val")
    assert data["train"]["images"] == (2 if make is roboflow else 3)
    assert 0 <= record["metrics"]["AP"] <= 100
    assert f"--data {spec} " in record["command"]
    assert str(tmp_path) not in path.read_text()


def test_a_recorded_run_says_how_its_source_is_named(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    spec = retinanet(tmp_path / "pets")
    call = CliRunner().invoke
    ran = call(main, ["run", "-a", "center", "--data", spec, *TINY, "--set", "schedule.steps=1", "--workers", "0"])
    assert ran.exit_code == 0, ran.stderr
    (run_id,) = (path.stem for path in Path("results/runs").glob("*.json"))
    refused = call(main, ["eval", run_id])
    assert refused.exit_code == 2
    assert "give --data csv:FILE" in refused.stderr


@pytest.mark.parametrize(
    ("make", "place", "text", "expected"),
    [
        (yolo, "labels/train/b.txt", "0 0.5 0.5 0.5 nan", "label file pets/labels/train/b.txt, line 1 must be a class"),
        (yolo, "data.yaml", "train: ../../etc", "data.yaml needs 'names'"),
        (yolo, "labels/val/d.txt", "2 0.5 0.5 0.5 0.5", "labels/val/d.txt, line 1: class 2 is not among the 2"),
        (retinanet, "train.csv", "train/a.jpg,1,2,3,4\n", "table of boxes pets/train.csv, line 1 must have path,x1,y1"),
        (retinanet, "val.csv", "../x.jpg,1,2,3,4,dog\n", "pets/val.csv, line 1: image '../x.jpg' must stay inside"),
        (roboflow, "val/_annotations.coco.json", "{", "pets/val/_annotations.coco.json is not valid JSON"),
    ],
)
def test_what_is_wrong_is_one_line(
    tmp_path: Path, monkeypatch: Any, make: Any, place: str, text: str, expected: str
) -> None:
    monkeypatch.chdir(tmp_path)
    spec = make(tmp_path / "pets")
    (tmp_path / "pets" / place).write_text(text)
    refused = CliRunner().invoke(main, ["run", "-a", "center", "--data", spec, *TINY, "--workers", "0"])
    assert refused.exit_code == 2, (refused.stderr, refused.exception)
    assert refused.stderr.startswith("error: ")
    assert refused.stderr.count("\n") == 1
    assert expected in refused.stderr
    assert not list(Path("results").rglob("*.json"))


@pytest.mark.parametrize("make", [yolo, retinanet, roboflow])
def test_a_source_is_surveyed(tmp_path: Path, monkeypatch: Any, make: Any) -> None:
    monkeypatch.chdir(tmp_path)
    words = ["data", make(tmp_path / "pets"), "--protocol", "tiny", "--images", "0", "--workers", "0", "--json"]
    shown = CliRunner().invoke(main, words)
    assert shown.exit_code == 0, (shown.stderr, shown.exception)
    assert json.loads(shown.stdout)["splits"]["val"]["images"] == 2
