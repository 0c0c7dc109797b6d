"""What a user can get wrong, typed or lying in a folder: one line that says what, where and what to do; exit code 2.

Every case runs through the real command line and the real engine, and must leave nothing half-written.
"""

import errno
import json
import os
import resource
import shutil
import struct
import zlib
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image
from safetensors.torch import load_file, save_file

from harness.cli import main
from harness.data import open_data
from harness.data.check import CHECKED
from harness.protocol.protocol import DataSection
from harness.records.store import ResultsStore
from tests.data.folders import coco_document, voc_object, voc_xml, write_coco, write_image, write_voc

SMALL = [
    "--protocol", "tiny", "--set", "schedule.steps=1", "--set", "schedule.batch_size=2", "--set",
    "data.short_edge=64", "--set", "data.long_edge=64", "--set", "data.train_images=2", "--set",
    "data.val_images=1", "--device", "cpu", "--threads", "1", "--workers", "0",
]  # fmt: skip


@pytest.fixture
def call(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return lambda *words: CliRunner().invoke(main, [str(word) for word in words])


def train(call, *words, assigner="center"):
    return call("run", "-a", assigner, *SMALL, *words, "--results", "out")


def refused(result, *expected):
    """One line for the user, and in --results nothing but the run's lock."""
    assert result.exit_code == 2, (result.stdout, result.stderr, result.exception)
    assert result.stderr.startswith("error: ")
    assert result.stderr.endswith("\n")
    assert result.stderr.count("\n") == 1
    assert "Traceback" not in result.stderr
    assert len(result.stderr) < 1200
    for words in expected:
        assert words in result.stderr
    assert left("out") <= {"lock"}


def left(results):
    """Names of the files in a results folder, but for what is known of images that were looked at."""
    return {path.name for path in Path(results).rglob("*") if not path.is_dir() and path.parent.name != CHECKED}


# --- data sets ---------------------------------------------------------------------------------------------------


def coco(root):
    write_coco(root, split="train2017")
    write_coco(root, split="val2017")


def voc(root):
    xml = voc_xml(voc_object("dog", 1, 1, 40, 40), voc_object("cat", 10, 10, 70, 50))
    write_voc(root, {"one": xml, "two": xml, "three": xml}, {"trainval": "one\ntwo\n", "test": "three\n"})


MAKE = {"coco": coco, "voc": voc}
TRAIN_JSON, TRAIN_LIST = "annotations/instances_train2017.json", "ImageSets/Main/trainval.txt"
PICTURE = {"coco": "train2017/a.jpg", "voc": "JPEGImages/one.jpg"}
Spoil = Callable[[Path], Any]


def rewrite(path: str, text: str | bytes) -> Spoil:
    """Replace a file's content."""
    return lambda root: (root / path).write_bytes(text.encode() if isinstance(text, str) else text)


def remove(path: str) -> Spoil:
    return lambda root: (root / path).unlink()


def folder_in_place(path: str) -> Spoil:
    return lambda root: ((root / path).unlink(), (root / path).mkdir())


def pipe_in_place(path: str) -> Spoil:
    return lambda root: ((root / path).unlink(), os.mkfifo(root / path))


def coco_entry(way: str, value: object) -> Spoil:
    """Replace one entry of the training annotations, such as ``annotations.0.bbox``; None removes it."""

    def spoil(root):
        document: Any = coco_document()
        *path, last = [int(part) if part.isdigit() else part for part in way.split(".")]
        target = document
        for part in path:
            target = target[part]
        target[last] = value
        if value is None:
            del target[last]
        (root / TRAIN_JSON).write_text(json.dumps(document))

    return spoil


def voc_object_of(*corners: object, name: str = "dog") -> Spoil:
    return rewrite("Annotations/one.xml", voc_xml(voc_object(name, *corners)))


def huge_png(width: int, height: int) -> bytes:
    """A PNG of a few bytes whose header promises a picture of any size."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def noise_jpeg(root: Path) -> bytes:
    path = root / "noise.jpg"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (60, 80, 3), dtype=np.uint8)).save(path)
    return path.read_bytes()


def truncated(path: str) -> Spoil:
    def spoil(root):
        whole = noise_jpeg(root)
        (root / path).write_bytes(whole[: len(whole) // 2])

    return spoil


def another_size(path: str) -> Spoil:
    return lambda root: write_image(root / path, (30, 20))


def broken_link(path: str) -> Spoil:
    return lambda root: ((root / path).unlink(), (root / path).symlink_to("gone"))


def floats(path: str) -> Spoil:
    return lambda root: Image.fromarray(np.full((60, 80), 7, np.float32)).save(root / path, format="TIFF")


EMPTY = '{"images": [], "annotations": [], "categories": [{"id": 2, "name": "dog"}, {"id": 9, "name": "cat"}]}'
BOMB = '<!DOCTYPE a [<!ENTITY x "ha"><!ENTITY y "&x;&x;&x;">]><annotation>&y;</annotation>'
FILE_ENTITY = '<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/passwd">]><annotation>&x;</annotation>'

COCO_CASES: dict[str, tuple[Spoil, tuple[str, ...]]] = {
    "no folder": (shutil.rmtree, ("data folder data does not exist", "annotations/instances_SPLIT.json")),
    "no annotations": (lambda root: shutil.rmtree(root / "annotations"), ("no annotation file", "instances_SPLIT")),
    "no images": (lambda root: shutil.rmtree(root / "train2017"), ("train2017/a.jpg is missing", "put it there")),
    "annotations are a folder": (folder_in_place(TRAIN_JSON), ("instances_train2017.json", "expected a file")),
    "annotations are a pipe": (pipe_in_place(TRAIN_JSON), ("instances_train2017.json", "expected a file")),
    "broken JSON": (rewrite(TRAIN_JSON, '{"images": ['), ("instances_train2017.json is not valid JSON", "line 1")),
    "empty file": (rewrite(TRAIN_JSON, ""), ("instances_train2017.json is not valid JSON",)),
    "no text": (rewrite(TRAIN_JSON, b'{"images": "\xff\xff'), ("is not valid JSON",)),
    "nested": (rewrite(TRAIN_JSON, "[" * 100_000), ("instances_train2017.json",)),
    "digits": (rewrite(TRAIN_JSON, '{"images": [' + "9" * 5000 + "]}"), ("is not valid JSON",)),
    "a list": (rewrite(TRAIN_JSON, "[]"), ("'images' must be a list",)),
    "empty": (rewrite(TRAIN_JSON, EMPTY), ("split 'train2017' of data has no images",)),
    "no categories": (coco_entry("categories", []), ("'categories' is empty",)),
    "image id twice": (coco_entry("images.0.id", 3), ("image id 3 occurs twice",)),
    "annotation id twice": (coco_entry("annotations.0.id", 5), ("annotation id 5 occurs twice", "id of its own")),
    "category id twice": (coco_entry("categories.0.id", 2), ("category id 2 occurs twice",)),
    "annotation of no image": (coco_entry("annotations.0.image_id", 99), ("annotation 1: image_id 99 is not among",)),
    "unknown class": (coco_entry("annotations.0.category_id", 99), ("annotation 1: category_id 99 is not among",)),
    "no class": (coco_entry("annotations.0.category_id", None), ("annotation 1: category_id None",)),
    "other classes": (
        coco_entry("categories.0.name", "tiger"), ("train2017 and val2017 have different classes (cat, tiger)",),
    ),
    "nan": (coco_entry("annotations.0.bbox", [1, 2, float("nan"), 4]), ("annotation 1: 'bbox' must be 4 finite",)),
    "infinity": (coco_entry("annotations.0.bbox", [1, 2, float("inf"), 4]), ("annotation 1: 'bbox' must be 4 finite",)),
    "text in a box": (coco_entry("annotations.0.bbox", [1, 2, "3", 4]), ("annotation 1: 'bbox'", "'3'")),
    "three numbers": (coco_entry("annotations.0.bbox", [1, 2, 3]), ("annotation 1: 'bbox'",)),
    "no box": (coco_entry("annotations.0.bbox", None), ("annotation 1: 'bbox'", "None")),
    "image of no size": (coco_entry("images.0.width", -80), ("image 7: width and height must be whole",)),
    "climbs": (coco_entry("images.0.file_name", "../../x.jpg"), ("image 7: 'file_name' must stay inside train2017/",)),
    "absolute": (coco_entry("images.0.file_name", "/etc/passwd"), ("image 7: 'file_name' must stay inside",)),
    "half a character": (coco_entry("images.0.file_name", "\ud800.jpg"), ("image 7: 'file_name' must stay inside",)),
    "class of half a character": (coco_entry("categories.0.name", "\ud800"), ("category 9 needs a 'name'",)),
    "long name": (coco_entry("images.0.file_name", "a" * 5000), ("cannot be read: File name too long",)),
}  # fmt: skip

VOC_CASES: dict[str, tuple[Spoil, tuple[str, ...]]] = {
    "no folder": (shutil.rmtree, ("data folder data does not exist", "ImageSets/Main/SPLIT.txt")),
    "no lists": (lambda root: shutil.rmtree(root / "ImageSets"), ("no default train split", "it has none")),
    "list is a folder": (folder_in_place(TRAIN_LIST), ("data/ImageSets/Main/trainval.txt", "expected a file")),
    "empty list": (rewrite(TRAIN_LIST, "\n"), ("split 'trainval' of data has no images",)),
    "list is no text": (rewrite(TRAIN_LIST, b"\xff\xff"), ("trainval.txt is not UTF-8 text",)),
    "climbs": (rewrite(TRAIN_LIST, "../../secret\n"), ("trainval.txt, line 1: '../../secret' must stay inside",)),
    "absolute": (rewrite(TRAIN_LIST, "/etc/passwd\n"), ("line 1: '/etc/passwd' must stay inside the data folder",)),
    "no annotation": (remove("Annotations/one.xml"), ("Annotations/one.xml cannot be read: No such file",)),
    "annotation is a pipe": (pipe_in_place("Annotations/one.xml"), ("one.xml is a folder or a device",)),
    "no image": (remove("JPEGImages/one.jpg"), ("one.jpg is missing",)),
    "broken XML": (rewrite("Annotations/one.xml", "<annotation><object>"), ("one.xml is not plain well-formed XML",)),
    "empty XML": (rewrite("Annotations/one.xml", ""), ("one.xml is not plain well-formed XML",)),
    "no UTF-8": (rewrite("Annotations/one.xml", b"<annotation>\xff\xfe</annotation>"), ("one.xml is not plain",)),
    "unknown encoding": (rewrite("Annotations/one.xml", '<?xml version="1.0" encoding="x"?><a/>'), ("one.xml is not",)),
    "bomb": (rewrite("Annotations/one.xml", BOMB), ("one.xml is not plain well-formed XML: EntitiesForbidden",)),
    "entity of a file": (rewrite("Annotations/one.xml", FILE_ENTITY), ("one.xml", "EntitiesForbidden")),
    "no class": (voc_object_of(1, 1, 9, 9, name=""), ("one.xml, object 1 has no 'name'",)),
    "text in a box": (voc_object_of("x", 1, 9, 9), ("one.xml, object 1: 'xmin' must be a number, got 'x'",)),
    "nan": (voc_object_of(1, "nan", 9, 9), ("one.xml, object 1: 'ymin' must be a number, got 'nan'",)),
    "infinity": (voc_object_of(1, 1, "1e999", 9), ("one.xml, object 1: 'xmax' must be a number",)),
}  # fmt: skip

PICTURE_CASES: dict[str, tuple[Callable[[str], Spoil], tuple[str, ...]]] = {
    "truncated JPEG": (truncated, ("cannot be decoded", "replace or remove it")),
    "0 bytes": (lambda path: rewrite(path, b""), ("cannot be decoded", "replace or remove it")),
    "text": (lambda path: rewrite(path, "not a picture"), ("cannot be decoded",)),
    "10^9 pixels": (lambda path: rewrite(path, huge_png(40_000, 25_000)), ("pixels; make it smaller",)),
    "10^8 pixels": (lambda path: rewrite(path, huge_png(10_000, 10_000)), ("pixels; make it smaller",)),
    "floats beyond 1": (floats, ("more than 8 bits a channel and values from 7 to 7", "convert it to 8 bits")),
    "another size": (another_size, ("is 20x30, but its annotation says 80x60",)),
    "a folder": (folder_in_place, ("is a folder or a device; expected a file",)),
    "a pipe": (pipe_in_place, ("is a folder or a device; expected a file",)),
    "a broken link": (broken_link, ("is missing", "put it there or take it out")),
}  # fmt: skip

DATA_CASES = [
    *(pytest.param("coco", *case, id=f"coco-{name}") for name, case in COCO_CASES.items()),
    *(pytest.param("voc", *case, id=f"voc-{name}") for name, case in VOC_CASES.items()),
    *(
        pytest.param(kind, make(PICTURE[kind]), (Path(PICTURE[kind]).name, *words), id=f"{kind}-picture-{name}")
        for kind in MAKE
        for name, (make, words) in PICTURE_CASES.items()
    ),
]


@pytest.mark.parametrize(("kind", "spoil", "expected"), DATA_CASES)
def test_bad_data(call, kind, spoil, expected):
    MAKE[kind](Path("data"))
    spoil(Path("data"))
    refused(train(call, "--data", f"{kind}:data"), *expected)


without_permission = pytest.mark.skipif(os.geteuid() == 0, reason="the superuser may read and write everything")


@without_permission
@pytest.mark.parametrize(
    ("kind", "path"),
    [
        *(("coco", path) for path in (".", "annotations", TRAIN_JSON, "train2017")),
        *(("voc", path) for path in (".", "ImageSets", TRAIN_LIST, "Annotations", "JPEGImages")),
    ],
)
def test_no_permission_to_read(call, kind, path):
    MAKE[kind](Path("data"))
    Path("data", path).chmod(0)
    result = train(call, "--data", f"{kind}:data")
    Path("data", path).chmod(0o700)
    refused(result, "data", "Permission denied")


@without_permission
def test_no_permission_to_write(call):
    Path("out").mkdir(mode=0o500)
    refused(train(call), "cannot write out/work/center-", "Permission denied; free or unlock the place")


def loaded(spec):
    images = open_data(spec, DataSection(), role="train")
    return images, [images.load(index) for index in range(len(images))]


@pytest.mark.parametrize("mode", ["CMYK", "L", "P", "LA", "RGBA", "1", "animated"])
def test_pictures_of_other_kinds_work(tmp_path, mode):
    coco(tmp_path)
    if mode == "animated":
        frames = [Image.new("RGB", (80, 60), colour) for colour in ("red", "green", "blue")]
        frames[0].save(tmp_path / "train2017" / "a.jpg", format="GIF", save_all=True, append_images=frames[1:])
    else:
        picture = Image.new(mode, (80, 60))
        picture.save(tmp_path / "train2017" / "a.jpg", format="TIFF" if mode in ("CMYK", "LA") else "PNG")
    _, (first, _) = loaded(f"coco:{tmp_path}")
    assert (first.shape, first.dtype) == ((60, 80, 3), np.uint8)


def test_a_byte_order_mark_a_link_and_many_classes_work(tmp_path):
    document = coco_document()
    document["categories"] = [{"id": number, "name": f"class {number}"} for number in range(20_000)]
    write_coco(tmp_path / "real", split="train2017")
    (tmp_path / "real" / TRAIN_JSON).write_bytes(b"\xef\xbb\xbf" + json.dumps(document).encode())
    (tmp_path / "data").mkdir()
    for name in ("annotations", "train2017"):
        (tmp_path / "data" / name).symlink_to(tmp_path / "real" / name)
    images, pictures = loaded(f"coco:{tmp_path / 'data'}")
    assert (len(images.classes), len(pictures)) == (20_000, 2)


def test_a_folder_whose_name_no_record_can_hold(call):
    try:
        coco(Path("data\udcff"))
    except OSError:
        pytest.skip("this file system takes no such name")
    Path("data").symlink_to("data\udcff")
    refused(train(call, "--data", "coco:data"), "'data\\udcff' is no UTF-8 text", "rename it")


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_annotations_may_say_their_encoding(tmp_path, encoding):
    voc(tmp_path)
    text = voc_xml(voc_object("größe", 1, 1, 40, 40))
    (tmp_path / "Annotations" / "one.xml").write_bytes(text.encode(encoding))
    assert "größe" in loaded(f"voc:{tmp_path}")[0].classes


@pytest.mark.parametrize("kind", ["coco", "voc"])
def test_boxes_without_area_are_dropped_counted_said_and_recorded(call, kind):
    MAKE[kind](Path("data"))
    if kind == "coco":
        document = coco_document()
        for number, box in enumerate(([5, 5, 0, 10], [200, 5, 10, 10], [9, 9, -4, 4], [8, 8, 20, 20])):
            row = {"id": 100 + number, "image_id": 3, "category_id": 2, "bbox": box, "area": 1, "iscrowd": 0}
            document["annotations"].append(row)
        Path("data", TRAIN_JSON).write_text(json.dumps(document))
        dropped = {"boxes without area dropped": 3, "boxes outside the image dropped": 1}
    else:
        boxes = [(40, 40, 40, 40), (50, 20, 30, 60), (200, 1, 220, 9), (1, 1, 40, 40)]
        text = voc_xml(*(voc_object("dog", *box) for box in boxes))
        Path("data/Annotations/one.xml").write_text(text)
        dropped = {"boxes without area dropped": 2, "boxes outside the image dropped": 1}
    result = train(call, "--data", f"{kind}:data")
    assert result.exit_code == 0, (result.stderr, result.exception)
    split = {"coco": "train2017", "voc": "trainval"}[kind]
    for what, count in dropped.items():
        assert f"warning: {count} {what} in data, split {split}" in result.stdout
    record = ResultsStore(Path("out")).find("center")
    assert dropped.items() <= record.data.train.warnings.items()
    quiet = json.loads(train(call, "--data", f"{kind}:data", "--seed", 1, "--json").stdout)
    assert quiet["record"]["data"]["train"]["warnings"] == record.data.train.warnings


# --- the command line and the protocol ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--seed", "-1"], ("--seed", "-1")),
        (["--seed", "one"], ("--seed", "'one' is not a valid integer")),
        (["--threads", "0"], ("--threads",)),
        (["--workers", "many"], ("--workers",)),
        (["--device", "tpu"], ("--device", "cpu")),
        (["--data", "cocoo:x"], ("unknown data source 'cocoo:x'", "did you mean 'coco'")),
        (["--data", "coco:"], ("unknown data source 'coco:'", "coco:DIR")),
        (["--data", "coco:~nobody-of-that-name/x"], ("cannot be opened", "expected annotations/")),
        (["--data", "voc:" + "a/" * 5000], ("cannot be opened (File name too long)", "expected Annotations/")),
        (["--train-split", "monday"], ("no split 'monday'", "train and val")),
        (["--option", "radius"], ("--option 'radius' is not of the form key=value",)),
        (["--option", "radios=1"], ("no option 'radios'", "did you mean 'radius'")),
        (["--option", "radius=wide"], ("center.radius is 'wide'", "float")),
        (["--option", "radius=nan"], ("center.radius is 'nan'",)),
        (["--option", "radius=-1"], ("radius is -1.0; it must be >= 0",)),
        (["--set", "nonsense"], ("--set 'nonsense' is not of the form section.key=value", "schedule.steps=100")),
        (["--set", "schedule.step=1"], ("unknown key 'schedule.step', did you mean 'steps'",)),
        (["--set", "shedule.steps=1"], ("unknown key 'shedule', did you mean 'schedule'",)),
        (["--set", "schedule.steps=-5"], ("schedule.steps", "greater than 0", "-5")),
        (["--set", "schedule.steps=ten"], ("schedule.steps", "integer", "'ten'")),
        (["--set", "schedule.steps=1.5"], ("schedule.steps", "integer", "1.5")),
        (["--set", "schedule.steps=true"], ("schedule.steps", "integer", "True")),
        (["--set", 'schedule.steps="3"'], ("schedule.steps", "integer", "'3'")),
        (["--set", "schedule.steps=" + "9" * 5000], ("schedule.steps", "integer")),
        (["--set", "schedule.steps=" + "[" * 5000], ("schedule.steps", "integer")),
        (["--set", "schedule.lr=inf"], ("schedule.lr", "finite")),
        (["--set", "schedule.lr=nan"], ("schedule.lr", "nan")),
        (["--set", "data.scale_jitter=[1.0, inf]"], ("data.scale_jitter.1", "finite")),
        (["--set", "data.crop=1"], ("data.crop", "boolean")),
        (["--set", "data.short_edge=5"], ("data.short_edge of at least 64 px, got 5",)),
        (["--set", "model.backbone=resnet5O"], ("unknown backbone 'resnet5O'", "resnet50")),
        (["--protocol", "tinny"], ("unknown protocol 'tinny', did you mean 'tiny'",)),
        (["--protocol", "gone.toml"], ("protocol gone.toml cannot be read: No such file",)),
        (["--data", "coco:\udcff"], ("argument 'coco:\\udcff' is no UTF-8 text", "rename it")),
        (["--results", "a-file"], ("--results", "'a-file' is a file")),
        (["--results", "a-file/below"], ("cannot write a-file/below/work/", "Not a directory", "choose another")),
    ],
    ids=lambda value: " ".join(value)[:50] if isinstance(value, list) else "",
)
def test_bad_arguments(call, words, expected):
    Path("a-file").write_text("precious")
    result = call("run", "-a", "center", *SMALL, "--results", "out", *words)
    refused(result, *expected)
    assert Path("a-file").read_text() == "precious"


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("atts", ("unknown assigner 'atts', did you mean 'atss'",)),
        ("", ("unknown assigner ''", "known: center, atss")),
        ("atss[topk=9", ("the bracket is not closed; write name[key=value,key=value]",)),
        ("atss[9]", ("'9' is not of the form key=value",)),
        ("atss[topk=nine]", ("atss.topk is 'nine'; it must be of type int",)),
        ("atss[topk=0]", ("topk is 0; it must be >= 1",)),
    ],
)
def test_bad_assigners(call, spec, expected):
    refused(train(call, assigner=spec), *expected)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[schedule\n", ("my.toml is not valid TOML", "line 1")),
        ("a = " + "[" * 10_000, ("my.toml is not valid TOML",)),
        ("a = " + "9" * 5000, ("my.toml is not valid TOML",)),
        (b"\xff\xfe", ("my.toml cannot be read", "utf-8")),
        ("schedule = 3\n", ("my.toml: schedule",)),
        ("name = 3\n", ("my.toml: name", "string")),
        ("[schedul]\n", ("my.toml: unknown key 'schedul', did you mean 'schedule'",)),
        ("[schedule]\nsteps = -1\n", ("my.toml: schedule.steps", "greater than 0", "-1")),
        ("[schedule]\nsteps = 1e3\n", ("my.toml: schedule.steps", "integer")),
        ('[schedule]\nlr = "fast"\n', ("my.toml: schedule.lr", "number", "'fast'")),
        ("[schedule]\ndecay_at = [2.0]\n", ("my.toml: schedule.decay_at.0", "less than or equal to 1")),
        ("[data]\nscale_jitter = [1.0]\n", ("my.toml: data.scale_jitter",)),
    ],
    ids=range(12),
)
def test_bad_protocol_files(call, text, expected):
    Path("my.toml").write_bytes(text.encode() if isinstance(text, str) else text)
    refused(call("run", "-a", "center", "--protocol", "my.toml", "--results", "out"), *expected)


def test_a_protocol_may_begin_with_a_byte_order_mark(call):
    Path("my.toml").write_text("[schedule]\nsteps = -1\n", encoding="utf-8-sig")
    refused(call("run", "-a", "center", "--protocol", "my.toml", "--results", "out"), "schedule.steps")


# --- results -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The results folder of one finished run on shapes. Copy it."""
    results = tmp_path_factory.mktemp("trained") / "out"
    done = CliRunner().invoke(main, ["run", "-a", "center", *SMALL, "--results", str(results)])
    assert done.exit_code == 0, (done.stderr, done.exception)
    return results


@pytest.fixture
def results(trained, call):
    """A copy of it as ``mine``, and the run's id."""
    shutil.copytree(trained, "mine")
    return ResultsStore(Path("mine")).find("center").run_id


def change_record(run, **changes):
    record(run).write_text(json.dumps(json.loads(record(run).read_text()) | changes))


def cut(path, keep=0.5):
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * keep)])


