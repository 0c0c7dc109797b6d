"""The file of results is what pycocotools reads, and says what the evaluation in memory says."""

from __future__ import annotations

import io
import json
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from harness.cli import main
from harness.core.errors import UserError
from harness.data import open_data
from harness.data.readers.coco import CocoSet, open_source
from harness.data.sources import Opening
from harness.evaluation.coco_metrics import coco_metrics
from harness.evaluation.coco_results import needs_coco, write_results
from harness.protocol.protocol import DataSection
from tests.data.folders import MemorySet, write_coco, write_image
from tests.support.runs import request, run, small_protocol
from tests.support.runs import write_coco as write_two_splits

NONE = {"boxes": np.zeros((0, 4), np.float32), "scores": np.zeros(0, np.float32), "labels": np.zeros(0, np.int64)}


def detected(images: CocoSet, seed: int = 0) -> list[dict[str, Any]]:
    """The objects, moved a little or of another class, and false ones; scores of five digits, nearly all different."""
    rng = np.random.default_rng(seed)
    pool = iter(rng.permutation(40_000))
    found = []
    for index in range(len(images)):
        truth, (height, width) = images.annotations(index), images.size(index)
        corners = rng.uniform(0, 0.5, (5, 2)) * (width, height)
        false = np.concatenate([corners, corners + rng.uniform(5, 50, (5, 2))], axis=1)
        boxes = np.concatenate([truth.boxes + rng.normal(0, 3, truth.boxes.shape), false]).astype(np.float32)
        boxes = np.clip(boxes, 0, (width, height, width, height)).round(2).astype(np.float32)
        labels = np.concatenate([truth.labels, rng.integers(0, len(images.classes), 5)])
        lift = np.where(np.arange(len(boxes)) < len(truth), 30_000, 0)  # true ones score higher, not always
        scores = ((lift + [next(pool) for _ in boxes]) / 1e5).astype(np.float32)
        found.append({"boxes": boxes, "scores": scores, "labels": labels})
    return found


def judged(annotations: Path, results: Path, images: CocoSet) -> list[float]:
    with redirect_stdout(io.StringIO()):
        truth = COCO(annotations)
        judge = COCOeval(truth, truth.loadRes(str(results)), "bbox")
        judge.params.imgIds = [images.image_id(index) for index in range(len(images))]
        judge.evaluate()
        judge.accumulate()
        judge.summarize()
    return [100 * value if value >= 0 else None for value in judge.stats.tolist()]


def large_document() -> dict[str, Any]:
    """Thirty images with objects of every size, crowds among them; ids of images and categories with gaps."""
    rng = np.random.default_rng(5)
    document: dict[str, Any] = {"images": [], "annotations": [], "categories": []}
    for number, identity in enumerate((90, 3, 17)):
        document["categories"].append({"id": identity, "name": f"class {number}"})
    for number in rng.permutation(30).tolist():
        document["images"].append({"id": 7 * number + 2**33, "file_name": f"{number}.jpg", "width": 80, "height": 60})
        for _ in range(number % 4):
            x, y, w, h = (round(float(value), 2) for value in rng.uniform((0, 0, 5, 5), (40, 30, 38, 28)))
            document["annotations"].append({
                "id": len(document["annotations"]) + 1, "image_id": 7 * number + 2**33, "bbox": [x, y, w, h],
                "category_id": int(rng.choice([3, 17, 90])), "area": w * h, "iscrowd": int(rng.random() < 0.1),
            })  # fmt: skip
    return document


def test_read_back_it_gives_the_same_ap(tmp_path: Path) -> None:
    document = large_document()
    root = write_coco(tmp_path / "data", document)
    for entry in document["images"]:
        write_image(root / "val2017" / entry["file_name"])
    images = open_source(Opening(str(root), DataSection(), "val"))
    assert images.category_ids == (3, 17, 90)
    found = detected(images)
    path = tmp_path / "out" / "results.json"
    assert write_results(path, images, found) == sum(len(one["scores"]) for one in found)
    values = judged(root / "annotations" / "instances_val2017.json", path, images)
    direct = coco_metrics(images, found)
    assert 10 < direct["AP"] < 90
    for name, position in {"AP": 0, "AP50": 1, "AP75": 2, "APs": 3, "APm": 4, "AR100": 8}.items():
        assert values[position] == pytest.approx(direct[name], abs=0.02), name  # boxes are rounded: x + w is not x2
    assert [entry.name for entry in path.parent.iterdir()] == ["results.json"]  # no temporary file is left


def test_ids_and_numbers_are_those_of_the_annotation_file(tmp_path: Path) -> None:
    images = open_source(Opening(str(write_coco(tmp_path)), DataSection(), "val"))
    first = {
        "boxes": np.array([[1.006, 2, 3.126, 5.5], [0, 0, 80, 60]], np.float32),
        "scores": np.array([0.1234567, 1], np.float32),
        "labels": np.array([1, 0]),
    }
    path = tmp_path / "results.json"
    assert write_results(path, images, [first, NONE]) == 2
    assert json.loads(path.read_text()) == [
        {"image_id": 7, "category_id": 9, "bbox": [1.01, 2.0, 2.12, 3.5], "score": 0.12346},
        {"image_id": 7, "category_id": 2, "bbox": [0.0, 0.0, 80.0, 60.0], "score": 1.0},
    ]
    assert write_results(path, images, [NONE, NONE]) == 0
    assert json.loads(path.read_text()) == []


