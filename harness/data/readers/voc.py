"""PASCAL VOC: ``Annotations/ID.xml``, ``JPEGImages/ID.jpg``, ``ImageSets/Main/SPLIT.txt``, of one year or several."""

from __future__ import annotations

import hashlib
import os
import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from harness.core.errors import UserError, did_you_mean, shorten
from harness.data.base import Annotations, ImageSet, Oddities
from harness.data.default_splits import Pair, Role, default_split, undecided
from harness.data.plausible import voc_problem
from harness.data.readers.folder import (
    NO_OBJECTS,
    REPEATED_IMAGE,
    UNKNOWN_SIZE,
    FolderSet,
    ImageFile,
    header_size,
    keep_boxes,
)  # fmt: skip
from harness.data.readers.reading import IMAGE_SUFFIXES, Listing, names_in, open_folder, read_text, stays_inside
from harness.data.readers.voc_origin import Origin
from harness.data.readers.voc_xml import Annotation, parse
from harness.data.sources import Opening

LAYOUT = "Annotations/, JPEGImages/ and ImageSets/Main/SPLIT.txt"
LISTS = "ImageSets/Main"
YEAR = re.compile(r"VOC20\d\d")
USUAL = ("trainval", "train", "val", "test")
PAIRS = (Pair(("trainval",), ("test",)), Pair(("train",), ("test",)), Pair(("train",), ("val",)))

NO_SIZE = "images without a size in their annotation, which was read from the image"
FROM_ZERO = "boxes that begin at 0, so that all are read as counted from 0 and not, as VOC's, from 1"
FROM_ZERO_TOO = "boxes read as counted from 0, as most of another split that begin at the edge begin there"
SLIPS = "boxes that begin at 0 in a set that counts from 1, clipped"
SEVERAL = "images of which there are several files of one name, the first of which is read"
SPELLED_OUT = "names in lists with a suffix, read without it"
NUMBERED = "names in lists that end in a number of their own, though there is an image of the name without it"

_MARKED = re.compile(r"(.*\S)\s+(?:-1|0|1)")  # the lists of single classes have such a column behind the id


def open_source(asked: Opening) -> ImageSet:
    """Open one split of a data set in VOC's layout.

    VOC counts pixels from 1 and its corners belong to the box: ``xmin - 1, ymin - 1, xmax, ymax`` are the continuous
    corners. Tools that count from 0 write the same files; theirs are told by where the boxes begin (`Origin`).
    Classes are all names of all usual splits, sorted, so that training and evaluation agree on them.

    A split may be a union: ``VOC2007/trainval+VOC2012/trainval`` in a folder that holds one folder of this layout for
    each year. Names then begin with the year's folder, and classes are those of every folder in use.

    By default it is the first of trainval and test, train and test, train and val that are there and do not overlap;
    in a folder of years VOC2007/trainval and VOC2012/trainval, those that are there, and VOC2007/test, or else train
    and val of every year. A limit takes the first images of the list; names of the other split count as classes too.

    Raises:
        UserError: if something is missing or wrong; the line names the file and the object.
    """
    root = open_folder(asked.folder, LAYOUT)
    source = _Source(root)
    parts = source.find_parts(asked.split, asked.role, asked.other)
    counted = Oddities()
    chosen = source.items(parts, counted)[: asked.limit]
    parsed = {item: parse(source.annotation(item)) for item in chosen}
    every = parsed | source.others(source.class_parts(parts, asked.other, asked.role), parsed)
    classes = tuple(sorted({name for found in every.values() for name in found.names}))
    if not classes:
        raise UserError(f"no annotation of {root} names an object, so there is no class to learn")
    origin = Origin.of(every.values(), lambda: source.sizes(every))
    digest = hashlib.sha256("\n".join(classes).encode())
    if not origin.usual:
        digest.update(f"\n{origin}".encode())
    files = []
    for index, item in enumerate(chosen):
        digest.update(parsed[item].content)
        files.append(_image_file(source, index, item, parsed[item], classes, origin, counted))
    moved = [file.name for file in files for _ in range(len(file.objects))]
    if not origin.usual and not counted[FROM_ZERO]:
        counted.note_all(FROM_ZERO_TOO, moved)
    problem = _problem(files, [parsed[item] for item in chosen])
    return FolderSet(root, _joined(parts), classes, files, digest.hexdigest(), counted, problem)


