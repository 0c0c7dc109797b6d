"""PASCAL VOC: ``Annotations/ID.xml``, ``JPEGImages/ID.jpg``, ``ImageSets/Main/SPLIT.txt``, of one year or several."""

from __future__ import annotations

import hashlib
import math
import os
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from xml.etree.ElementTree import Element, ParseError

import numpy as np
from defusedxml import DefusedXmlException, ElementTree

from harness.data.base import Annotations, ImageSet
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
from harness.errors import UserError, did_you_mean, shorten

LAYOUT = "Annotations/, JPEGImages/ and ImageSets/Main/SPLIT.txt"
LISTS = "ImageSets/Main"
YEAR = re.compile(r"VOC20\d\d")
USUAL = ("trainval", "train", "val", "test")
DEFAULT_SPLITS = {"train": ("trainval", "train"), "val": ("test", "val")}  # the first that is there
DEFAULT_UNIONS = {"train": ("VOC2007/trainval", "VOC2012/trainval"), "val": ("VOC2007/test",)}  # all that are there
SUFFIXES = (".jpg", ".jpeg", ".png", ".JPG", ".JPEG", ".PNG")


def open_voc(
    folder: str,
    split: str | None,
    role: Literal["train", "val"],
    limit: int | None = None,
    other: str | None = None,
) -> ImageSet:
    """Open one split of a data set in VOC's layout.

    VOC counts pixels from 1 and its corners belong to the box: ``xmin - 1, ymin - 1, xmax, ymax`` are the continuous
    corners. Classes are all names of all usual splits, sorted, so that training and evaluation agree on them.

    A split may be a union: ``VOC2007/trainval+VOC2012/trainval`` in a folder that holds one folder of this layout for
    each year. Names then begin with the year's folder, and classes are those of every folder in use.

    Args:
        folder: of the data set.
        split: ``None`` for trainval or else train, and test or else val; in a folder of years for VOC2007/trainval
            and VOC2012/trainval, those that are there, and VOC2007/test.
        role: which default.
        limit: only the first images of the list.
        other: the split of the other role, whose names count as classes too; ``None`` for its default.

    Raises:
        UserError: if something is missing or wrong; the line names the file and the object.
    """
    root = open_folder(folder, LAYOUT)
    available = _available(root)
    parts = _find_parts(root, available, split, role)
    chosen = [_Item(part.folder, name) for part in parts for name in _read_list(part.path(root))]
    for item, times in Counter(chosen).items():
        if times > 1:
            raise UserError(f"split {_joined(parts)!r} of {root}: {item.name!r} is in more than one of its parts")
    chosen = chosen[:limit]
    parsed = {item: _parse(item.annotation(root)) for item in chosen}
    names = {label for found in parsed.values() for label in found.names}
    for part in sorted(_class_parts(available, parts, other, role)):
        names |= _class_names(root, part, parsed)
    classes = tuple(sorted(names))
    if not classes:
        raise UserError(f"no annotation of {root} names an object, so there is no class to learn")
    counted: Counter[str] = Counter()
    digest = hashlib.sha256("\n".join(classes).encode())
    files = []
    for index, item in enumerate(chosen):
        digest.update(parsed[item].content)
        files.append(_image_file(root, index, item, parsed[item], classes, counted))
    return FolderSet(root, _joined(parts), classes, files, digest.hexdigest(), counted)


@dataclass(frozen=True, order=True)
class _Part:
    """A split file: the folder of its year within the data folder (empty for a plain data set), and its name."""

    folder: str
    name: str

    def __str__(self) -> str:
        return f"{self.folder}/{self.name}" if self.folder else self.name

    def path(self, root: Path) -> Path:
        return root / self.folder / LISTS / f"{self.name}.txt"


@dataclass(frozen=True)
class _Item:
    """An image: the folder of its year and its id there."""

    folder: str
    name: str

    def annotation(self, root: Path) -> Path:
        return root / self.folder / "Annotations" / f"{self.name}.xml"


def _joined(parts: Sequence[_Part]) -> str:
    return "+".join(map(str, parts))


def _available(root: Path) -> list[_Part]:
    """The split files of a data set, or of every year in a folder of years."""
    years = [] if os.path.isdir(root / LISTS) else [name for name in names_in(root) if YEAR.fullmatch(name)]
    return [
        _Part(folder, name.removesuffix(".txt"))
        for folder in years or [""]
        for name in names_in(root / folder / LISTS)
        if name.endswith(".txt")
    ]


def _find_parts(root: Path, available: list[_Part], split: str | None, role: str) -> list[_Part]:
    known = {str(part): part for part in available}
    listed = f"it has {shorten(', '.join(sorted(known))) or 'none'} ({LAYOUT})"
    if split is None:
        found = _default_parts(known, role)
        if not found:
            raise UserError(f"{root} has no default {role} split; {listed}; name one with --{role}-split")
        return found
    words = [split] if split in known else split.split("+")
    for word in words:
        if word not in known:
            raise UserError(f"{root} has no split {word!r}{did_you_mean(word, known)}; {listed}")
    return [known[word] for word in words]


def _default_parts(known: Mapping[str, _Part], role: str) -> list[_Part]:
    union = [known[name] for name in DEFAULT_UNIONS[role] if name in known]
    return union or [known[name] for name in DEFAULT_SPLITS[role] if name in known][:1]


