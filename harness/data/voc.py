"""PASCAL VOC: ``Annotations/ID.xml``, ``JPEGImages/ID.jpg``, ``ImageSets/Main/SPLIT.txt``."""

from __future__ import annotations

import hashlib
import math
import os
from collections import Counter
from collections.abc import Iterable
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
from harness.errors import UserError, did_you_mean

LAYOUT = "Annotations/, JPEGImages/ and ImageSets/Main/SPLIT.txt"
DEFAULT_SPLITS = {"train": ("trainval", "train"), "val": ("test", "val")}
SUFFIXES = (".jpg", ".jpeg", ".png", ".JPG", ".JPEG", ".PNG")


def open_voc(
    folder: str,
    split: str | None,
    role: Literal["train", "val"],
    limit: int | None = None,
    extra_splits: Iterable[str | None] = (),
) -> ImageSet:
    """Open one split of a data set in VOC's layout.

    VOC counts pixels from 1 and its corners belong to the box: ``xmin - 1, ymin - 1, xmax, ymax`` are the continuous
    corners. Classes are all names of all usual splits, sorted, so that training and evaluation agree on them.

    Args:
        folder: of the data set.
        split: ``None`` for trainval or else train, and test or else val.
        role: which default.
        limit: only the first images of the list.
        extra_splits: further splits whose names count as classes.

    Raises:
        UserError: if something is missing or wrong; the line names the file and the object.
    """
    root = open_folder(folder, LAYOUT)
    lists = root / "ImageSets" / "Main"
    split = _find_split(lists, split, role)
    parsed: dict[str, _Parsed] = {}
    chosen = _read_list(lists / f"{split}.txt")[:limit]
    for name in chosen:
        parsed[name] = _parse(root / "Annotations" / f"{name}.xml")
    names = {label for item in parsed.values() for label in item.names}
    known = {"trainval", "train", "val", "test", *(extra for extra in extra_splits if extra)}
    for other in sorted(known):
        names |= _class_names(root, lists / f"{other}.txt", parsed)
    classes = tuple(sorted(names))
    if not classes:
        raise UserError(f"no annotation of {root} names an object, so there is no class to learn")
    counted: Counter[str] = Counter()
    digest = hashlib.sha256("\n".join(classes).encode())
    files = []
    for index, name in enumerate(chosen):
        digest.update(parsed[name].content)
        files.append(_image_file(root, index, name, parsed[name], classes, counted))
    return FolderSet(root, split, classes, files, digest.hexdigest(), counted)


def _find_split(lists: Path, split: str | None, role: str) -> str:
    found = [name.removesuffix(".txt") for name in names_in(lists) if name.endswith(".txt")]
    for name in (split,) if split is not None else DEFAULT_SPLITS[role]:
        if name in found:
            return name
    wanted = f"split {split!r}{did_you_mean(split, found)}" if split is not None else f"default {role} split"
    raise UserError(f"{lists} has no {wanted}; it has {', '.join(found) or 'none'} ({LAYOUT})")


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


def _class_names(root: Path, path: Path, parsed: dict[str, _Parsed]) -> set[str]:
    """Class names in the images of another split. Its annotations may be absent: VOC 2012 keeps those of test back."""
    names: set[str] = set()
    for name in _read_list(path) if os.path.isfile(path) else ():
        annotation = root / "Annotations" / f"{name}.xml"
        if name not in parsed and os.path.isfile(annotation):
            names.update(_parse(annotation).names)
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
    root: Path, index: int, name: str, parsed: _Parsed, classes: tuple[str, ...], counted: Counter[str]
) -> ImageFile:
    raw = np.array(parsed.corners, dtype=np.float64).reshape(-1, 4)
    # A box of equal corners is one pixel by VOC's counting, but in the sets it is a slip of the mouse: no area.
    raw[(raw[:, 2:] <= raw[:, :2]).any(axis=1)] = (1.0, 1.0, 0.0, 0.0)
    boxes, keep = keep_boxes(raw - (1.0, 1.0, 0.0, 0.0), parsed.size, counted)
    boxes = boxes[keep]
    label = {class_name: position for position, class_name in enumerate(classes)}
    objects = Annotations(
        boxes=boxes,
        labels=np.array([label[item] for item in parsed.names], dtype=np.int64)[keep],
        crowd=np.zeros(len(boxes), dtype=np.bool_),
        difficult=np.array(parsed.difficult, dtype=np.bool_)[keep],
        area=(boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]),
    )
    return ImageFile(index, _image_name(root, name), parsed.size, objects)


def _image_name(root: Path, name: str) -> str:
    # By the id of the list alone: `filename`, `folder` and `path` in the XML are often left over from elsewhere.
    for suffix in SUFFIXES:
        if os.path.exists(root / "JPEGImages" / f"{name}{suffix}"):  # unlike Path's, it is no error without permission
            return f"JPEGImages/{name}{suffix}"
    return f"JPEGImages/{name}{SUFFIXES[0]}"  # named in the message that follows
