"""Data sets that lie in folders: decoding, and what COCO and VOC have in common."""

from __future__ import annotations

import hashlib
import struct
import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PureWindowsPath

import numpy as np
import numpy.typing as npt
from PIL import Image

from harness.data.base import Annotations, ImageSet
from harness.errors import UserError

MAX_SIDE = 2**24  # px; float32 coordinates are exact to here

# What Pillow raises for damaged files of one kind or another, besides its own errors.
_DAMAGED = (OSError, SyntaxError, ValueError, EOFError, struct.error)


def decode(path: Path) -> npt.NDArray[np.uint8]:
    """An image file as ``[H, W, 3]`` uint8 RGB, in stored orientation: annotations count stored pixels, not EXIF's.

    Raises:
        UserError: if the file is missing, damaged, truncated, too large or of more than 8 bits a channel.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path) as image:
                if image.mode.startswith(("I", "F")):
                    raise UserError(f"image {path} has more than 8 bits a channel; convert it to 8 bits")
                return np.array(image.convert("RGB"))
    except FileNotFoundError as error:
        raise UserError(f"image {path} is missing") from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise UserError(f"image {path} has more than {Image.MAX_IMAGE_PIXELS} pixels; make it smaller") from error
    except _DAMAGED as error:
        raise UserError(f"image {path} cannot be decoded: {_one_line(error)}; replace or remove it") from error


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def read_bytes(path: Path, what: str) -> bytes:
    """The content of an annotation file.

    Raises:
        UserError: if it cannot be read; `what` says in the message what the file is.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"{what} {path} cannot be read: {error.strerror or _one_line(error)}") from error


def open_folder(folder: str, layout: str) -> Path:
    """The folder of a data set.

    Raises:
        UserError: if there is none; `layout` says in the message what is expected inside.
    """
    root = Path(folder).expanduser()
    if not root.is_dir():
        raise UserError(f"data folder {folder} does not exist; expected {layout}")
    return root


def stays_inside(name: str) -> bool:
    """Whether a file name from an annotation is relative and never climbs, by the rules of any operating system."""
    path = PureWindowsPath(name)  # takes both kinds of slash
    return bool(name.strip()) and not path.anchor and ".." not in path.parts and "\0" not in name


def keep_boxes(
    boxes: npt.NDArray[np.float64], size: tuple[int, int], warnings: Counter[str]
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.bool_]]:
    """Clip boxes ``[n, 4]`` to an image of ``(height, width)`` and tell which rows ``[n]`` still have an area.

    The rows without are counted in `warnings`, apart for those that had none and those outside the image.
    """
    height, width = size
    empty = np.any(boxes[:, 2:] <= boxes[:, :2], axis=1)
    clipped = np.clip(boxes, 0, (width, height, width, height)).astype(np.float32)
    outside = ~empty & np.any(clipped[:, 2:] <= clipped[:, :2], axis=1)
    for reason, rows in (("boxes without area dropped", empty), ("boxes outside the image dropped", outside)):
        if rows.any():
            warnings[reason] += int(rows.sum())
    return clipped, ~(empty | outside)


@dataclass(frozen=True)
class ImageFile:
    """One image of a folder: identity, name relative to the data root, ``(height, width)``, objects."""

    image_id: int
    name: str
    size: tuple[int, int]
    objects: Annotations


class FolderSet(ImageSet):
    """A split whose images are files and whose annotations have been read.

    Args:
        root: the data folder.
        split: its name.
        classes: class names in the order of their ids.
        files: the images.
        annotation_digest: of what the annotations were read from, in order, for the checksum.
        warnings: oddities counted by the reader.

    Raises:
        UserError: if there is no image, or an image's file is missing.
    """

    def __init__(
        self,
        root: Path,
        split: str,
        classes: Sequence[str],
        files: Sequence[ImageFile],
        annotation_digest: str,
        warnings: Counter[str],
    ) -> None:
        if not files:
            raise UserError(f"split {split!r} of {root} has no images")
        self.title, self.split = root.resolve().name, split
        self.classes, self.warnings = tuple(classes), warnings
        self._root, self._files, self._annotation_digest = root, tuple(files), annotation_digest
        self._bytes = [_file_size(root / file.name) for file in files]

    def __len__(self) -> int:
        return len(self._files)

    def image_id(self, index: int) -> int:
        return self._files[index].image_id

    def name(self, index: int) -> str:
        return self._files[index].name

    def size(self, index: int) -> tuple[int, int]:
        return self._files[index].size

    def annotations(self, index: int) -> Annotations:
        return self._files[index].objects

    def load(self, index: int) -> npt.NDArray[np.uint8]:
        file = self._files[index]
        image = decode(self._root / file.name)
        if image.shape[:2] != file.size:
            stored, said = (f"{width}x{height}" for height, width in (image.shape[:2], file.size))
            raise UserError(f"image {self._root / file.name} is {stored}, but its annotation says {said}")
        return image

    def checksum(self) -> str:
        digest = hashlib.sha256(self._annotation_digest.encode())
        for file, length in zip(self._files, self._bytes, strict=True):
            digest.update(f"{file.name}\0{length}\n".encode())
        return digest.hexdigest()


def _file_size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError as error:
        raise UserError(f"image {path} is missing") from error