class _Item(NamedTuple):
    """An image or a split: the folder of its year within the data folder (empty for a plain data set), and its name."""

    folder: str
    name: str

    def __str__(self) -> str:
        return "/".join(filter(None, self))

    def within(self, kind: str) -> str:
        """Where it lies below ``Annotations`` or ``JPEGImages``, without a suffix."""
        return "/".join(filter(None, (self.folder, kind, self.name)))


def _joined(parts: Sequence[_Item]) -> str:
    return "+".join(map(str, parts))


class _Source:
    """The files of a data set: split lists, annotations, images."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.listing = Listing(root)
        self.years = [] if os.path.isdir(root / LISTS) else [name for name in names_in(root) if YEAR.fullmatch(name)]
        self.available = [
            _Item(folder, name.removesuffix(".txt"))
            for folder in self.years or [""]
            for name in names_in(root / folder / LISTS)
            if name.endswith(".txt")
        ]
        self._known = {str(part): part for part in self.available}

    def find_parts(self, split: str | None, role: Role, other: str | None) -> list[_Item]:
        """The split files of a role."""
        listed = f"it has {shorten(', '.join(sorted(self._known))) or 'none'} ({LAYOUT})"
        if split is None:
            default = self._default(role, other)
            if not default:
                beside = f" beside {other}" if other is not None else ""
                raise UserError(f"{self.root} has no default {role} split{beside}; {listed}; {undecided(role)}")
            return default
        words = [split] if split in self._known else split.split("+")
        for word in words:
            if word not in self._known:
                raise UserError(f"{self.root} has no split {word!r}{did_you_mean(word, self._known)}; {listed}")
        return [self._known[word] for word in words]

    def class_parts(self, parts: list[_Item], other: str | None, role: Role) -> set[_Item]:
        """The splits whose names count as classes: the same whether that of training or of evaluation is opened."""
        if other is None:
            theirs = self._default("val" if role == "train" else "train", _joined(parts))
        else:
            theirs = [self._known[word] for word in _words(other, self._known)]
        folders = {part.folder for part in (*parts, *theirs)}
        usual = (part for part in self.available if part.folder in folders and part.name in USUAL)
        return {*parts, *theirs, *usual}

    def names(self, part: _Item, counted: Oddities) -> list[str]:
        """The image ids of a split file, those named twice twice."""
        path = self.root / part.folder / LISTS / f"{part.name}.txt"
        names = []
        for number, line in enumerate(read_text(path, "split file").splitlines(), start=1):
            if not (text := line.strip()):
                continue
            name = self._name(part.folder, text, counted)
            if not stays_inside(name):
                raise UserError(f"split file {path}, line {number}: {name!r} must stay inside the data folder")
            names.append(name)
        return names

    def items(self, parts: Sequence[_Item], counted: Oddities) -> list[_Item]:
        """The images of some splits, each once."""
        times = Counter(_Item(part.folder, name) for part in parts for name in self.names(part, counted))
        for item in times:
            if times[item] > 1:
                counted.note(REPEATED_IMAGE, item.name, times[item] - 1)
        return list(times)

    def others(self, parts: Iterable[_Item], known: Collection[_Item]) -> dict[_Item, Annotation]:
        """The annotations of further splits; some may be absent: VOC 2012 keeps those of test back."""
        items = [item for item in self.items(sorted(parts), Oddities()) if item not in known]
        return {item: parse(path) for item in items if os.path.isfile(path := self.annotation(item))}

    def annotation(self, item: _Item) -> Path:
        """Of an image; it may not be there."""
        stem = item.within("Annotations")
        return self.root / next(iter(self.listing.with_suffix(stem, (".xml",))), f"{stem}.xml")

    def image(self, item: _Item, counted: Oddities) -> str:
        """Of an image, relative to the root. By the id of the list alone: ``filename``, ``folder`` and ``path`` in the
        XML are often left over from elsewhere.

        Raises:
            UserError: if there is none of any format.
        """
        stem = item.within("JPEGImages")
        files = self.listing.with_suffix(stem, IMAGE_SUFFIXES)
        if len(files) > 1:
            counted.note(SEVERAL, f"{files[0]} of {len(files)}")
        if not files:
            others = ", ".join(suffix[1:] for suffix in IMAGE_SUFFIXES[1:])
            raise UserError(
                f"image {self.root / stem}.jpg is missing, and so are those of {others}; put it there or take "
                f"{item.name!r} out of the lists"
            )
        return files[0]

    def sizes(self, annotations: Mapping[_Item, Annotation]) -> list[tuple[Annotation, tuple[int, int]]]:
        """Each annotation with the ``(height, width)`` that it says, or else its image does; others are left out."""
        pairs = []
        for item, annotation in annotations.items():
            size = annotation.size
            if size is None and (names := self.listing.with_suffix(item.within("JPEGImages"), IMAGE_SUFFIXES)):
                size = header_size(self.root / names[0])
            if size is not None:
                pairs.append((annotation, size))
        return pairs

    def _default(self, role: Role, other: str | None) -> list[_Item]:
        named = None if other is None else _words(other, self._known)
        found = default_split(role, named, self._pairs(), self._known)
        return [self._known[name] for name in found]

    def _pairs(self) -> Sequence[Pair]:
        if not self.years:
            return PAIRS
        every = (tuple(f"{year}/{name}" for year in self.years) for name in ("train", "val"))
        return Pair(("VOC2007/trainval", "VOC2012/trainval"), ("VOC2007/test",)), Pair(*every)

    def _name(self, folder: str, line: str, counted: Oddities) -> str:
        """The image id of a line: the line itself, or what stands before a mark; what exists tells which."""
        if "\t" in line:
            return line.split("\t", 1)[0].strip()
        marked = _MARKED.fullmatch(line)
        if marked is not None and not self._there(folder, line):
            line = marked[1]
        elif marked is not None and self._there(folder, marked[1]):
            counted.note(NUMBERED, line)
        stem, dot, suffix = line.rpartition(".")
        spelled_out = dot and f".{suffix.lower()}" in IMAGE_SUFFIXES
        if spelled_out and not self._there(folder, line) and self._there(folder, stem):
            counted.note(SPELLED_OUT, line)
            return stem
        return line

    def _there(self, folder: str, name: str) -> bool:
        if not stays_inside(name):
            return False
        item = _Item(folder, name)
        return bool(
            self.listing.with_suffix(item.within("Annotations"), (".xml",))
            or self.listing.with_suffix(item.within("JPEGImages"), IMAGE_SUFFIXES)
        )


def _words(split: str, known: Iterable[str]) -> list[str]:
    """The parts of a split's name that are there."""
    return [word for word in dict.fromkeys((split, *split.split("+"))) if word in known]