def _class_parts(available: list[_Part], parts: list[_Part], other: str | None, role: str) -> set[_Part]:
    """The splits whose names count as classes: the same whether that of training or that of evaluation is opened."""
    known = {str(part): part for part in available}
    if other is None:
        theirs = _default_parts(known, "val" if role == "train" else "train")
    else:
        theirs = [known[word] for word in (other, *other.split("+")) if word in known]
    folders = {part.folder for part in (*parts, *theirs)}
    return {*parts, *theirs, *(part for part in available if part.folder in folders and part.name in USUAL)}


def _read_list(path: Path) -> list[str]:
    """The image ids of a split file; the lists of single classes have a column of -1, 0 or 1 behind the id."""
    try:
        text = read_bytes(path, "split file").decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"split file {path} is not UTF-8 text: {error}") from error
    names: dict[str, None] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        head, _, mark = line.strip().rpartition(" ")
        name = head.strip() if head and mark in ("-1", "0", "1") else line.strip()
        if not name:
            continue
        if not stays_inside(name):
            raise UserError(f"split file {path}, line {number}: {name!r} must stay inside the data folder")
        if name in names:
            raise UserError(f"split file {path}, line {number}: {name!r} occurs twice")
        names[name] = None
    return list(names)


@dataclass(frozen=True)
class _Parsed:
    """One annotation file: its bytes, the image's size, and its objects, boxes as the numbers stand in the file."""

    content: bytes
    size: tuple[int, int]
    names: tuple[str, ...]
    corners: tuple[tuple[float, ...], ...]
    difficult: tuple[bool, ...]


def _class_names(root: Path, part: _Part, parsed: Mapping[_Item, _Parsed]) -> set[str]:
    """Class names in the images of another split. Its annotations may be absent: VOC 2012 keeps those of test back."""
    names: set[str] = set()
    for name in _read_list(part.path(root)):
        item = _Item(part.folder, name)
        if item not in parsed and os.path.isfile(item.annotation(root)):
            names.update(_parse(item.annotation(root)).names)
    return names


def _parse(path: Path) -> _Parsed:
    content = read_bytes(path, "annotation file")
    try:
        # Entities are refused: they can read files and grow without bound.
        tree: Element = ElementTree.fromstring(content)
    except (ParseError, ValueError, LookupError) as error:
        reason = type(error).__name__ if isinstance(error, DefusedXmlException) else str(error)
        raise UserError(f"annotation file {path} is not plain well-formed XML: {reason}") from error
    size = tree.find("size")
    if size is None:
        raise UserError(f"annotation file {path} has no 'size'")
    height, width = (_number(size, key, f"annotation file {path}, size") for key in ("height", "width"))
    if not all(0 < side <= MAX_SIDE and side == int(side) for side in (height, width)):
        raise UserError(f"annotation file {path}: size must be whole numbers above 0, got {width:g}x{height:g}")
    names, corners, difficult = [], [], []
    for number, item in enumerate(tree.findall("object"), start=1):
        where = f"annotation file {path}, object {number}"
        name, box = (item.findtext("name") or "").strip(), item.find("bndbox")
        if not name or box is None:
            raise UserError(f"{where} has no '{'bndbox' if name else 'name'}'")
        names.append(name)
        corners.append(tuple(_number(box, key, where) for key in ("xmin", "ymin", "xmax", "ymax")))
        mark = (item.findtext("difficult") or "").strip()  # empty in some exports: not difficult
        if mark not in ("", "0", "1"):
            raise UserError(f"{where}: 'difficult' must be 0 or 1, got {mark!r}")
        difficult.append(mark == "1")
    return _Parsed(content, (int(height), int(width)), tuple(names), tuple(corners), tuple(difficult))


def _number(parent: Element, key: str, where: str) -> float:
    text = parent.findtext(key)
    try:
        value = float(text) if text is not None else math.nan
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise UserError(f"{where}: {key!r} must be a number, got {text!r}")
    return value


def _image_file(
    root: Path, index: int, item: _Item, parsed: _Parsed, classes: tuple[str, ...], counted: Counter[str]
) -> ImageFile:
    raw = np.array(parsed.corners, dtype=np.float64).reshape(-1, 4)
    # A box of equal corners is one pixel by VOC's counting, but in the sets it is a slip of the mouse: no area.
    raw[(raw[:, 2:] <= raw[:, :2]).any(axis=1)] = (1.0, 1.0, 0.0, 0.0)
    boxes, keep = keep_boxes(raw - (1.0, 1.0, 0.0, 0.0), parsed.size, counted)
    boxes = boxes[keep]
    label = {class_name: position for position, class_name in enumerate(classes)}
    objects = Annotations(
        boxes=boxes,
        labels=np.array([label[name] for name in parsed.names], dtype=np.int64)[keep],
        crowd=np.zeros(len(boxes), dtype=np.bool_),
        difficult=np.array(parsed.difficult, dtype=np.bool_)[keep],
        area=(boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]),
    )
    return ImageFile(index, _image_name(root, item), parsed.size, objects)


def _image_name(root: Path, item: _Item) -> str:
    # By the id of the list alone: `filename`, `folder` and `path` in the XML are often left over from elsewhere.
    stem = "/".join(filter(None, (item.folder, "JPEGImages", item.name)))
    for suffix in SUFFIXES:
        if os.path.exists(root / f"{stem}{suffix}"):  # unlike Path's, it is no error without permission
            return f"{stem}{suffix}"
    return f"{stem}{SUFFIXES[0]}"  # named in the message that follows