def test_a_bad_detection_writes_nothing(tmp_path: Path) -> None:
    images = open_source(Opening(str(write_coco(tmp_path)), DataSection(), "val"))
    path = tmp_path / "results.json"
    path.write_text("before")
    broken = {**NONE, "boxes": np.full((1, 4), np.nan), "scores": np.ones(1), "labels": np.zeros(1, np.int64)}
    with pytest.raises(ValueError, match="image 1: detections hold NaN"):
        write_results(path, images, [NONE, broken])
    with pytest.raises(UserError, match="cannot write"):
        write_results(path / "below.json", images, [NONE, NONE])
    assert path.read_text() == "before"


def test_only_data_in_cocos_layout_has_such_ids() -> None:
    with pytest.raises(UserError, match="memory has none; give --data coco:DIR, or leave out --results-json"):
        needs_coco(MemorySet([(8, 8)]))


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str, Path]:
    """Results, run id and data of a run of two steps; the data has a list without annotations as well."""
    folder = tmp_path_factory.mktemp("trained")
    data = write_two_splits(folder / "data")
    protocol = small_protocol(data={"train_images": None, "val_images": None}, schedule={"steps": 2})
    outcome = run(request(folder / "out", protocol=protocol, data=f"coco:{data}"))
    content = json.loads((data / "annotations" / "instances_val.json").read_text())
    del content["annotations"]
    (data / "annotations" / "image_info_test-dev2017.json").write_text(json.dumps(content))
    (data / "test2017").symlink_to("val")
    return folder / "out", outcome.record.run_id, data


def evaluate(trained: tuple[Path, str, Path], *words: object) -> Any:
    results, run_id, data = trained
    chosen = [] if "--data" in words else ["--data", f"coco:{data}"]
    every = ["eval", run_id, "--results", results, "--device", "cpu", "--workers", 0, *chosen, *words]
    return CliRunner().invoke(main, [str(word) for word in every])


def test_eval_says_where_it_is_asked_of_images_that_were_trained_on(trained: Any) -> None:
    done = evaluate(trained, "--val-split", "train")
    assert done.exit_code == 0, done.output
    assert "warning: 6 images that are trained on as well in data, split train (train/0.png, " in done.stdout
    assert "trained on as well" not in evaluate(trained).stdout


def test_eval_writes_results_beside_its_metrics(trained: Any, tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    done = evaluate(trained, "--results-json", path, "--json")
    assert done.exit_code == 0, done.output
    answer = json.loads(done.stdout)
    assert answer["results_json"] == str(path)
    rows = json.loads(path.read_text())
    assert f"{len(rows)} detections in 6 images written to {path}" in done.stderr
    assert {row["category_id"] for row in rows} <= {1, 2}
    images = open_source(Opening(str(trained[2]), DataSection(), "val"))
    values = judged(trained[2] / "annotations" / "instances_val.json", path, images)
    assert values[0] == pytest.approx(answer["metrics"]["AP"], abs=0.5)
    assert json.loads(evaluate(trained, "--json").stdout).keys() == {"run_id", "data", "metrics"}


def test_eval_of_images_without_annotations_has_no_metrics(trained: Any, tmp_path: Path) -> None:
    path, known = tmp_path / "test-dev.json", tmp_path / "val.json"
    done = evaluate(trained, "--val-split", "test-dev2017", "--results-json", path)
    assert done.exit_code == 0, done.output
    assert "no metrics: there are no annotations" in done.stdout
    assert "AP50" not in done.stdout
    evaluate(trained, "--val-split", "val", "--results-json", known)
    assert path.read_text() == known.read_text()  # the same images
    answer = json.loads(evaluate(trained, "--val-split", "test-dev2017", "--results-json", path, "--json").stdout)
    assert answer["metrics"] is None


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["--val-split", "test-dev2017"],
            "has no annotations (image_info_test-dev2017.json); `harness eval RUN --results",
        ),
        (["--val-split", "test-dev"], "no split 'test-dev', did you mean 'test-dev2017'"),
        (["--data", "shapes", "--results-json", "x.json"], "COCO results file needs the image and category ids"),
        (["--results-json", "."], "is a directory"),
    ],
)
def test_a_mistake_is_one_line(trained: Any, words: list[str], message: str) -> None:
    done = evaluate(trained, *words)
    assert (done.exit_code, done.stdout) == (2, "")
    assert message in done.stderr
    assert done.stderr.count("\n") == 1


def test_real_categories_map_back(data_root: Path, tmp_path: Path) -> None:
    if not (data_root / "coco-mini").is_dir():
        pytest.skip("no coco-mini")
    images = open_data(f"coco:{data_root / 'coco-mini'}", DataSection(val_images=40), role="val")
    assert isinstance(images, CocoSet)
    found = detected(images)
    write_results(tmp_path / "results.json", images, found)
    rows = json.loads((tmp_path / "results.json").read_text())
    assert max(row["category_id"] for row in rows) == 90
    annotations = data_root / "coco-mini" / "annotations" / "instances_val2017.json"
    values = judged(annotations, tmp_path / "results.json", images)
    direct = coco_metrics(images, found)
    assert values[:3] == pytest.approx([direct["AP"], direct["AP50"], direct["AP75"]], abs=0.02)
