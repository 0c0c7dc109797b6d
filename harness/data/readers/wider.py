"""WIDER FACE: ``wider_face_split/wider_face_SPLIT_bbx_gt.txt`` and images in ``WIDER_SPLIT/images/EVENT/``."""

from __future__ import annotations

import hashlib
import posixpath
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from harness.core.errors import UserError, did_you_mean, shorten
from harness.data.base import Annotations, ImageSet, Oddities
from harness.data.plausible import WIDER_ORDER, sides_problem
from harness.data.readers.coco_values import identity
from harness.data.readers.folder import (
    NO_OBJECTS,
    UNKNOWN_SIZE,
    FolderSet,
    ImageFile,
    header_size,
    joined,
    keep_boxes,
)  # fmt: skip
from harness.data.readers.reading import names_in, open_folder, stays_inside, text_lines
from harness.data.sources import Opening

LAYOUT = "wider_face_split/wider_face_SPLIT_bbx_gt.txt and images in WIDER_SPLIT/images/"
COLUMNS = 10  # x, y, w, h, blur, expression, illumination, invalid, occlusion, pose
INVALID = 7  # the column of `invalid`

_NOTHING = (0.0,) * COLUMNS  # the row of an image without a face
_COUNT = re.compile(r"\d{1,9}", re.ASCII)
_LIST = re.compile(r"wider_face_(.+)_bbx_gt\.txt")


def open_source(asked: Opening) -> ImageSet:
    """Open one split of a data set in the layout of WIDER FACE (Yang et al., CVPR 2016); the one class is ``face``.

    A face marked `invalid` becomes a crowd region. WIDER FACE's own evaluation neither asks for such a face nor holds
    detections of it against a detector, however many there are. It is no object to learn, and what is there is a face
    all the same, so no negative either. Boxes are clipped to their image; those without area are dropped and counted.
    By default it is train or val; a limit takes the first images, in the file's order.

    Raises:
        UserError: if something is missing or wrong; the line names file and line number.
    """
    root = open_folder(asked.folder, LAYOUT)
    split = _find_split(root, asked.split or asked.role)
    digest = hashlib.sha256()
    counted = Oddities()
    files: dict[str, ImageFile] = {}
    rows: list[npt.NDArray[np.float64]] = []
    sizes: list[tuple[int, int]] = []  # width and height of the image of each row
    path = root / "wider_face_split" / f"wider_face_{split}_bbx_gt.txt"
    for entry in read_list(path, digest.update):  # to the end, whatever the limit: the checksum is of the whole file
        name = posixpath.normpath(entry.name.replace("\\", "/"))
        known = files.get(name)
        if known is None and asked.limit is not None and len(files) >= asked.limit:
            continue
        file = _image_file(root, f"WIDER_{split}/images/{name}", entry, counted)
        if file.size != UNKNOWN_SIZE:
            rows.append(entry.boxes)
            sizes += [(file.size[1], file.size[0])] * len(entry.boxes)
        if known is not None:
            file = replace(known, objects=joined([known.objects, file.objects], file.name, counted))
        files[name] = file
    problem = _problem(rows, sizes)
    return FolderSet(root, split, ("face",), list(files.values()), digest.hexdigest(), counted, problem)


def _problem(rows: list[npt.NDArray[np.float64]], sizes: list[tuple[int, int]]) -> str | None:
    boxes = np.concatenate([np.zeros((0, 4)), *rows])
    none = np.full((len(boxes), 4), np.nan)
    return sides_problem(boxes, np.array(sizes, np.float64).reshape(-1, 2), none[:, 0], none, WIDER_ORDER)


def _find_split(root: Path, split: str) -> str:
    splits = [match[1] for match in map(_LIST.fullmatch, names_in(root / "wider_face_split")) if match]
    if split not in splits:
        listed = ", ".join(splits) or "none"
        raise UserError(f"{root} has no split {split!r}{did_you_mean(split, splits)}; it has {listed} ({LAYOUT})")
    return split


@dataclass(frozen=True)
class WiderImage:
    """One image of a list: its name below ``images/``, boxes ``[n, 4]`` x, y, w, h as they stand, `invalid` ``[n]``."""

    name: str
    boxes: npt.NDArray[np.float64]
    invalid: npt.NDArray[np.bool_]


