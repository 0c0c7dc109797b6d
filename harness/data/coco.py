"""COCO instances: ``annotations/instances_SPLIT.json`` and images in ``SPLIT/``; or ``image_info_SPLIT.json``."""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from pathlib import Path
from typing import Any, Literal, TypeGuard

import numpy as np

from harness.data.base import Annotations
from harness.data.files import (
    MAX_SIDE,
    FolderSet,
    ImageFile,
    keep_boxes,
    names_in,
    open_folder,
    read_bytes,
    stays_inside,
)
from harness.errors import UserError, did_you_mean, is_text

LAYOUT = "annotations/instances_SPLIT.json and images in SPLIT/"

INSTANCES, IMAGE_INFO = "instances_", "image_info_"

Row = dict[str, Any]


class CocoSet(FolderSet):
    """A split in COCO's layout.

    Attributes:
        category_ids: of the annotation file, by class id.
        annotated: whether the objects are known; where they are not, as in COCO's test sets, no image has any.
    """

    category_ids: tuple[int, ...] = ()
    annotated: bool = True


def open_coco(
    folder: str, split: str | None, role: Literal["train", "val"], limit: int | None = None, *, annotated: bool = True
) -> CocoSet:
    """Open one split of a data set in COCO's layout.

    Category ids become ``0..C-1`` in the order of the ids. Boxes are clipped to their image; those without area are
    dropped and counted.

    Args:
        folder: of the data set.
        split: ``None`` for train2017 or val2017, or else the only split whose name holds "train" or "val".
        role: which default.
        limit: only the first images, in the file's order.
        annotated: refuse a split of which there is but a list of its images, ``image_info_SPLIT.json``. The images of
            such a list lie in ``SPLIT/``, or without a ``-dev`` in its name: test-dev2017 is a part of test2017.

    Raises:
        UserError: if something is missing or wrong; the line names the file and the entry.
    """
    root = open_folder(folder, LAYOUT)
    path, split = _find_split(root, split, role)
    listed = path.name.startswith(IMAGE_INFO)
    if listed and annotated:
        raise UserError(
            f"split {split!r} of {root} has no annotations ({path.name}); `harness eval RUN --results-json FILE` "
            "writes the detections in its images"
        )
    content = read_bytes(path, "annotation file")
    try:
        document = json.loads(content)
    except ValueError as error:  # a UnicodeDecodeError is one as well
        raise UserError(f"annotation file {path} is not valid JSON: {error}") from error
    except RecursionError as error:
        raise UserError(f"annotation file {path} is nested too deeply to be COCO instances") from error
    if listed and isinstance(document, dict):
        document["annotations"] = []
    reader = _Reader(path, document)
    classes = reader.categories()
    images = split if not listed or os.path.isdir(root / split) else split.replace("-dev", "")
    files = reader.files(images, limit)
    made = CocoSet(root, split, classes, files, hashlib.sha256(content).hexdigest(), reader.warnings)
    made.category_ids, made.annotated = reader.category_ids, not listed
    return made


def _find_split(root: Path, split: str | None, role: str) -> tuple[Path, str]:
    """The file and the name of a split; a list of images alone is taken only by its name."""
    names = [name.removesuffix(".json") for name in names_in(root / "annotations") if name.endswith(".json")]
    found, listed = (
        [name.removeprefix(kind) for name in names if name.startswith(kind)] for kind in (INSTANCES, IMAGE_INFO)
    )
    told = ", ".join([*found, *(f"{name} (no annotations)" for name in listed if name not in found)])
    if not told:
        raise UserError(f"{root} has no annotation file; expected {LAYOUT}")
    if split is None:
        fitting = [name for name in found if role in name]
        if f"{role}2017" in found:
            fitting = [f"{role}2017"]
        if len(fitting) != 1:
            raise UserError(f"cannot tell the {role} split of {root}: it has {told}; name one with --{role}-split")
        split = fitting[0]
    elif split not in (*found, *listed):
        hint = did_you_mean(split, (*found, *listed))
        raise UserError(f"{root} has no split {split!r}{hint}; it has {told} ({LAYOUT})")
    return root / "annotations" / f"{INSTANCES if split in found else IMAGE_INFO}{split}.json", split


