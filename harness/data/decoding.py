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

from harness.core.errors import UserError, reason
from harness.data.readers.reading import file_size

Pixels = npt.NDArray[np.uint8]

# Text in a PNG is nobody's pixels, and some cameras and editors write megabytes of it; Pillow's bound on all of it
# together (64 MiB) stays.
PngImagePlugin.MAX_TEXT_CHUNK = PngImagePlugin.MAX_TEXT_MEMORY

# What Pillow raises for damaged files of one kind or another, besides its own errors.
_DAMAGED = (OSError, SyntaxError, ValueError, EOFError, TypeError, LookupError, OverflowError, struct.error)

_UPRIGHT = 1
_SIDEWAYS = (5, 6, 7, 8)  # EXIF orientations that swap height and width

TURNED = "images turned as their EXIF orientation says"
UNCONFIRMED = "images turned as their EXIF orientation says, though no size in the annotation confirms it"
AS_STORED = "images with an EXIF orientation left as stored, which is the size that the annotation says"
SIXTEEN = "images of 16 bits a channel, divided by 257"
DEEP_COLOUR = "images of 16 bits a channel in colour, of which the upper 8 are read"
DARK = "images of 16 bits a channel that use less than an eighth of their range, and so are nearly black"
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
        return _pixels(image, path, _turned(image, stated))


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
        deep_colour = _is_deep_colour(image)  # which is forgotten once the pixels are loaded
        orientation = _orientation(image)
        turned = _turned(image, stated)
        if orientation != _UPRIGHT:
            confirmed = orientation in _SIDEWAYS and stated is not None and stated[0] != stated[1]
            as_stored = turned == _UPRIGHT and image.format != "TIFF"
            kinds.append(AS_STORED if as_stored else TURNED if confirmed else UNCONFIRMED)
        height, width = (image.width, image.height) if turned in _SIDEWAYS else (image.height, image.width)
        if image.format == "JPEG":
            image.draft(None, (1, 1))
        kinds += _kinds(image, deep_colour)
        _pixels(image, path, turned)
    return (height, width), kinds, content


def size_in_header(path: Path) -> tuple[int, int]:
    """``(height, width)`` of what `decode` gives, from an image's first bytes; a PNG may say only behind its pixels
    that it is to be turned, and is read to its end.

    Raises:
        UserError: if the file is missing, too large, no regular file or its header is damaged.
    """
    file_size(path)  # a pipe would be waited for
    with _opened(path) as image:
        # Pillow turns a TIFF by itself, and gives that size from the beginning.
        sideways = image.format != "TIFF" and _orientation(image) in _SIDEWAYS
        return (image.width, image.height) if sideways else (image.height, image.width)


@contextmanager
def _opened(path: Path, content: IO[bytes] | None = None) -> Iterator[Image.Image]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # of damage that does not keep it from being read
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(content or path) as image:
                yield image
    except FileNotFoundError as error:
        raise UserError(f"image {path} is missing") from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise UserError(f"image {path} has more than {Image.MAX_IMAGE_PIXELS} pixels; make it smaller") from error
    except _DAMAGED as error:
        # Where Pillow knows no format its reason names the memory that the file was read into.
        why = "it is no image" if isinstance(error, UnidentifiedImageError) else reason(error)
        raise UserError(f"image {path} cannot be decoded: {why}; replace or remove it") from error


def _pixels(image: Image.Image, path: Path, turned: int) -> Pixels:
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


def _is_deep_colour(image: Image.Image) -> bool:
    """Whether the file has 16 bits a channel and Pillow gives 8 of them."""
    modes = {str(tile[3]) for tile in getattr(image, "tile", ())}
    return any(";16" in mode for mode in modes) and not image.mode.startswith("I")


def _kinds(image: Image.Image, deep_colour: bool) -> list[str]:
    """What there is to say of an image that is being read."""
    several = _frames(image) > 1
    image.load()
    sixteen = image.mode.startswith("I")
    kinds = {
        FRAMES: several,
        FLOAT: image.mode == "F",
        SIXTEEN: sixteen,
        DEEP_COLOUR: deep_colour,
        DARK: (sixteen or deep_colour) and np.asarray(image).max() < (2**13 if sixteen else 2**5),
        CMYK: image.mode == "CMYK",
        TRANSPARENT: image.has_transparency_data and np.asarray(image.convert("RGBA").getchannel("A")).min() < 255,
    }
    return [kind for kind, applies in kinds.items() if applies]


def _frames(image: Image.Image) -> int:
    """How many there are to choose from."""
    if image.format == "MPO":
        return 1  # a phone's photograph brings its preview along
    try:
        return int(getattr(image, "n_frames", 1))
    except _DAMAGED:
        return 1  # what is damaged is behind the first frame, which is the one that is read


def _turned(image: Image.Image, stated: tuple[int, int] | None) -> int:
    """The orientation to undo, `_UPRIGHT` for none."""
    if image.format == "TIFF":
        image.load()  # Pillow turns these by itself, and then knows of no orientation any more
    orientation = _orientation(image)
    if orientation in _SIDEWAYS and stated == (image.height, image.width) != (image.width, image.height):
        return _UPRIGHT  # its annotation counts stored pixels
    return orientation


def _orientation(image: Image.Image) -> int:
    """EXIF's orientation, 1 to 8."""
    orientation = image.getexif().get(ExifTags.Base.Orientation, _UPRIGHT)
    return orientation if orientation in _TURNS else _UPRIGHT


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