def other_model(run_id):
    state = load_file(weights(run_id))
    state.pop(sorted(state)[0])
    save_file(state, weights(run_id))


def record(run_id, attempt=""):
    return Path(f"mine/runs/{run_id}{attempt}.json")


def weights(run_id):
    return Path(f"mine/work/{run_id}/network.safetensors")


EVAL_CASES = {
    "corrupt record": (lambda run: record(run).write_text("{"), (".json is no readable record", "move it out of")),
    "cut record": (lambda run: cut(record(run)), (".json is no readable record",)),
    "nested record": (lambda run: record(run).write_text("[" * 100_000), (".json is no readable record",)),
    "newest attempt corrupt": (lambda run: record(run, ".2").write_text(""), (".2.json is no readable record",)),
    "another schema": (lambda run: change_record(run, schema=99), ("is a record of schema 99, newer than", "update")),
    "a wrong type": (lambda run: change_record(run, seed="zero"), ("seed", "integer")),
    "another name": (lambda run: change_record(run, run_id="other"), ("holds the record of other",)),
    "a protocol of another version": (
        lambda run: change_record(run, protocol={"name": "x", "note": "", "hash": "0", "content": {"new": 1}}),
        ("holds a protocol of another version: unknown key 'new'", "train it again with: harness run"),
    ),
    "no weights": (lambda run: weights(run).unlink(), ("no weights at", "harness run")),
    "cut weights": (lambda run: cut(weights(run)), ("network.safetensors cannot be read", "train the run again")),
    "empty weights": (lambda run: cut(weights(run), 0), ("network.safetensors cannot be read",)),
    "weights of another model": (other_model, ("network.safetensors", "another model")),
}  # fmt: skip