def read_list(path: Path, digest: Callable[[bytes], object]) -> Iterator[WiderImage]:
    """The images of a ``bbx_gt`` file, one by one.

    An image holds a name, a count and as many rows of ten numbers. Without a face it has a count of 1 or of 0 and one
    row of zeros, by the version of the file, or a count of 0 and nothing.

    Args:
        digest: is given every byte, for a checksum.

    Raises:
        UserError: for a file that is no such list; the line names the first line that does not fit.
    """
    lines = _Lines(path, digest)
    while lines.ahead is not None:
        name = lines.take()
        shown = repr(shorten(name))
        if _is_row(name):
            raise lines.fault(f"expected the name of an image, got the row {shown}; is the count above it too low?")
        if not stays_inside(name):
            raise lines.fault(f"image name {shown} must stay inside images/")
        count = lines.take()
        if not _COUNT.fullmatch(count):
            raise lines.fault(f"expected the number of faces in {shown}, got {shorten(count)!r}")
        rows = [lines.face(f"face {number} of {count} in {shown}") for number in range(1, int(count) + 1)]
        if not rows and lines.ahead is not None and _is_row(lines.ahead[1]):
            rows = [lines.face(f"the row after a count of 0 in {shown}")]
            if rows != [_NOTHING]:
                raise lines.fault(f"a face after a count of 0 in {shown}; only a row of zeros may follow")
        table = np.array(rows if rows != [_NOTHING] else [], dtype=np.float64).reshape(-1, COLUMNS)
        yield WiderImage(name, table[:, :4], table[:, INVALID] == 1)


class _Lines:
    """The lines of a file with a look at the next one, and every fault as a line that names file and line."""

    def __init__(self, path: Path, digest: Callable[[bytes], object]) -> None:
        self._path, self._number = path, 0
        self._lines = text_lines(path, "annotation file", digest)
        self.ahead = next(self._lines, None)

    def fault(self, text: str) -> UserError:
        """About the line that was taken last."""
        return UserError(f"annotation file {self._path}, line {self._number}: {text}")

    def take(self) -> str:
        if self.ahead is None:
            raise self.fault("the file ends in the middle of an image; is it whole?")
        self._number, text = self.ahead
        self.ahead = next(self._lines, None)
        return text

    def face(self, where: str) -> tuple[float, ...]:
        """The next line as a face: `COLUMNS` numbers in their ranges."""
        text = self.take()
        row = _numbers(text)
        if len(row) != COLUMNS:
            rule = f"must be {COLUMNS} numbers, x y w h and six marks, got {shorten(text)!r}"
            raise self.fault(f"{where} {rule}" + ("" if row else "; is the count too high?"))
        if not sum(map(abs, row)) < 1e12 or row[INVALID] not in (0, 1):  # "not": a NaN is smaller than nothing
            raise self.fault(f"{where} is out of range: {shorten(text)!r}; 'invalid', the eighth number, is 0 or 1")
        return row


def _numbers(text: str) -> tuple[float, ...]:
    """The numbers of a line; none where anything else stands in it."""
    try:
        return tuple(map(float, text.split()))
    except ValueError:
        return ()


def _is_row(text: str) -> bool:
    """Whether a line is a row and no name, which has a suffix, nor a count, which stands alone."""
    return len(_numbers(text)) > 1


def _image_file(root: Path, name: str, entry: WiderImage, counted: Oddities) -> ImageFile:
    image_id = identity(entry.name)  # by its name, so that an image keeps it in a list that was cut or sorted
    size = header_size(root / name)
    if size is None:
        return ImageFile(image_id, name, UNKNOWN_SIZE, NO_OBJECTS)
    corners = entry.boxes.copy()
    corners[:, 2:] += corners[:, :2]
    boxes, keep = keep_boxes(corners, size, counted, lambda row: f"{name} object {row + 1}")
    objects = Annotations.plain(boxes[keep], np.zeros(keep.sum(), dtype=np.int64), crowd=entry.invalid[keep])
    return ImageFile(image_id, name, size, objects)
