"""Images without annotations: files, folders of files, and images of `shapes`, as they are named on a command line."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from harness.core.errors import UserError, as_utf8, is_text, no_text, reading, shorten
from harness.data.base import Annotations, ImageSet, Oddities
from harness.data.decoding import decode
from harness.data.readers.folder import NO_OBJECTS
from harness.data.readers.reading import IMAGE_SUFFIXES
from harness.data.shapes.shapes import COUNT, ShapesSet

SUFFIXES = tuple(sorted(IMAGE_SUFFIXES))  # taken from a folder
_SHAPES = re.compile(r"shapes:(\d+)")


@dataclass(frozen=True)
class Picture:
    """One image: its name as given, a stem for files about it, ``(height, width)``, and where it comes from.

    Attributes:
        name: what the user typed, or the path of a file in a folder that the user named.
        stem: unlike that of any other picture of the same command, whatever the case of its letters.
        size: ``(height, width)`` in pixels.
        source: a file, or the index of an image of `shapes`.
    """

    name: str
    stem: str
    size: tuple[int, int]
    source: Path | int


@dataclass(frozen=True)
class PictureList:
    """What lies behind the names that were typed.

    Attributes:
        pictures: to work on.
        skipped: name and reason of each file of a folder that cannot be read.
        hidden: how many images of folders have names that begin with a dot, such as macOS leaves beside others.
    """

    pictures: tuple[Picture, ...]
    skipped: tuple[tuple[str, str], ...] = ()
    hidden: int = 0


def find_pictures(names: Sequence[str], shapes_side: int) -> PictureList:
    """Resolve what was typed and decode every image once, so that a bad one is known before any work is done.

    Args:
        names: image files, folders (all images directly inside, by name, but hidden and unreadable ones), or
            ``shapes:INDEX``.
        shapes_side: of an image of `shapes`, in pixels.

    Raises:
        UserError: naming the first file that was typed and is missing, damaged or too large, or a folder without an
            image that can be read.
    """
    pictures: list[Picture] = []
    skipped: list[tuple[str, str]] = []
    hidden, stems = 0, set[str]()

    def take(path: Path) -> None:
        height, width = _decoded(path).shape[:2]
        pictures.append(Picture(str(path), _unique(path.stem, stems), (height, width), path))

    for name in names:
        index = _index(name)
        with reading(f"image {shorten(name)}", "; name it in full"):
            path = Path(name).expanduser()
        with reading(f"image {shorten(str(path))}", "; check the path"):
            folder = path.is_dir()
        if index is not None:
            pictures.append(Picture(name, _unique(f"shapes-{index}", stems), (shapes_side, shapes_side), index))
        elif folder:
            with reading(f"folder {path}", "; unlock it or name another"):
                inside = sorted(p for p in path.iterdir() if p.suffix.lower() in SUFFIXES and not p.is_dir())
            listed = [file for file in inside if not file.name.startswith(".")]
            hidden += len(inside) - len(listed)
            skipped += _take_readable(listed, take, f"folder {name}")
        else:
            take(path)
    return PictureList(tuple(pictures), tuple(skipped), hidden)


def _take_readable(paths: Sequence[Path], take: Callable[[Path], None], where: str) -> list[tuple[str, str]]:
    """Take the images that can be read; name and reason of each other one.

    Raises:
        UserError: where none is left.
    """
    if not paths:
        raise UserError(f"{where} holds no image ({', '.join(SUFFIXES)}) that is not hidden; name another")
    faults: list[tuple[str, str]] = []
    for path in paths:
        try:
            take(path)
        except UserError as error:
            faults.append((as_utf8(str(path)), str(error)))
    if len(faults) == len(paths):
        raise UserError(f"{where} holds no image that can be read: {faults[0][1]}")
    return faults


def _index(name: str) -> int | None:
    """Of an image of `shapes`; None for what is named by its path."""
    match = _SHAPES.fullmatch(name)
    if match is not None:
        index, count = int(match[1]), COUNT["val"]
        if index >= count:
            raise UserError(f"{name}: shapes has images 0 to {count - 1} here")
        return index
    if name == "shapes" or (name.startswith("shapes:") and not os.path.lexists(name)):
        raise UserError(f"{name!r} names no image; write shapes:INDEX, such as shapes:3")
    return None


def _decoded(path: Path) -> npt.NDArray[np.uint8]:
    if not is_text(str(path)):
        raise UserError(f"the name of image {as_utf8(str(path))} {no_text()}")
    if path.exists() and not path.is_file():  # a pipe would be waited for
        raise UserError(f"image {path} is a device; expected a file")
    return decode(path)


def _unique(stem: str, taken: set[str]) -> str:
    candidate, number = stem, 1
    while candidate.lower() in taken:
        number += 1
        candidate = f"{stem}-{number}"
    taken.add(candidate.lower())
    return candidate


class PictureSet(ImageSet):
    """Pictures as an image set without objects, so that they take the same way through the detector as any other.

    `classes` are the detector's, and `shapes_side` is that of an image of `shapes`, in pixels.
    """

    def __init__(self, pictures: Sequence[Picture], classes: tuple[str, ...], shapes_side: int) -> None:
        self.title, self.split, self.classes = "pictures", "pictures", classes
        self.warnings = Oddities()
        self._pictures, self._side = tuple(pictures), shapes_side

    def __len__(self) -> int:
        return len(self._pictures)

    def image_id(self, index: int) -> int:
        return index

    def name(self, index: int) -> str:
        return self._pictures[index].name

    def size(self, index: int) -> tuple[int, int]:
        return self._pictures[index].size

    def annotations(self, index: int) -> Annotations:
        return NO_OBJECTS

    def load(self, index: int) -> npt.NDArray[np.uint8]:
        source = self._pictures[index].source
        if isinstance(source, Path):
            return decode(source)
        return ShapesSet(COUNT["val"], self._side, "val").load(source)

    def checksum(self) -> str:
        digest = hashlib.sha256()
        for index in range(len(self)):
            digest.update(self.load(index).tobytes())
        return digest.hexdigest()
