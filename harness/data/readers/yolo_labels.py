"""One label file of YOLO's format: a line for each object, in shares of the image's sides."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from harness.core.errors import UserError, shorten
from harness.data.plausible import ROUNDED

BOX = 5  # numbers of a line: class, cx, cy, w, h
OUTLINE = 7  # at least: class and three points

_RULE = "a class and cx cy w h, or a class and the points x y of an outline"


class Labels(NamedTuple):
    """The objects of a label file.

    Attributes:
        classes: ``[n]`` int64 as they stand.
        boxes: ``[n, 4]`` cx, cy, w, h in shares of the sides.
        outlined: ``[n]`` bool; of which a box was drawn around the points of an outline.
    """

    classes: npt.NDArray[np.int64]
    boxes: npt.NDArray[np.float64]
    outlined: npt.NDArray[np.bool_]


def parse_labels(text: str, path: Path, classes: int, keypoints: int = 0) -> Labels:
    """Read the text of a label file.

    Five numbers are a class and a box. More are a class and the points of an outline (a segment, or an oriented box),
    of which the bounding box is taken; or, where there are keypoints, these behind the box.

    Args:
        path: for messages.
        classes: how many there are; a line's first number is below that.
        keypoints: numbers of them behind a box.

    Raises:
        UserError: for a line that is none of this, or numbers beyond 0 and 1; it names file and line.
    """
    labels: list[int] = []
    boxes: list[Sequence[float]] = []
    outlined: list[bool] = []
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        where = f"label file {path}, line {number}"
        row = _numbers(line)
        behind = keypoints if keypoints and len(row) == BOX + keypoints else 0
        fits = len(row) - behind == BOX or (not keypoints and len(row) >= OUTLINE and len(row) % 2 == 1)
        if not fits:
            rule = f"a class, cx cy w h and {keypoints} numbers of keypoints" if keypoints else _RULE
            raise UserError(f"{where} must be {rule}, got {shorten(line.strip())!r}")
        if not (row[0].is_integer() and 0 <= row[0] < classes):
            raise UserError(f"{where}: class {row[0]:g} is not among the {classes} that have names, 0 to {classes - 1}")
        shares = row[1 : len(row) - behind]
        if not all(-ROUNDED <= share <= 1 + ROUNDED for share in shares):
            raise UserError(
                f"{where}: {shorten(line.strip())!r} goes beyond 0 to 1; write shares of the image's width and height"
            )
        labels.append(int(row[0]))
        outlined.append(len(shares) >= OUTLINE - 1)
        boxes.append(_around(shares) if outlined[-1] else shares)
    table = np.array(boxes, dtype=np.float64).reshape(-1, 4)
    return Labels(np.array(labels, dtype=np.int64), table, np.array(outlined, dtype=np.bool_))


def _numbers(line: str) -> list[float]:
    """The numbers of a line; none where anything else stands in it."""
    try:
        row = [float(word) for word in line.split()]
    except ValueError:
        return []
    return row if all(map(math.isfinite, row)) else []


def _around(points: Sequence[float]) -> list[float]:
    """The box cx, cy, w, h around points x, y, x, y, ..."""
    left, top, right, bottom = min(points[::2]), min(points[1::2]), max(points[::2]), max(points[1::2])
    return [(left + right) / 2, (top + bottom) / 2, right - left, bottom - top]
