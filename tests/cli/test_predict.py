"""`harness predict`: detections of a real, tiny run over files, folders and embedded images; and every bad input."""

from __future__ import annotations

import json
import os
import shutil
import struct
import zlib
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from harness.cli import main
from harness.data.shapes.shapes import COUNT, ShapesSet
from harness.evaluation.inference import judge
from harness.records.store import ResultsStore
from harness.runs.run import evaluate_run
from harness.runs.trained import load_trained, newest_trained
from tests.support.runs import small_protocol


@pytest.fixture(scope="session")
def results(undisturbed):
    """Where a finished run of `center` lies; read only."""
    return undisturbed("center").path.parent.parent


@pytest.fixture
def call(tmp_path, monkeypatch, results):
    monkeypatch.chdir(tmp_path)

    def predict(*words, where=results):
        return CliRunner().invoke(main, ["predict", *(str(word) for word in words), "--results", str(where)])

    return predict


def save(path, width=50, height=40, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path, **options)
    return path


def test_an_embedded_image_needs_nothing_but_a_run(call, results):
    result = call("shapes:3", "--threshold", 0)
    assert result.exit_code == 0, result.output
    run_id = newest_trained(ResultsStore(results))
    assert f"run {run_id}, the newest with weights" in result.stdout
    report = json.loads(Path("predictions/predictions.json").read_text())
    assert report["run_id"] == run_id
    (image,) = report["images"]
    assert (image["image"], image["picture"], image["width"], image["height"]) == ("shapes:3", "shapes-3.png", 64, 64)
    assert image["boxes"]
    lengths = {len(image[key]) for key in ("boxes", "scores", "labels", "names")}
    assert len(lengths) == 1
    assert image["names"] == [report["classes"][label] for label in image["labels"]]
    assert image["scores"] == sorted(image["scores"], reverse=True)
    for x1, y1, x2, y2 in image["boxes"]:
        assert 0 <= x1 < x2 <= 64
        assert 0 <= y1 < y2 <= 64
    with Image.open("predictions/shapes-3.png") as picture:
        assert picture.width > 900


def test_detections_are_those_that_evaluation_judges(call, results):
    """The same way through resizing, padding and post-processing: judged together they give the record's AP."""
    protocol = small_protocol()
    images = ShapesSet(protocol.data.val_images, protocol.data.short_edge, "val")
    report = json.loads(call(*(f"shapes:{i}" for i in range(len(images))), "--threshold", 0, "--json").stdout)
    found = [
        {
            "boxes": np.array(row["boxes"], np.float32).reshape(-1, 4),
            "scores": np.array(row["scores"], np.float32),
            "labels": np.array(row["labels"], np.int64),
        }
        for row in report["images"]
    ]
    store = ResultsStore(results)
    expected = evaluate_run(store, newest_trained(store), data="shapes", device="cpu", workers=0)
    assert expected["AR100"] > 0
    assert judge(images, found)["AR100"] == pytest.approx(expected["AR100"], abs=0.01)
    assert judge(images, found)["AP"] == pytest.approx(expected["AP"], abs=0.01)


def test_files_of_any_size_answer_in_their_own_pixels(call):
    save(Path("wide.jpg"), 300, 50)
    save(Path("high.png"), 30, 200)
    result = call("wide.jpg", "high.png", "--threshold", 0, "--output", "out", "--json")
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    assert report == json.loads(Path("out/predictions.json").read_text())
    for row, (width, height) in zip(report["images"], ((300, 50), (30, 200)), strict=True):
        assert (row["width"], row["height"]) == (width, height)
        boxes = np.array(row["boxes"])
        assert (boxes >= 0).all()
        assert (boxes <= (width, height, width, height)).all()
        assert boxes[:, [0, 2]].max() > 0.5 * width  # not left in pixels of the resized image
        assert boxes[:, [1, 3]].max() > 0.5 * height


def test_an_image_has_the_same_detections_whatever_else_is_asked(call):
    save(Path("a.png"), 64, 64)
    save(Path("b.png"), 256, 40)
    alone = json.loads(call("a.png", "--threshold", 0, "--json").stdout)["images"]
    both = json.loads(call("a.png", "b.png", "--threshold", 0, "--json").stdout)["images"]
    assert both[0] == alone[0]


