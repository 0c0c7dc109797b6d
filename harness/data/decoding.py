"""Image files as pixels: upright, 8 bits a channel, RGB; and what was done to make them so."""

from __future__ import annotations

import struct
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt
from PIL import ExifTags, Image, PngImagePlugin, UnidentifiedImageError

from harness.data.reading import file_size
from harness.errors import UserError, reason

Pixels = npt.NDArray[np.uint8]

# Text in a PNG is nobody's pixels, and some cameras and editors write megabytes of it; Pillow's bound on all of it
# together (64 MiB) stays.
PngImagePlugin.MAX_TEXT_CHUNK = PngImagePlugin.MAX_TEXT_MEMORY

# What Pillow raises for damaged files of one kind or another, besides its own errors.
_DAMAGED = (OSError, SyntaxError, ValueError, EOFError, struct.error)

_UPRIGHT = 1
_SIDEWAYS = (5, 6, 7, 8)  # EXIF orientations that swap height and width

TURNED = "images turned as their EXIF orientation says"
AS_STORED = "images with an EXIF orientation left as stored, which is the size that the annotation says"
SIXTEEN = "images of 16 bits a channel, divided by 257"
FLOAT = "images of floats from 0 to 1, times 255"
TRANSPARENT = "images with transparent parts, whose transparency is left out"
FRAMES = "images of several frames or pages, of which the first is read"
CMYK = "images in CMYK, turned to RGB"


def decode(path: Path, stated: tuple[int, int] | None = None) -> Pixels:
    """An image file as ``[H, W, 3]`` uint8 RGB.

    Args:
        path: of any format that Pillow reads.
        stated: ``(height, width)`` as the annotation has it. An image with an EXIF orientation is turned by it, as
            viewers and annotation tools do, unless only the stored pixels have the size that the annotation says.

    Raises:
        UserError: if the file is missing, damaged, truncated, too large, or of values without a known range.
    """
    with _opened(path) as image:
        return _pixels(image, path, stated, None)


def inspect(path: Path, stated: tuple[int, int] | None = None) -> tuple[tuple[int, int], list[str], bytes]:
    """Decode a file for its faults alone, JPEG at an eighth of its size, which reads every byte of it all the same.

    Args:
        path, stated: as for `decode`.

    Returns:
        ``(height, width)`` that `decode` would give; what it would have done, by kind; the file's content.

    Raises:
        UserError: as `decode`.
    """
    kinds: list[str] = []
    try:
        content = path.read_bytes()
    except (OSError, ValueError):
        content = b""  # opening it, below, says why
    with _opened(path, BytesIO(content) if content else None) as image:
        oriented = _orientation(image) != _UPRIGHT
        turned = _turned(image, stated)
        if oriented:
            kinds.append(AS_STORED if turned == _UPRIGHT and image.format != "TIFF" else TURNED)
        height, width = (image.width, image.height) if turned in _SIDEWAYS else (image.height, image.width)
        if image.format == "JPEG":
            image.draft(None, (1, 1))
        _pixels(image, path, stated, kinds, turned)
    return (height, width), kinds, content


def size_in_header(path: Path) -> tuple[int, int]:
    """``(height, width)`` of what `decode` gives, from an image's first bytes, without decoding it.

    Raises:
        UserError: if the file is missing, too large, no regular file or its header is damaged.
    """
    file_size(path)  # a pipe would be waited for
    with _opened(path) as image:
        # Pillow turns a TIFF by itself, and gives that size from the beginning.
        sideways = image.format != "TIFF" and _orientation(image, header=True) in _SIDEWAYS
        return (image.width, image.height) if sideways else (image.height, image.width)


@contextmanager
def _opened(path: Path, content: IO[bytes] | None = None) -> Iterator[Image.Image]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(content or path) as image:
                yield image
    except FileNotFoundError as error:
        raise UserError(f"image {path} is missing") from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise UserError(f"image {path} has more than {Image.MAX_IMAGE_PIXELS} pixels; make it smaller") from error
    except _DAMAGED as error:
        raise UserError(f"image {path} cannot be decoded: {_why(error, path)}; replace or remove it") from error


def _why(error: BaseException, path: Path) -> str:
    """Pillow's reason; it names the memory that a file was read into where it knows no format."""
    return "it is no image" if isinstance(error, UnidentifiedImageError) else reason(error)


def _pixels(
    image: Image.Image, path: Path, stated: tuple[int, int] | None, kinds: list[str] | None, turned: int | None = None
) -> Pixels:
    turned = _turned(image, stated) if turned is None else turned
    if kinds is not None:
        kinds += _kinds(image)
    if image.mode.startswith(("I", "F")):
        image = Image.fromarray(_to_bytes(image, path))
    if turned != _UPRIGHT:
        image = image.transpose(_TURNS[turned])
    return np.array(image.convert("RGB"))


def _to_bytes(image: Image.Image, path: Path) -> Pixels:
    """Grey values of more than 8 bits, by the range of their format."""
    values: npt.NDArray[Any] = np.asarray(image)
    # A PNG has at most 16 bits, whichever mode Pillow reads it as.
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PNG"):
        return ((values.astype(np.uint32) + 128) // 257).astype(np.uint8)
    if image.mode == "F" and values.size and values.min() >= 0 and values.max() <= 1:  # false for NaN
        return np.asarray(np.rint(values * 255), dtype=np.uint8)
    low, high = (values.min(), values.max()) if values.size else (0, 0)
    raise UserError(
        f"image {path} has more than 8 bits a channel and values from {low:g} to {high:g}, in no range that its format "
        "fixes (16-bit integers, floats from 0 to 1); convert it to 8 bits"
    )


def _kinds(image: Image.Image) -> list[str]:
    """What there is to say of an image that is being read."""
    found = []
    if image.mode.startswith(("I", "F")):
        found.append(FLOAT if image.mode == "F" else SIXTEEN)
    if image.mode == "CMYK":
        found.append(CMYK)
    if image.format != "MPO" and getattr(image, "n_frames", 1) > 1:  # a phone's photograph brings its preview along
        found.append(FRAMES)
    if image.has_transparency_data and np.asarray(image.convert("RGBA").getchannel("A")).min() < 255:
        found.append(TRANSPARENT)
    return found


def _turned(image: Image.Image, stated: tuple[int, int] | None) -> int:
    """The orientation to undo, `_UPRIGHT` for none."""
    if image.format == "TIFF":
        image.load()  # Pillow turns these by itself, and then knows of no orientation any more
    orientation = _orientation(image)
    if orientation in _SIDEWAYS and stated == (image.height, image.width) != (image.width, image.height):
        return _UPRIGHT  # its annotation counts stored pixels
    return orientation


def _orientation(image: Image.Image, *, header: bool = False) -> int:
    """EXIF's orientation, 1 to 8. In the header of a PNG it may not have come yet, and is not waited for."""
    if header and image.format == "PNG" and "exif" not in image.info:
        return _UPRIGHT
    found = image.getexif().get(ExifTags.Base.Orientation, _UPRIGHT)
    return found if found in _TURNS else _UPRIGHT


# How `ImageOps.exif_transpose` undoes each orientation; that one reads the tag itself and cannot be told to leave it.
_TURNS: dict[int, Image.Transpose] = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
