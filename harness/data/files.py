"""Data sets that lie in folders: decoding, and what their readers have in common."""

from __future__ import annotations

import hashlib
import os
import struct
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path, PureWindowsPath
from stat import S_ISREG

import numpy as np
import numpy.typing as npt
from PIL import Image

from harness.data.base import Annotations, ImageSet
from harness.errors import UserError, is_text, reason, shorten

MAX_SIDE = 2**24  # px; float32 coordinates are exact to here

MAX_LINE = 4096  # bytes; file systems have no longer paths

# What Pillow raises for damaged files of one kind or another, besides its own errors.
_DAMAGED = (OSError, SyntaxError, ValueError, EOFError, struct.error)


def decode(path: Path) -> npt.NDArray[np.uint8]:
    """An image file as ``[H, W, 3]`` uint8 RGB, in stored orientation: annotations count stored pixels, not EXIF's.

    Raises:
        UserError: if the file is missing, damaged, truncated, too large or of more than 8 bits a channel.
    """
    with _opened(path) as image:
        if image.mode.startswith(("I", "F")):
            raise UserError(f"image {path} has more than 8 bits a channel; convert it to 8 bits")
        return np.array(image.convert("RGB"))


def size_in_header(path: Path) -> tuple[int, int]:
    """``(height, width)`` in pixels from an image's first bytes, without decoding it; stored orientation.

    Raises:
        UserError: if the file is missing, too large, no regular file or its header is damaged.
    """
    _file_size(path)  # a pipe would be waited for
    with _opened(path) as image:
        return image.height, image.width


@contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path) as image:
                yield image
    except FileNotFoundError as error:
        raise UserError(f"image {path} is missing") from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise UserError(f"image {path} has more than {Image.MAX_IMAGE_PIXELS} pixels; make it smaller") from error
    except _DAMAGED as error:
        raise UserError(f"image {path} cannot be decoded: {reason(error)}; replace or remove it") from error


def read_bytes(path: Path, what: str) -> bytes:
    """The content of an annotation file.

    Raises:
        UserError: if it cannot be read; `what` says in the message what the file is.
    """
    try:
        regular = S_ISREG(path.stat().st_mode)  # reading a pipe would wait forever
        if regular:
            return path.read_bytes()
    except (OSError, ValueError) as error:
        raise UserError(f"{what} {path} cannot be read: {reason(error)}") from error
    raise UserError(f"{what} {path} is a folder or a device; expected a file")


def text_lines(path: Path, what: str, digest: Callable[[bytes], object]) -> Iterator[tuple[int, str]]:
    """The lines of a text file that hold something, stripped, with their numbers; read one by one.

    Args:
        path: UTF-8, with or without a byte order mark; lines end in LF or CRLF.
        what: says in messages what the file is.
        digest: is given every byte, for a checksum.

    Raises:
        UserError: if the file cannot be read, or a line is no text or longer than `MAX_LINE` bytes.
    """
    try:
        if not S_ISREG(path.stat().st_mode):
            raise UserError(f"{what} {path} is a folder or a device; expected a file")
        with path.open("rb") as file:
            for number in count(1):
                line = file.readline(MAX_LINE + 1)
                if not line:
                    return
                if len(line) > MAX_LINE:
                    raise UserError(
                        f"{what} {path}, line {number} is longer than {MAX_LINE} bytes; is it another file?"
                    )
                digest(line)
                if text := line.decode("utf-8-sig" if number == 1 else "utf-8").strip():
                    yield number, text
    except UnicodeDecodeError as error:
        raise UserError(f"{what} {path}, line {number} is not UTF-8 text: {reason(error)}") from error
    except (OSError, ValueError) as error:
        raise UserError(f"{what} {path} cannot be read: {reason(error)}") from error


def open_folder(folder: str, layout: str) -> Path:
    """The folder of a data set.

    Raises:
        UserError: if there is none; `layout` says in the message what is expected inside.
    """
    try:
        root = Path(folder).expanduser()
        if root.is_dir():
            return root
        fault = "is not a folder" if root.exists() else "does not exist"
    except (OSError, RuntimeError) as error:  # RuntimeError: the home of nobody
        fault = f"cannot be opened ({reason(error)})"
    raise UserError(f"data folder {shorten(folder)} {fault}; expected {layout}")


def names_in(folder: Path) -> list[str]:
    """What lies in a folder, sorted; nothing where there is none.

    Raises:
        UserError: if it cannot be read.
    """
    try:
        return sorted(os.listdir(folder))
    except FileNotFoundError:
        return []
    except OSError as error:
        raise UserError(f"folder {folder} cannot be read: {reason(error)}") from error


def stays_inside(name: str) -> bool:
    """Whether a file name from an annotation is relative and never climbs, by the rules of any operating system.

    Symbolic links are followed: they are the doing of whoever laid out the folder, not of an annotation.
    """
    path = PureWindowsPath(name)  # takes both kinds of slash
    return bool(name.strip()) and not path.anchor and ".." not in path.parts and "\0" not in name and is_text(name)


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
    for fault, rows in (("boxes without area dropped", empty), ("boxes outside the image dropped", outside)):
        if rows.any():
            warnings[fault] += int(rows.sum())
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
        if not is_text(self.title):
            raise UserError(
                f"the name of data folder {self.title!r} is no UTF-8 text, so no record can hold it; rename it"
            )
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
        found = path.stat()
    except FileNotFoundError as error:
        raise UserError(f"image {path} is missing; put it there or take it out of the annotations") from error
    except OSError as error:
        raise UserError(f"image {shorten(str(path))} cannot be read: {reason(error)}") from error
    if not S_ISREG(found.st_mode):
        raise UserError(f"image {path} is a folder or a device; expected a file")
    return found.st_size