@pytest.mark.parametrize(("spoil", "expected"), list(EVAL_CASES.values()), ids=list(EVAL_CASES))
def test_bad_runs_to_evaluate(call, results, spoil, expected):
    spoil(results)
    before = left("mine")
    refused(call("eval", results, "--results", "mine", "--workers", 0), *expected)
    assert left("mine") == before


def test_evaluating_what_does_not_fit(call, results):
    coco(Path("data"))
    refused(call("eval", results, "--results", "mine", "--data", "coco:data"), "classes", "dog, cat", "same classes")
    refused(call("eval", "centre", "--results", "mine"), "no run 'centre'", "harness ls runs")
    refused(call("eval", "center", "--results", "gone"), "no run 'center' under gone/runs")
    refused(call("eval", results, "--results", "mine", "--data", "voc:gone"), "data folder gone does not exist")


def test_eval_says_what_it_leaves_out(call):
    coco(Path("data"))
    assert train(call, "--data", "coco:data").exit_code == 0
    shown = call("eval", "center", "--results", "out", "--data", "coco:data", "--workers", 0)
    assert "warning: 1 boxes without area dropped in data, split val2017" in shown.stdout


@pytest.mark.parametrize("name", ["", "{", "[]", "null", '{"schema": 1}', '{"schema": 1, "run_id": 3}', "[" * 100_000])
def test_a_broken_record_is_named_and_hides_no_other(call, results, name):
    Path("mine/runs/broken.json").write_text(name)
    for words in (["ls", "runs"], ["leaderboard"]):
        shown = call(*words, "--results", "mine")
        assert shown.exit_code == 0
        assert shown.stderr.startswith("left out: mine/runs/broken.json")
        assert shown.stderr.count("\n") == 1
        assert "center" in shown.stdout
    checked = call("leaderboard", "--check", "--results", "mine")
    assert checked.exit_code == 2
    assert checked.stderr.splitlines()[-1].startswith("error: mine/runs/broken.json")


