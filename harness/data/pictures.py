"""Images without annotations: files, folders of files, and images of `shapes`, as they are named on a command line."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from harness.data import SHAPES_COUNT
from harness.data.base import Annotations, ImageSet, Oddities
from harness.data.decoding import decode
from harness.data.shapes import ShapesSet
from harness.errors import UserError

SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")  # taken from a folder
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


def find_pictures(names: Sequence[str], shapes_side: int) -> list[Picture]:
    """Resolve what was typed and decode every image once, so that a bad one is known before any work is done.

    Args:
        names: image files, folders (all images directly inside, by name), or ``shapes:INDEX``.
        shapes_side: of an image of `shapes`, in pixels.

    Raises:
        UserError: naming the first file that is missing, damaged or too large, or a folder without images.
    """
    found: list[Picture] = []
    stems: set[str] = set()
    for name in names:
        for source in _sources(name):
            if isinstance(source, Path):
                height, width = decode(source).shape[:2]
                picture = Picture(str(source), _unique(source.stem, stems), (height, width), source)
            else:
                picture = Picture(name, _unique(f"shapes-{source}", stems), (shapes_side, shapes_side), source)
            found.append(picture)
    return found


def _sources(name: str) -> list[Path] | list[int]:
    match = _SHAPES.fullmatch(name)
    if match is not None:
        index, count = int(match[1]), SHAPES_COUNT["val"]
        if index >= count:
            raise UserError(f"{name}: shapes has images 0 to {count - 1} here")
        return [index]
    path = Path(name).expanduser()
    if name == "shapes" or (name.startswith("shapes:") and not path.exists()):
        raise UserError(f"{name!r} names no image; write shapes:INDEX, such as shapes:3")
    if not path.is_dir():
        return [path]
    inside = sorted(p for p in path.iterdir() if p.suffix.lower() in SUFFIXES and p.is_file())
    if not inside:
        raise UserError(f"folder {name} holds no image ({', '.join(SUFFIXES)})")
    return inside


def _unique(stem: str, taken: set[str]) -> str:
    candidate, number = stem, 1
    while candidate.lower() in taken:
        number += 1
        candidate = f"{stem}-{number}"
    taken.add(candidate.lower())
    return candidate


class PictureSet(ImageSet):
    """Pictures as an image set without objects, so that they take the same way through the detector as any other.

    Args:
        pictures: from `find_pictures`.
        classes: of the detector.
        shapes_side: of an image of `shapes`, in pixels.
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
        return Annotations(
            boxes=np.zeros((0, 4), np.float32),
            labels=np.zeros(0, np.int64),
            crowd=np.zeros(0, np.bool_),
            difficult=np.zeros(0, np.bool_),
            area=np.zeros(0, np.float32),
        )

    def load(self, index: int) -> npt.NDArray[np.uint8]:
        source = self._pictures[index].source
        if isinstance(source, Path):
            return decode(source)
        return ShapesSet(SHAPES_COUNT["val"], self._side, "val").load(source)

    def checksum(self) -> str:
        digest = hashlib.sha256()
        for index in range(len(self)):
            digest.update(self.load(index).tobytes())
        return digest.hexdigest()
