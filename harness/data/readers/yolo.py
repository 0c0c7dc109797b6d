"""YOLO: a label file for each image, as Ultralytics and Darknet lay them out (`yolo_layout`)."""

from __future__ import annotations

import hashlib
import os
import posixpath
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from harness.core.errors import UserError, did_you_mean
from harness.data.base import Annotations, Oddities
from harness.data.default_splits import Pair, default_split, undecided
from harness.data.plausible import centre_problem
from harness.data.readers.coco_values import identity
from harness.data.readers.folder import (
    NO_OBJECTS,
    SAME_NAME,
    UNKNOWN_SIZE,
    FolderSet,
    ImageFile,
    header_size,
    keep_boxes,
)  # fmt: skip
from harness.data.readers.reading import open_folder, read_text
from harness.data.readers.yolo_images import image_names
from harness.data.readers.yolo_labels import Labels, parse_labels
from harness.data.readers.yolo_layout import LAYOUT, Layout, find_layout
from harness.data.sources import Opening

PAIRS = (
    Pair(("train",), ("val",)),
    Pair(("train",), ("valid",)),
    Pair(("train",), ("validation",)),
    Pair(("train",), ("test",)),
)


def open_source(asked: Opening) -> FolderSet:
    """Open one split of a data set in YOLO's format.

    Label files lie in ``labels/`` where the images' path has ``images/``, or beside the images; an image without one,
    or with an empty one, has no objects. Boxes are clipped to their image; those without area are dropped and counted.
    Names count from the data folder or the ``path`` within it, and nothing outside is read: the user named the folder.
    By default a split is of the first pair of `PAIRS` that is there; a limit takes the first images, sorted by name or
    in the order of a list.

    Raises:
        UserError: if something is missing or wrong; the line names file and line.
    """
    odd = Oddities()
    root = open_folder(asked.folder, LAYOUT)
    layout = find_layout(root, odd)
    split = _find_split(layout, asked)
    names = image_names(root, layout, split, odd)
    if not names:
        raise UserError(f"split {split!r} of {root} has no images ({', '.join(layout.splits[split])})")
    classes, label_of = _classes(layout.names, odd)
    labels = _Labels(root, layout)
    files = [_image_file(root, name, labels.read(name), label_of, odd) for name in names[: asked.limit]]
    problem = centre_problem(np.concatenate([np.zeros((0, 4)), *labels.plain]))
    images = FolderSet(root, split, classes, files, labels.digest.hexdigest(), odd, problem)
    if not labels.found and not any(map(labels.path, names)):
        looked = " and ".join(labels.places(names[0]))
        raise UserError(f"split {split!r} of {root} has no label files; looked for {looked}, and so on")
    return images


def _find_split(layout: Layout, asked: Opening) -> str:
    there = f"it has {', '.join(layout.splits)}"
    if asked.split is not None:
        if asked.split not in layout.splits:
            hint = did_you_mean(asked.split, layout.splits)
            raise UserError(f"{layout.origin} has no split {asked.split!r}{hint}; {there}")
        return asked.split
    fitting = default_split(asked.role, None if asked.other is None else [asked.other], PAIRS, layout.splits)
    if not fitting:
        raise UserError(f"cannot tell the {asked.role} split of {layout.origin}: {there}; {undecided(asked.role)}")
    return fitting[0]


def _classes(names: Sequence[str], odd: Oddities) -> tuple[tuple[str, ...], npt.NDArray[np.int64]]:
    """The classes, and the class of each id of the label files: ids of one name are one class."""
    classes = tuple(dict.fromkeys(names))
    for number, name in enumerate(names):
        if (first := names.index(name)) < number:
            odd.note(SAME_NAME, f"{name} ({first}, {number})")
    return classes, np.array([classes.index(name) for name in names], dtype=np.int64)


class _Labels:
    """The label files of a split.

    Attributes:
        digest: of all that was read.
        found: how many images had one.
        plain: the boxes of each, but those drawn around outlines.
    """

    def __init__(self, root: Path, layout: Layout) -> None:
        self._root, self._layout = root, layout
        self.digest = hashlib.sha256("\n".join((*layout.names, str(layout.keypoints))).encode())
        self.found = 0
        self.plain: list[npt.NDArray[np.float64]] = []

    def places(self, image: str) -> list[str]:
        """Where the label file of an image may lie: its path with ``labels`` for the last ``images``, or beside it."""
        beside = posixpath.splitext(image)[0] + ".txt"
        parts = beside.split("/")
        folders = [place for place, part in enumerate(parts[:-1]) if part == "images"]
        apart = ["/".join([*parts[: folders[-1]], "labels", *parts[folders[-1] + 1 :]])] if folders else []
        return [*apart, beside]

    def path(self, image: str) -> str | None:
        """The label file of an image; None where it has none."""
        return next((place for place in self.places(image) if os.path.exists(self._root / place)), None)

    def read(self, image: str) -> Labels:
        """The objects of an image.

        Raises:
            UserError: for a label file that cannot be read.
        """
        place = self.path(image)
        text = "" if place is None else read_text(self._root / place, "label file")
        self.found += place is not None
        self.digest.update(f"\n{image}\0{text}".encode())
        path = self._root / (place or image)
        labels = parse_labels(text, path, len(self._layout.names), self._layout.keypoints)
        self.plain.append(labels.boxes[~labels.outlined])
        return labels


def _image_file(root: Path, name: str, labels: Labels, label_of: npt.NDArray[np.int64], odd: Oddities) -> ImageFile:
    image_id = identity(name)  # by its name, so that an image keeps it when others come and go
    size = header_size(root / name)
    if size is None:
        return ImageFile(image_id, name, UNKNOWN_SIZE, NO_OBJECTS)
    half = labels.boxes[:, 2:] / 2
    corners = np.concatenate((labels.boxes[:, :2] - half, labels.boxes[:, :2] + half), axis=1)
    corners *= np.array((size[1], size[0]) * 2, dtype=np.float64)
    boxes, keep = keep_boxes(corners, size, odd, lambda row: f"{name} object {row + 1}")
    return ImageFile(image_id, name, size, Annotations.plain(boxes[keep], label_of[labels.classes[keep]]))