def test_a_leaderboard_that_cannot_be_written(call, results):
    Path("mine/leaderboard.csv").unlink()
    Path("mine/leaderboard.csv").mkdir()
    shown = call("leaderboard", "--results", "mine")
    assert (shown.exit_code, shown.stderr.count("\n")) == (0, 1)
    assert shown.stderr.startswith("shown but not written: cannot write mine/leaderboard.csv: Is a directory; ")
    assert "center" in shown.stdout
    refused(call("leaderboard", "--check", "--results", "mine"), "mine/leaderboard.csv cannot be read")
    assert not [name for name in left("mine") if name.endswith(".tmp")]
    refused(call("leaderboard", "--results", "gone"), "no runs under gone/runs", "--results DIR")
    assert not Path("gone").exists()
    refused(call("ls", "everything"), "cannot list 'everything'", "known: assigners")


@pytest.mark.parametrize(
    ("state", "expected"),
    [
        ('{"run_id": "another"}', ("is of run another",)),
        ("{", ("cannot be restored", "anew")),
        ('{"run_id": "RUN", "colour": 1}', ("cannot be restored",)),
        ('{"run_id": "RUN"}', ("cannot be restored",)),
    ],
)
def test_resuming_from_what_is_no_checkpoint_of_this_run(call, results, state, expected):
    checkpoint = Path(f"mine/work/{results}/checkpoint")
    checkpoint.mkdir()
    (checkpoint / "state.json").write_text(state.replace("RUN", results))
    refused(call("run", "-a", "center", *SMALL, "--results", "mine", "--resume"), str(checkpoint), *expected)
    assert len(list(Path("mine/runs").iterdir())) == 1