def _problem(files: Sequence[ImageFile], parsed: Sequence[Annotation]) -> str | None:
    corners = np.array([corner for each in parsed for corner in each.corners], dtype=np.float64).reshape(-1, 4)
    sizes = [file.size[::-1] for file, each in zip(files, parsed, strict=True) for _ in each.corners]
    return voc_problem(corners, np.array(sizes, dtype=np.float64).reshape(-1, 2))


def _image_file(
    source: _Source,
    index: int,
    item: _Item,
    annotation: Annotation,
    classes: tuple[str, ...],
    origin: Origin,
    counted: Oddities,
) -> ImageFile:
    name = source.image(item, counted)
    size = annotation.size
    if size is None:
        size = header_size(source.root / name)
        counted.note(NO_SIZE, name)
    if size is None:
        return ImageFile(index, name, UNKNOWN_SIZE, NO_OBJECTS)
    raw = np.array(annotation.corners, dtype=np.float64).reshape(-1, 4)
    # A box of equal corners is one pixel by VOC's counting, but in the sets it is a slip of the mouse: no area.
    slips = (raw[:, 2:] <= raw[:, :2]).any(axis=1)
    edges = origin.edges(raw)
    edges[slips] = 0.0

    def at(row: int) -> str:
        return f"{name} object {row + 1}"

    at_zero = np.flatnonzero(((raw[:, :2] == 0).any(axis=1)) & ~slips).tolist()
    counted.note_all(SLIPS if origin.usual else FROM_ZERO, map(at, at_zero))
    boxes, keep = keep_boxes(edges, size, counted, at)
    labels = np.array([classes.index(class_name) for class_name in annotation.names], dtype=np.int64)
    difficult = np.array(annotation.difficult, dtype=np.bool_)
    objects = Annotations.plain(boxes[keep], labels[keep], difficult=difficult[keep])
    return ImageFile(index, name, size, objects)