def test_a_folder_is_all_its_images_and_equal_stems_do_not_collide(call):
    for name in ("in/b.png", "in/a.jpg", "in/A.png", "other/a.png", "in/deep/c.png"):
        save(Path(name))
    Path("in/notes.txt").write_text("no image")
    report = json.loads(call("in", "other/a.png", "--json").stdout)
    assert [row["image"] for row in report["images"]] == ["in/A.png", "in/a.jpg", "in/b.png", "other/a.png"]
    pictures = [row["picture"] for row in report["images"]]
    assert pictures == ["A.png", "a-2.png", "b.png", "a-3.png"]
    assert sorted(path.name for path in Path("predictions").iterdir()) == sorted([*pictures, "predictions.json"])


def test_hidden_and_unreadable_files_of_a_folder_are_left_out_counted_and_named(call):
    save(Path("in/a.png"))
    save(Path("in/b.png"))
    Path("in/._a.png").write_bytes(b"as macOS leaves it")
    Path("in/.thumbnails").mkdir()
    Path("in/cut.jpg").write_bytes(b"")
    Path("in/gone.jpg").symlink_to("nowhere")
    os.mkfifo("in/pipe.jpg")
    result = call("in", "shapes:0", "--json")
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    assert report == json.loads(Path("predictions/predictions.json").read_text())
    assert [row["image"] for row in report["images"]] == ["in/a.png", "in/b.png", "shapes:0"]
    assert report["hidden"] == 1
    why = {row["image"]: row["reason"] for row in report["skipped"]}
    assert list(why) == ["in/cut.jpg", "in/gone.jpg", "in/pipe.jpg"]
    assert "cannot be decoded" in why["in/cut.jpg"]
    assert "is missing" in why["in/gone.jpg"]
    assert "is a device" in why["in/pipe.jpg"]
    (told,) = [line for line in result.stderr.splitlines() if line.startswith("warning")]
    assert told == (
        "warning: 3 unreadable images left out, besides 1 hidden file: in/cut.jpg, in/gone.jpg, in/pipe.jpg; "
        "predictions.json says why"
    )


def test_hidden_files_alone_are_no_reason_for_a_warning(call):
    save(Path("in/a.png"))
    Path("in/._a.png").write_bytes(b"as macOS leaves it")
    result = call("in")
    assert (result.exit_code, result.stderr) == (0, "")
    report = json.loads(Path("predictions/predictions.json").read_text())
    assert (report["hidden"], report["skipped"]) == (1, [])


def test_a_name_that_no_json_can_hold_is_left_out(call):
    save(Path("in/a.png"))
    try:
        Path(os.fsdecode(b"in/b\xff.png")).write_bytes(Path("in/a.png").read_bytes())
    except OSError:
        pytest.skip("this file system takes no such name")
    report = json.loads(call("in", "--json").stdout)
    assert [row["image"] for row in report["images"]] == ["in/a.png"]
    assert [row["image"] for row in report["skipped"]] == ["in/b\\xff.png"]
    assert "no UTF-8 text" in report["skipped"][0]["reason"]


def test_the_threshold_leaves_out_and_says_what_the_best_is(call):
    scores = json.loads(call("shapes:0", "--threshold", 0, "--json").stdout)["images"][0]["scores"]
    # In the middle of the widest gap: scores are told rounded, and one at the threshold could fall on either side.
    _, middle = max((high - low, (high + low) / 2) for high, low in pairwise(scores))
    kept = json.loads(call("shapes:0", "--threshold", middle, "--json").stdout)["images"][0]["scores"]
    assert kept == [score for score in scores if score >= middle]
    none = call("shapes:0", "--threshold", 1)
    assert none.exit_code == 0
    assert f"the best is {scores[0]:.3f}" in none.stdout


