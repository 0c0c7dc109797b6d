"""The tables of a COCO instances file, checked entry by entry, as images with their objects."""

from __future__ import annotations

import os
import posixpath
from math import nan
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from harness.core.errors import UserError, is_text
from harness.data.base import Annotations, Oddities
from harness.data.plausible import COCO_ORDER, sides_problem
from harness.data.readers.coco_values import Key, flag, identity, is_finite, key, mask_box, number, whole
from harness.data.readers.folder import (
    MAX_SIDE,
    NO_OBJECTS,
    SAME_NAME,
    UNKNOWN_SIZE,
    ImageFile,
    header_size,
    joined,
    keep_boxes,
)  # fmt: skip
from harness.data.readers.reading import Listing, stays_inside

GROUPS = "categories that only group others, left out"
NO_SIZE = "images without a size in the annotation file, which was read from the image"
OTHER_SPELLING = "file names that fit an image only in letters of another case or with other slashes"
FROM_ROOT = "file names that begin at the data folder and not at the split's"
FROM_MASK = "boxes taken from their object's polygons or mask, as there is no 'bbox'"
NULL = "entries 'area' or 'iscrowd' that are null, read as absent"
IGNORED = "objects marked 'ignore', read as regions without negatives"
DIFFICULT = "objects marked 'difficult', as in VOC"

_NOT_SAID = (None, 0, "", "0")

LOOKED_AT = 1000  # annotations whose masks are held against their boxes: enough to tell a convention

Row = dict[str, Any]


class _Image(NamedTuple):
    """An entry of ``images``: name relative to the data root, ``(height, width)``."""

    name: str
    size: tuple[int, int]


class _Objects:
    """All checked annotations, column by column: there may be a million."""

    def __init__(self) -> None:
        self.image: list[int] = []  # its position among the images
        self.label: list[int] = []
        self.box: list[list[float]] = []  # x, y, w, h
        self.area: list[float] = []  # NaN where none is stated
        self.around: list[list[float]] = []  # of the first `LOOKED_AT`, x, y, w, h around the mask, NaN for none
        self.crowd: list[bool] = []
        self.difficult: list[bool] = []


