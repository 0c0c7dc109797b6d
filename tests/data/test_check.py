"""Every image is decoded once before training, remembered, and what cannot be read is refused or left out."""

from __future__ import annotations

import io
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from harness.core.errors import UserError
from harness.data import check as module
from harness.data import decoding, open_data
from harness.data.check import COPIES, UNREADABLE, check_images, checked
from harness.protocol.protocol import DataSection
from tests.data.folders import voc_object, voc_xml, write_image, write_voc

DOG = voc_xml(voc_object("dog", 2, 2, 30, 30))
NAMES = "abcde"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write_voc(tmp_path / "set", dict.fromkeys(NAMES, DOG), {"train": "\n".join(NAMES)})


def opened(root: Path):
    return open_data(f"voc:{root}", DataSection(), role="train")


def picture(root: Path, name: str) -> Path:
    return root / "JPEGImages" / f"{name}.jpg"


def truncate(path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (60, 80, 3), dtype=np.uint8)
    Image.fromarray(noise).save(path)
    path.write_bytes(path.read_bytes()[:2000])


@pytest.mark.parametrize("workers", [0, 2])
def test_one_broken_image_among_many_is_found(root: Path, workers: int) -> None:
    truncate(picture(root, "c"))
    write_image(picture(root, "d"), (30, 20))
    found = check_images(opened(root), None, workers)
    assert list(found.unreadable) == [2, 3]
    assert "c.jpg cannot be decoded: " in found.unreadable[2]
    assert "d.jpg is 20x30, but its annotation says 80x60; " in found.unreadable[3]


def test_the_first_is_named_and_the_way_out(root: Path) -> None:
    truncate(picture(root, "c"))
    with pytest.raises(
        UserError,
        match=r"^image .*c\.jpg cannot be decoded: .*; replace or remove it, or leave them out",
    ):
        checked(opened(root), DataSection(), None)
    write_image(picture(root, "d"), (30, 20))
    with pytest.raises(UserError, match=r"^2 of 5 images in split train cannot be used; the first: image .*c\.jpg"):
        checked(opened(root), DataSection(), None)


def test_broken_images_are_left_out_on_demand_and_counted(root: Path) -> None:
    truncate(picture(root, "c"))
    images = opened(root)
    kept = checked(images, DataSection(unreadable="skip"), None)
    assert [kept.name(index) for index in range(len(kept))] == [f"JPEGImages/{name}.jpg" for name in "abde"]
    assert kept.warnings == {UNREADABLE: 1}
    assert kept.warnings.examples[UNREADABLE] == ["JPEGImages/c.jpg"]
    assert not images.warnings
    assert kept.checksum() == images.checksum()  # a plan, which decodes nothing, must find the run again
    for name in "abde":
        truncate(picture(root, name))
    with pytest.raises(UserError, match="has no images left"):
        checked(opened(root), DataSection(unreadable="skip"), None)


def test_oddities_become_warnings(root: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    write_image(picture(root, "a"), (80, 60), exif=exif)
    write_image(picture(root, "b"), mode="CMYK")
    shutil.copyfile(picture(root, "d"), picture(root, "e"))
    images = checked(opened(root), DataSection(), None)
    assert images.warnings == {decoding.TURNED: 1, decoding.CMYK: 1, COPIES: 1}
    assert images.warnings.examples[COPIES] == ["JPEGImages/e.jpg = JPEGImages/d.jpg"]
    assert images.load(0).shape == (60, 80, 3)


def test_annotations_of_two_conventions_are_refused(root: Path) -> None:
    """Boxes count stored pixels where the size tells; of an image on its head no size does."""
    for name, orientation in (("a", 6), ("b", 3)):
        exif = Image.Exif()
        exif[0x0112] = orientation
        write_image(picture(root, name), (60, 80), exif=exif)
    with pytest.raises(
        UserError, match=r"such as that of JPEGImages/a\.jpg count .* as it is stored.*1 images .*b\.jpg"
    ):
        checked(opened(root), DataSection(), None)


def count_looks(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    seen: list[Path] = []

    def inspect(path: Path, stated: Any = None) -> Any:
        seen.append(path)
        return decoding.inspect(path, stated)

    monkeypatch.setattr(module, "inspect", inspect)
    return seen


def test_a_set_is_looked_at_once_until_a_file_changes(root: Path, tmp_path: Path, monkeypatch: Any) -> None:
    seen, folder = count_looks(monkeypatch), tmp_path / "results" / ".checked"
    write_image(picture(root, "b"), mode="CMYK")
    truncate(picture(root, "c"))
    first = check_images(opened(root), folder)
    assert len(seen) == len(NAMES)
    again = check_images(opened(root), folder)
    assert len(seen) == len(NAMES)
    assert again == first
    assert again.oddities.examples == first.oddities.examples
    length = picture(root, "c").stat().st_size
    picture(root, "c").write_bytes(os.urandom(length))  # of the same length, which is all that a checksum sees
    os.utime(picture(root, "c"), ns=(1, 1))
    check_images(opened(root), folder)
    assert len(seen) == 2 * len(NAMES)


def test_a_damaged_memory_is_made_again(root: Path, tmp_path: Path, monkeypatch: Any) -> None:
    seen, folder = count_looks(monkeypatch), tmp_path / ".checked"
    check_images(opened(root), folder)
    (path,) = folder.glob("*.json")
    whole = path.read_text()
    for text in ("", "{", "[]", '{"unreadable": 3}'):
        path.write_text(text)
        check_images(opened(root), folder)
        assert path.read_text() == whole
    assert len(seen) == 5 * len(NAMES)


def test_a_folder_that_takes_no_files_is_no_fault(root: Path, tmp_path: Path) -> None:
    (tmp_path / "results").write_text("a file in place of the folder")
    assert check_images(opened(root), tmp_path / "results" / ".checked").unreadable == {}


def test_progress_is_shown(root: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr("harness.core.progress.LOG_EVERY", -1.0)
    screen = Console(file=io.StringIO(), width=100)
    check_images(opened(root), None, console=screen)
    assert "looking at images of train 5/5" in screen.file.getvalue()


def test_what_is_drawn_on_the_fly_is_not_looked_at() -> None:
    images = open_data("shapes", DataSection(short_edge=64, long_edge=64, val_images=2), role="val")
    assert checked(images, DataSection(), None) is images