def giant_png(path, width=40_000, height=25_000):
    """A file of a few bytes that claims 10^9 pixels."""

    def chunk(kind, content):
        body = kind + content
        return struct.pack(">I", len(content)) + body + struct.pack(">I", zlib.crc32(body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"") + chunk(b"IEND", b""))


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("missing.png", "missing.png is missing"),
        ("text.png", "text.png cannot be decoded"),
        ("cut.jpg", "cut.jpg cannot be decoded"),
        ("giant.png", "giant.png has more than"),
        ("empty", "folder empty holds no image"),
        ("hidden", "folder hidden holds no image"),
        ("bad", "folder bad holds no image that can be read: image bad/cut.jpg cannot be decoded"),
        ("pipe.png", "pipe.png is a device; expected a file"),
        ("~nobody-of-that-name/a.png", "cannot be read: Could not determine home directory"),
        ("a" * 5000, "cannot be read: File name too long"),
        ("shapes:200", "shapes has images 0 to 199"),
        ("shapes", "shapes:INDEX"),
        ("shapes:x", "shapes:INDEX"),
    ],
)
def test_a_bad_image_is_one_line_and_nothing_is_written(call, word, message):
    good = save(Path("good.png"))
    whole = save(Path("whole.jpg")).read_bytes()
    Path("cut.jpg").write_bytes(whole[: len(whole) // 2])
    Path("text.png").write_text("no image")
    giant_png(Path("giant.png"))
    for folder in ("empty", "hidden", "bad"):
        Path(folder).mkdir()
    Path("hidden/._1.jpg").write_text("")
    Path("bad/cut.jpg").write_text("")
    os.mkfifo("pipe.png")
    assert COUNT["val"] == 200
    result = call(good, word)
    assert result.exit_code == 2
    assert result.stdout.count("\n") <= 1  # the run that was found
    assert message in result.stderr
    assert result.stderr.count("\n") == 1
    assert not Path("predictions").exists()


def test_a_drawing_never_replaces_an_image(call):
    path = save(Path("photo.png"))
    before = path.read_bytes()
    result = call("photo.png", "--output", ".")
    assert result.exit_code == 2
    assert "photo.png would be overwritten" in result.stderr
    assert path.read_bytes() == before
    assert not Path("predictions.json").exists()


def test_an_output_that_is_a_file_is_refused(call):
    Path("taken").write_text("")
    result = call("shapes:0", "--output", "taken")
    assert result.exit_code == 2
    assert "taken" in result.stderr


@pytest.fixture
def copied(results, tmp_path):
    """A results folder to be damaged, and the file of its weights."""
    copy = shutil.copytree(results, tmp_path / "copied")
    return copy, next(copy.glob("work/*/network.safetensors"))


def test_a_run_without_usable_weights_says_what_to_do(call, copied, undisturbed):
    root, weights = copied
    run_id = weights.parent.name
    good = weights.read_bytes()
    weights.write_bytes(good[: len(good) // 2])
    cut = call("shapes:0", where=root)
    shutil.copy(undisturbed("center", small_protocol(model={"channels": 16})).work_dir / weights.name, weights)
    other = call("shapes:0", where=root)
    weights.unlink()
    gone, named = call("shapes:0", where=root), call("shapes:0", "--run", run_id, where=root)
    unknown = call("shapes:0", "--run", run_id[:-1] + "?", where=root)
    for result, words in (
        (cut, "cannot be read"),
        (other, f"train it again with: harness run --results {root}"),
        (gone, f"harness run --assigner center --results {root}"),
        (named, f"has a record but no weights at {weights}; train it here with: harness run --results {root}"),
        (unknown, f"did you mean '{run_id}'"),
    ):
        assert result.exit_code == 2
        assert words in result.stderr
        assert result.stderr.count("\n") == 1
    assert not Path("predictions").exists()


def test_the_newest_run_with_weights_is_taken(copied):
    root, weights = copied
    store = ResultsStore(root)
    record = store.find(weights.parent.name)
    run_id = record.run_id.replace("-s0-", "-s5-")
    later = record.with_parts(seed=5, run_id=run_id, created="2999-01-01T00:00:00Z")
    store.save(later)
    assert newest_trained(store) == record.run_id  # the later one has no weights
    shutil.copytree(weights.parent, store.folder(later.run_id).path)
    assert newest_trained(store) == later.run_id


def test_a_loaded_run_is_ready_to_detect(results):
    import torch

    store = ResultsStore(results)
    trained = load_trained(store, newest_trained(store), torch.device("cpu"))
    assert not trained.model.training
    assert trained.model.assigner is None
    assert trained.protocol.content() == small_protocol().content()
    assert trained.classes == ShapesSet(1, 64, "val").classes