# --- a disk that is full -----------------------------------------------------------------------------------------


@contextmanager
def files_of_at_most(size):
    """Every longer write of this process fails, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("size", [0, 100, 50_000])
def test_a_full_disk_in_training(call, size):
    with files_of_at_most(size):
        result = train(call)
    assert result.exit_code == 2, result.exception
    assert result.stderr.startswith("error: cannot write out/work/center-")
    assert "File too large; free" in result.stderr
    assert result.stderr.count("\n") == 1
    assert left("out") <= {"lock", "metrics.jsonl"}
    assert not list(Path("out").rglob("checkpoint*"))


@pytest.mark.parametrize("folder", [("work",), ("runs",), ()])
def test_a_full_disk_at_the_end(call, monkeypatch, folder):
    real = os.fsync

    def full(handle):
        path = Path(os.readlink(f"/proc/self/fd/{handle}"))
        if path.suffix == ".tmp" and path.relative_to(Path("out").resolve()).parts[:-1][:1] == folder:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(handle)

    if not Path("/proc/self/fd").is_dir():
        pytest.skip("this system does not name open files in /proc")
    monkeypatch.setattr(os, "fsync", full)
    result = train(call)
    assert result.exit_code == 2, result.exception
    assert result.stderr.count("\n") == 1
    where = "/".join(("out", *folder, "center-" if folder else "leaderboard.csv"))
    assert result.stderr.startswith(f"error: cannot write {where}")
    assert "No space left on device; free" in result.stderr
    assert not [name for name in left("out") if name.endswith(".tmp")]
    assert not Path("out/leaderboard.csv").exists()
    assert len(list(Path("out/runs").glob("*"))) == (folder == ())


def test_a_results_folder_that_is_read_only(call, monkeypatch):
    def refuse(path, *_, **__):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))

    monkeypatch.setattr(os, "mkdir", refuse)
    refused(train(call), "cannot write out/work/center-", "Read-only file system; free or unlock the place, or choose")
    assert not Path("out").exists()
