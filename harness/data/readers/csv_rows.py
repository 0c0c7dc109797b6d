"""The rows of a table of boxes: RetinaNet's six columns, or those of Open Images by their header."""

from __future__ import annotations

import csv
import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from harness.core.errors import UserError, shorten
from harness.data.plausible import ROUNDED
from harness.data.readers.reading import text_lines

OPEN_IMAGES = ("ImageID", "XMin", "YMin", "XMax", "YMax", "LabelName")  # in the order of RetinaNet's columns
GROUP = "IsGroupOf"
LARGEST = 1e12  # of any number, which is then exact enough to be told from a slip

_FLAGS = {"": False, "-1": False, "0": False, "1": True}  # -1: nobody looked


class Row(NamedTuple):
    """An object, or an image without one: then there is no box.

    Attributes:
        line: in its file.
        box: x1, y1, x2, y2 as they stand.
        crowd: a group of objects in one box.
    """

    line: int
    image: str
    label: str
    box: tuple[float, ...] | None
    crowd: bool


class BoxTable(NamedTuple):
    """The rows of a file.

    Attributes:
        normalised: whether boxes are in shares of the image's sides, as Open Images' are, or in pixels.
        images: the rows of each, in the file's order.
    """

    path: Path
    normalised: bool
    images: dict[str, list[Row]]

    def labels(self) -> dict[str, int]:
        """Class names as they stand, with the first line of each."""
        first: dict[str, int] = {}
        for row in (row for rows in self.images.values() for row in rows if row.box is not None):
            first[row.label] = min(row.line, first.get(row.label, row.line))
        return first

    def boxes(self, image: str) -> tuple[npt.NDArray[np.float64], list[Row]]:
        """The boxes ``[n, 4]`` of an image as they stand, and their rows."""
        rows = [row for row in self.images[image] if row.box is not None]
        return np.array([row.box for row in rows], dtype=np.float64).reshape(-1, 4), rows


def read_table(path: Path, digest: Callable[[bytes], object], name: Callable[[str], str | None]) -> BoxTable:
    """Read a file.

    Args:
        digest: is given every byte, for a checksum.
        name: of an image, by what stands in its row; None where that must not be opened.

    Raises:
        UserError: for a row that is none of either format; it names file and line.
    """
    rows = csv_rows(path, "table of boxes", digest)
    first = next(rows, None)
    if first is None:
        raise UserError(f"table of boxes {path} is empty")
    header = [cell.strip() for cell in first[1]]
    normalised = set(OPEN_IMAGES) <= set(header)
    order = [header.index(column) for column in OPEN_IMAGES] if normalised else list(range(6))
    group = header.index(GROUP) if normalised and GROUP in header else None
    images: dict[str, list[Row]] = {}

    def take(line: int, cells: Sequence[str]) -> None:
        where = f"table of boxes {path}, line {line}"
        if len(cells) != (len(header) if normalised else 6):
            raise UserError(f"{where} must have {_columns(header if normalised else None)}, got {_shown(cells)}")
        image = name(cells[order[0]])
        if image is None:
            raise UserError(f"{where}: image {shorten(cells[order[0]])!r} must stay inside the folder of the table")
        box, label = _box(where, cells, order, normalised), cells[order[5]].strip()
        if box is not None and not label:
            raise UserError(f"{where} names no class, got {_shown(cells)}")
        mark = cells[group].strip() if group is not None else ""
        if mark not in _FLAGS:
            raise UserError(f"{where}: {GROUP!r} must be 0 or 1, got {shorten(mark)!r}")
        images.setdefault(image, []).append(Row(line, image, label, box, _FLAGS[mark]))

    if not normalised:
        take(*first)
    for line, cells in rows:
        take(line, cells)
    return BoxTable(path, normalised, images)


def csv_rows(path: Path, what: str, digest: Callable[[bytes], object]) -> Iterator[tuple[int, list[str]]]:
    """The rows of a CSV file that hold something, each with the number of its last line.

    Raises:
        UserError: if the file cannot be read, or is no CSV; the line names the line.
    """
    line = 0

    def lines() -> Iterator[str]:
        nonlocal line
        for line, text in text_lines(path, what, digest):  # noqa: B007 - `line` is that of the enclosing function
            yield text

    rows = csv.reader(lines(), strict=True)
    while True:
        try:
            cells = next(rows, None)
        except csv.Error as error:
            raise UserError(f"{what} {path}, line {line} is no CSV: {error}") from error
        if cells is None:
            return
        yield line, cells


def _box(where: str, cells: Sequence[str], order: Sequence[int], normalised: bool) -> tuple[float, ...] | None:
    words = [cells[column].strip() for column in order[1:5]]
    if not any(words):
        if cells[order[5]].strip():
            raise UserError(f"{where} has a class and no box, got {_shown(cells)}; leave out both or neither")
        return None
    try:
        box = tuple(map(float, words))
    except ValueError:
        box = ()
    if not box or not all(math.isfinite(side) and abs(side) < LARGEST for side in box):
        raise UserError(f"{where} must have {_columns(None if not normalised else OPEN_IMAGES)}, got {_shown(cells)}")
    if normalised and not all(-ROUNDED <= side <= 1 + ROUNDED for side in box):
        raise UserError(f"{where} goes beyond 0 to 1, got {_shown(cells)}; write shares of the image's sides")
    return box


def _columns(header: Sequence[str] | None) -> str:
    if header is None:
        return f"path,x1,y1,x2,y2,class_name (or a header with {', '.join(OPEN_IMAGES)})"
    return f"the {len(header)} columns of its header, with numbers for the box"


def _shown(cells: Sequence[str]) -> str:
    return repr(shorten(",".join(cells), 80))
