from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from harness.core.errors import UserError
from harness.data import open_data
from harness.data.readers.reading import MAX_LINE, inside, stays_inside, text_lines
from harness.data.sources import sources
from harness.protocol.protocol import DataSection


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
    ("name", "expected"),
    [
        ("a.jpg", "a.jpg"),
        (" sub\\a.jpg ", "sub/a.jpg"),
        ("./sub/../a.jpg", "a.jpg"),
        ("ROOT/sub/a.jpg", "sub/a.jpg"),
        ("ROOT", "."),
        *(
            (name, None)
            for name in ("", " ", "../a.jpg", "a/../../b", "ROOT/../b", "ROOTS/a", "/etc/a", "c:\\a", "a\0")
        ),
    ],
)
def test_names_as_those_within_a_folder(tmp_path: Path, name: str, expected: str | None) -> None:
    assert inside(tmp_path, name.replace("ROOT", str(tmp_path))) == expected


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("shape", "unknown data source 'shape', did you mean 'shapes'"),
        ("coko:/tmp", "did you mean 'coco'"),
        ("coco", "use one of shapes, coco:DIR, voc:DIR, wider:DIR, yolo:DIR, csv:FILE"),
        ("widder:/tmp", "unknown data source 'widder:/tmp', did you mean 'wider'"),
        ("wider", "unknown data source 'wider'; use one of"),
        ("shapes:/tmp", "unknown data source 'shapes:/tmp'"),
        ("coco:/nowhere/at/all", "data folder /nowhere/at/all does not exist; expected annotations/instances_SPLIT"),
        ("wider:/nowhere/at/all", "data folder /nowhere/at/all does not exist; expected wider_face_split/"),
        ("yolo:/nowhere/at/all", "data folder /nowhere/at/all does not exist; expected data.yaml"),
        ("csv:/nowhere/at/all.csv", "data folder /nowhere/at does not exist; expected a table of boxes"),
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
    folders = ["coco:DIR", "voc:DIR", "wider:DIR", "yolo:DIR"]
    assert [source.spec for source in sources()] == ["shapes", *folders, "csv:FILE"]