class Reader:
    """Turns a parsed instances file into rows, and every fault into a line that names file and entry.

    Attributes:
        classes, category_ids: by class id.
        images: by id, in the file's order.
        warnings: oddities, counted.
    """

    def __init__(self, path: Path, document: object, root: Path, folder: str) -> None:
        self.warnings = Oddities()
        self._path, self._root, self._folder, self._listing = path, root, folder, Listing(root)
        self._tables: dict[str, list[Row]] = {}
        for name in ("images", "annotations", "categories"):
            rows = document.get(name) if isinstance(document, dict) else None
            if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
                raise UserError(f"annotation file {path}: {name!r} must be a list of objects")
            self._tables[name] = rows
        self._labels, self.classes, self.category_ids = self._categories()
        self.images = self._images()
        self._objects = _Objects()
        self._read_objects()

    def _fault(self, text: str) -> UserError:
        return UserError(f"annotation file {self._path}: {text}")

    def _id(self, row: Row, kind: str, position: int) -> Key:
        identifier = key(row.get("id"))
        if identifier is None:
            raise self._fault(f"{kind} number {position} needs a whole number or a text as 'id', got {row.get('id')!r}")
        return identifier

    def _categories(self) -> tuple[dict[Key, int], tuple[str, ...], tuple[Key, ...]]:
        """Class ids by category id; names and category ids by class id."""
        rows: dict[Key, Row] = {}
        for position, row in enumerate(self._tables["categories"]):
            category, name = self._id(row, "category", position), row.get("name")
            if not isinstance(name, str) or not name or not is_text(name):
                raise self._fault(f"category {category} needs a 'name', got {name!r}")
            if category in rows:
                raise self._fault(f"category id {category} occurs twice")
            rows[category] = row
        if not rows:
            raise self._fault("'categories' is empty")
        groups = self._groups(rows)
        names: dict[str, Key] = {}
        order = sorted(rows, key=lambda category: (isinstance(category, str), category))
        for category in order:
            if category not in groups and rows[category]["name"] in names:
                self.warnings.note(SAME_NAME, f"{rows[category]['name']} ({names[rows[category]['name']]}, {category})")
            elif category not in groups:
                names[rows[category]["name"]] = category
        label = {name: position for position, name in enumerate(names)}
        labels = {category: label[rows[category]["name"]] for category in order if category not in groups}
        return labels, tuple(names), tuple(names.values())

    def _groups(self, rows: dict[Key, Row]) -> set[Key]:
        """Categories without any annotation whose name is the super-category of another: exports write such a root."""
        used = {key(row.get("category_id")) for row in self._tables["annotations"]}
        above = {row.get("supercategory") for row in rows.values() if row.get("supercategory") != row["name"]}
        groups = {category for category, row in rows.items() if row["name"] in above and category not in used}
        self.warnings.note_all(GROUPS, (rows[category]["name"] for category in groups))
        return groups

    def _images(self) -> dict[Key, _Image]:
        images: dict[Key, _Image] = {}
        for position, row in enumerate(self._tables["images"]):
            image_id = self._id(row, "image", position)
            if image_id in images:
                raise self._fault(f"image id {image_id} occurs twice")
            images[image_id] = self._image(row, image_id)
        return images

    def _image(self, row: Row, image_id: Key) -> _Image:
        name = row.get("file_name")
        if not isinstance(name, str) or not stays_inside(name):
            raise self._fault(f"image {image_id}: 'file_name' must stay inside {self._folder}/, got {name!r}")
        name = self._existing(posixpath.normpath(f"{self._folder}/{name}"))
        height, width = row.get("height"), row.get("width")
        if height in _NOT_SAID or width in _NOT_SAID:
            self.warnings.note(NO_SIZE, name)
            return _Image(name, header_size(self._root / name) or UNKNOWN_SIZE)
        rows, columns = whole(height), whole(width)
        if rows is None or columns is None or not (0 < rows <= MAX_SIDE and 0 < columns <= MAX_SIDE):
            raise self._fault(
                f"image {image_id}: width and height must be whole numbers above 0, got {width!r} and {height!r}"
            )
        return _Image(name, (rows, columns))

    def _existing(self, name: str) -> str:
        """The file of a name; the name itself where there is none."""
        if os.path.exists(self._root / name):
            return name
        below = name.removeprefix(f"{self._folder}/").replace("\\", "/")
        other = self._listing.find(f"{self._folder}/{below}")
        kind = OTHER_SPELLING
        if other is None:
            above = (posixpath.normpath(folder / below) for folder in PurePosixPath(self._folder).parents)
            other, kind = next((there for there in above if os.path.exists(self._root / there)), None), FROM_ROOT
        if other is None:
            return name
        self.warnings.note(kind, name)
        return other

    def _read_objects(self) -> None:
        known: set[Key] = set()
        place = {row_id: position for position, row_id in enumerate(self.images)}
        for position, row in enumerate(self._tables["annotations"]):
            row_id = self._id(row, "annotation", position)
            if row_id in known:
                raise self._fault(f"annotation id {row_id} occurs twice; give each object an id of its own")
            known.add(row_id)
            image = key(row.get("image_id"))
            if image is None or image not in place:
                raise self._fault(f"annotation {row_id}: image_id {row.get('image_id')!r} is not among 'images'")
            self._objects.image.append(place[image])
            self._read_object(row, row_id, self.images[image])

    def _read_object(self, row: Row, row_id: Key, image: _Image) -> None:
        objects, category = self._objects, key(row.get("category_id"))
        if category not in self._labels:
            raise self._fault(f"annotation {row_id}: category_id {row.get('category_id')!r} is not among 'categories'")
        area, crowd = row.get("area"), self._flag(row, row_id, "iscrowd")
        if area is not None and ((area := number(area)) is None or area < 0):
            raise self._fault(f"annotation {row_id}: 'area' must be a number of at least 0, got {row['area']!r}")
        if row.get("area", 0) is None or row.get("iscrowd", 0) is None:
            self._note(NULL, row_id, image)
        if self._flag(row, row_id, "ignore") and not crowd:
            self._note(IGNORED, row_id, image)
            crowd = True
        if difficult := self._flag(row, row_id, "difficult"):
            self._note(DIFFICULT, row_id, image)
        objects.label.append(self._labels[category])
        objects.box.append(self._box(row, row_id, image))
        objects.area.append(nan if area is None else area)
        if len(objects.around) < LOOKED_AT:
            objects.around.append(mask_box(row.get("segmentation"), image.size) or [nan] * 4)
        objects.crowd.append(crowd)
        objects.difficult.append(difficult)

    def _note(self, kind: str, row_id: Key, image: _Image) -> None:
        self.warnings.note(kind, f"annotation {row_id} of {image.name}")

    def _box(self, row: Row, row_id: Key, image: _Image) -> list[float]:
        box = row.get("bbox")
        if not box and (around := mask_box(row.get("segmentation"), image.size)) is not None:
            self._note(FROM_MASK, row_id, image)
            return around
        if not isinstance(box, list) or len(box) != 4 or not all(map(is_finite, box)):
            raise self._fault(f"annotation {row_id}: 'bbox' must be 4 finite numbers x, y, w, h, got {box!r}")
        return box

    def _flag(self, row: Row, row_id: Key, name: str) -> bool:
        value = flag(row.get(name))
        if value is None:
            raise self._fault(f"annotation {row_id}: {name!r} must be 0 or 1, got {row[name]!r}")
        return value

    def files(self, limit: int | None) -> list[ImageFile]:
        """The images, each file once: what several entries say of it is put together."""
        by_file: dict[str, list[int]] = {}
        for position, image in enumerate(self.images.values()):
            by_file.setdefault(image.name, []).append(position)
        ids, images = list(self.images), list(self.images.values())
        for name, positions in by_file.items():
            for position in positions[1:]:
                self._expect_one_size(name, ids[positions[0]], ids[position])
        chosen = list(by_file.items())[:limit]
        objects = self._annotations(np.array([p for _, positions in chosen for p in positions], dtype=np.int64))
        files = []
        for name, positions in chosen:
            size = images[positions[0]].size
            every = joined([objects[position] for position in positions], name, self.warnings)
            every = NO_OBJECTS if size == UNKNOWN_SIZE else every
            files.append(ImageFile(identity(ids[positions[0]]), name, size, every))
        return files

    def _expect_one_size(self, name: str, first: Key, other: Key) -> None:
        """Two entries of one file must agree on its size: their boxes count its pixels."""
        sizes = self.images[first].size, self.images[other].size
        if sizes[0] != sizes[1]:
            stated = " and of ".join(f"{width}x{height}" for height, width in sizes)
            raise self._fault(
                f"images {first} and {other} are both {name}, of {stated}; mend the sizes and the boxes that count by "
                "the wrong one"
            )

    def problem(self) -> str | None:
        """Why the boxes of the file cannot be what the format says."""
        boxes = np.array(self._objects.box, dtype=np.float64).reshape(-1, 4)
        area = np.array(self._objects.area, dtype=np.float64)
        around = np.full_like(boxes, nan)
        around[: len(self._objects.around)] = np.array(self._objects.around, dtype=np.float64).reshape(-1, 4)
        sizes = self._sizes()[self._objects.image, ::-1].astype(np.float64)
        return sides_problem(boxes, sizes, area, around, COCO_ORDER)

    def _sizes(self) -> npt.NDArray[np.int64]:
        """Height and width ``[n, 2]`` of all images."""
        return np.array([image.size for image in self.images.values()], dtype=np.int64).reshape(-1, 2)

    def _annotations(self, positions: npt.NDArray[np.int64]) -> dict[int, Annotations]:
        """The objects of some of the images, by their position."""
        objects, names = self._objects, [image.name for image in self.images.values()]
        owner = np.array(objects.image, dtype=np.int64)
        rows = np.argsort(owner, kind="stable")  # image by image, in the file's order within each
        rows = rows[np.isin(owner[rows], positions)]
        owner = owner[rows]
        first = np.searchsorted(owner, owner)
        boxes = np.array(objects.box, dtype=np.float64).reshape(-1, 4)[rows]
        area = np.array(objects.area, dtype=np.float64)[rows]
        area = np.where(np.isnan(area), boxes[:, 2] * boxes[:, 3], area).astype(np.float32)
        boxes[:, 2:] += boxes[:, :2]
        boxes32, keep = keep_boxes(
            boxes,
            self._sizes()[owner],
            self.warnings,
            lambda row: f"{names[owner[row]]} object {row - first[row] + 1}",
        )
        labels = np.array(objects.label, dtype=np.int64)[rows]
        crowd, difficult = (np.array(flags, dtype=np.bool_)[rows] for flags in (objects.crowd, objects.difficult))
        columns = [column[keep] for column in (boxes32, labels, crowd, difficult, area)]
        begin, end = (np.searchsorted(owner[keep], positions, side=side) for side in ("left", "right"))
        return {
            position: Annotations(*(column[start:stop] for column in columns))  # type: ignore[arg-type]
            for position, start, stop in zip(positions.tolist(), begin.tolist(), end.tolist(), strict=True)
        }
