from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from harness.data import SOURCES, open_data
from harness.data.files import MAX_LINE, decode, size_in_header, stays_inside, text_lines
from harness.errors import UserError
from harness.protocol import DataSection


@pytest.mark.parametrize(
    ("mode", "suffix", "colour", "expected"),
    [
        ("L", "png", 90, (90, 90, 90)),
        ("1", "png", 1, (255, 255, 255)),
        ("RGBA", "png", (10, 20, 30, 0), (10, 20, 30)),
        ("CMYK", "jpg", (0, 255, 255, 0), (255, 0, 0)),
        ("RGB", "png", (1, 2, 3), (1, 2, 3)),
    ],
)
def test_every_mode_becomes_rgb(
    tmp_path: Path, mode: str, suffix: str, colour: object, expected: tuple[int, ...]
) -> None:
    path = tmp_path / f"x.{suffix}"
    Image.new(mode, (5, 4), colour).save(path)
    image = decode(path)
    assert image.shape == (4, 5, 3)
    assert image.dtype == np.uint8
    assert image.flags["C_CONTIGUOUS"]
    assert np.abs(image.astype(int) - expected).max() <= 2


def test_palette_becomes_rgb(tmp_path: Path) -> None:
    Image.new("RGB", (5, 4), (200, 100, 50)).convert("P", palette=Image.Palette.ADAPTIVE).save(tmp_path / "x.png")
    assert decode(tmp_path / "x.png")[0, 0].tolist() == [200, 100, 50]


def test_exif_orientation_is_not_applied(tmp_path: Path) -> None:
    image, exif = Image.new("RGB", (20, 10)), Image.Exif()
    exif[0x0112] = 6  # to be shown turned by 90 degrees
    image.save(tmp_path / "x.jpg", exif=exif)
    assert decode(tmp_path / "x.jpg").shape == (10, 20, 3)


def test_faults_name_the_file(tmp_path: Path) -> None:
    path = tmp_path / "x.png"
    with pytest.raises(UserError, match=r"x\.png is missing"):
        decode(path)
    path.write_bytes(b"")
    with pytest.raises(UserError, match=r"x\.png cannot be decoded"):
        decode(path)
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (50, 50, 3), dtype=np.uint8)).save(path)
    whole = path.read_bytes()
    for keep in (20, len(whole) // 2):
        path.write_bytes(whole[:keep])
        with pytest.raises(UserError, match=r"x\.png cannot be decoded") as caught:
            decode(path)
        assert "\n" not in str(caught.value)
    Image.fromarray(np.zeros((4, 4), dtype=np.uint16)).save(path)
    with pytest.raises(UserError, match="more than 8 bits a channel"):
        decode(path)
    with pytest.raises(UserError, match="cannot be decoded"):
        decode(tmp_path)


@pytest.mark.parametrize("side", [20, 40])  # Pillow warns above its limit and refuses above twice the limit
def test_huge_images_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, side: int) -> None:
    Image.new("RGB", (side, side)).save(tmp_path / "x.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 300)
    with pytest.raises(UserError, match="more than 300 pixels"):
        decode(tmp_path / "x.png")


def test_the_size_is_read_from_the_header_alone(tmp_path: Path) -> None:
    path = tmp_path / "x.jpg"
    exif = Image.Exif()
    exif[0x0112] = 6  # to be shown on its side: boxes count stored pixels all the same
    Image.effect_noise((300, 200), 80).save(path, exif=exif)
    assert size_in_header(path) == (200, 300)
    path.write_bytes(path.read_bytes()[:2000])  # the rest is missing
    assert size_in_header(path) == (200, 300)
    with pytest.raises(UserError, match="cannot be decoded"):
        decode(path)


def test_a_bad_header_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "text.jpg").write_text("no picture")
    os.mkfifo(tmp_path / "pipe.jpg")
    Image.new("RGB", (20, 20)).save(tmp_path / "large.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 300)
    for name, message in (
        ("text.jpg", "cannot be decoded"),
        ("none.jpg", "is missing"),
        ("pipe.jpg", "is a folder or a device"),
        ("large.png", "more than 300 pixels"),
    ):
        with pytest.raises(UserError, match=message):
            size_in_header(tmp_path / name)


def test_lines_of_text_one_by_one(tmp_path: Path) -> None:
    path = tmp_path / "list.txt"
    content = b"\xef\xbb\xbfone \r\n\r\n  t w\xc3\xb6\n\nlast"
    path.write_bytes(content)
    given: list[bytes] = []
    assert list(text_lines(path, "list", given.append)) == [(1, "one"), (3, "t wö"), (5, "last")]
    assert b"".join(given) == content
    path.write_bytes(b"fine\n" + b"x" * MAX_LINE + b"\n")
    lines = text_lines(path, "list", given.append)
    assert next(lines) == (1, "fine")
    with pytest.raises(UserError, match=r"list .*list\.txt, line 2 is longer than 4096 bytes"):
        next(lines)


@pytest.mark.parametrize("kind", ["none", "folder", "pipe"])
def test_lines_of_what_is_no_file(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "list.txt"
    if kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    with pytest.raises(UserError, match=r"list .*list\.txt (cannot be read: No such|is a folder or a device)"):
        next(text_lines(path, "list", lambda line: None))


@pytest.mark.parametrize("name", ["a.jpg", "sub/a.jpg", "a..b.jpg", "ä ö.jpg"])
def test_names_inside(name: str) -> None:
    assert stays_inside(name)


@pytest.mark.parametrize("name", ["", " ", "../a", "a/../../b", "/a", "\\a", "..\\a", "c:/a", "//host/a", "a\0b"])
def test_names_outside(name: str) -> None:
    assert not stays_inside(name)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("shape", "unknown data source 'shape', did you mean 'shapes'"),
        ("coko:/tmp", "did you mean 'coco'"),
        ("coco", "use one of shapes, coco:DIR, voc:DIR, wider:DIR"),
        ("widder:/tmp", "unknown data source 'widder:/tmp', did you mean 'wider'"),
        ("wider", "unknown data source 'wider'; use one of"),
        ("shapes:/tmp", "unknown data source 'shapes:/tmp'"),
        ("coco:/nowhere/at/all", "data folder /nowhere/at/all does not exist; expected annotations/instances_SPLIT"),
        ("wider:/nowhere/at/all", "data folder /nowhere/at/all does not exist; expected wider_face_split/"),
        ("voc:/nowhere/at/all", "data folder /nowhere/at/all does not exist; expected Annotations/"),
    ],
)
def test_unknown_sources_and_folders(spec: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        open_data(spec, DataSection(), role="train")


def test_shapes_take_size_and_count_from_the_protocol() -> None:
    data = DataSection(short_edge=96, long_edge=96, train_images=7)
    train, val = (open_data("shapes", data, role=role) for role in ("train", "val"))
    assert (len(train), train.split, train.size(0)) == (7, "train", (96, 96))
    assert (len(val), val.split) == (200, "val")


def test_listing_sources_imports_no_torch() -> None:
    code = "import sys, harness.data; assert not {'torch', 'PIL', 'numpy'} & set(sys.modules), 'imported'"
    subprocess.run([sys.executable, "-c", code], check=True)
    assert set(SOURCES) == {"shapes", "coco:DIR", "voc:DIR", "wider:DIR"}