class _Reader:
    """Turns a parsed instances file into rows, and every fault into a line that names file and entry."""

    def __init__(self, path: Path, document: object) -> None:
        self.warnings: Counter[str] = Counter()
        self._path = path
        self._category: dict[int, int] = {}
        self._tables: dict[str, list[Row]] = {}
        for key in ("images", "annotations", "categories"):
            rows = document.get(key) if isinstance(document, dict) else None
            if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
                raise UserError(f"annotation file {path}: {key!r} must be a list of objects")
            self._tables[key] = rows

    def _fault(self, text: str) -> UserError:
        return UserError(f"annotation file {self._path}: {text}")

    def _id(self, row: Row, kind: str, position: int) -> int:
        value = row.get("id")
        if not _is_whole(value) or not 0 <= value < 2**63:
            raise self._fault(f"{kind} number {position} needs a whole number as 'id', got {value!r}")
        return value

    def categories(self) -> tuple[str, ...]:
        names: dict[int, str] = {}
        for position, row in enumerate(self._tables["categories"]):
            identity, name = self._id(row, "category", position), row.get("name")
            if not isinstance(name, str) or not name or not is_text(name):
                raise self._fault(f"category {identity} needs a 'name', got {name!r}")
            if identity in names:
                raise self._fault(f"category id {identity} occurs twice")
            names[identity] = name
        if not names:
            raise self._fault("'categories' is empty")
        self._category = {identity: label for label, identity in enumerate(sorted(names))}
        return tuple(names[identity] for identity in sorted(names))

    @property
    def category_ids(self) -> tuple[int, ...]:
        """As `categories` found them, in the order of their class ids."""
        return tuple(self._category)

    def files(self, split: str, limit: int | None) -> list[ImageFile]:
        images: dict[int, tuple[str, tuple[int, int]]] = {}
        for position, row in enumerate(self._tables["images"]):
            identity = self._id(row, "image", position)
            if identity in images:
                raise self._fault(f"image id {identity} occurs twice")
            images[identity] = self._image(row, identity, split)
        objects: dict[int, list[Row]] = {identity: [] for identity in images}
        known: set[int] = set()
        for position, row in enumerate(self._tables["annotations"]):
            identity = self._id(row, "annotation", position)
            if identity in known:
                raise self._fault(f"annotation id {identity} occurs twice; give each object an id of its own")
            known.add(identity)
            objects[self._owner(row, identity, images)].append(row)
        chosen = list(images.items())[:limit]
        return [
            ImageFile(identity, name, size, self._objects(objects[identity], size)) for identity, (name, size) in chosen
        ]

    def _image(self, row: Row, identity: int, split: str) -> tuple[str, tuple[int, int]]:
        name, height, width = row.get("file_name"), row.get("height"), row.get("width")
        if not isinstance(name, str) or not stays_inside(name):
            raise self._fault(f"image {identity}: 'file_name' must stay inside {split}/, got {name!r}")
        if not _is_whole(height) or not _is_whole(width) or not (0 < height <= MAX_SIDE and 0 < width <= MAX_SIDE):
            raise self._fault(f"image {identity}: width and height must be above 0, got {width!r} and {height!r}")
        return f"{split}/{name}", (height, width)

    def _owner(self, row: Row, identity: int, images: dict[int, tuple[str, tuple[int, int]]]) -> int:
        """Check one annotation; the id of its image."""
        image, category, box = row.get("image_id"), row.get("category_id"), row.get("bbox")
        if not _is_whole(image) or image not in images:
            raise self._fault(f"annotation {identity}: image_id {image!r} is not among 'images'")
        if not _is_whole(category) or category not in self._category:
            raise self._fault(f"annotation {identity}: category_id {category!r} is not among 'categories'")
        if not isinstance(box, list) or len(box) != 4 or not all(_is_finite(value) for value in box):
            raise self._fault(f"annotation {identity}: 'bbox' must be 4 finite numbers x, y, w, h, got {box!r}")
        if not _is_finite(row.get("area", 0)) or row.get("area", 0) < 0:
            raise self._fault(f"annotation {identity}: 'area' must be a number of at least 0, got {row['area']!r}")
        if row.get("iscrowd", 0) not in (0, 1):
            raise self._fault(f"annotation {identity}: 'iscrowd' must be 0 or 1, got {row['iscrowd']!r}")
        return image

    def _objects(self, rows: list[Row], size: tuple[int, int]) -> Annotations:
        corner = np.array([row["bbox"] for row in rows], dtype=np.float64).reshape(-1, 4)
        area = np.array([row.get("area", row["bbox"][2] * row["bbox"][3]) for row in rows], dtype=np.float32)
        corner[:, 2:] += corner[:, :2]
        boxes, keep = keep_boxes(corner, size, self.warnings)
        return Annotations(
            boxes=boxes[keep],
            labels=np.array([self._category[row["category_id"]] for row in rows], dtype=np.int64)[keep],
            crowd=np.array([row.get("iscrowd", 0) for row in rows], dtype=np.bool_)[keep],
            difficult=np.zeros(int(keep.sum()), dtype=np.bool_),
            area=area[keep],
        )


def _is_whole(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_finite(value: object) -> TypeGuard[float]:
    # A bound rather than isfinite, which fails on integers beyond the range of floats.
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 1e12
