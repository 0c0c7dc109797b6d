"""Tables of boxes: RetinaNet's ``path,x1,y1,x2,y2,class_name``, and Open Images' by its header, a file a split."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from harness.core.errors import UserError, did_you_mean, reading, shorten
from harness.data.base import Annotations, Oddities
from harness.data.default_splits import Role, undecided
from harness.data.plausible import corners_problem
from harness.data.readers.coco_values import identity
from harness.data.readers.csv_rows import BoxTable, csv_rows, read_table
from harness.data.readers.folder import NO_OBJECTS, UNKNOWN_SIZE, FolderSet, ImageFile, header_size, joined, keep_boxes
from harness.data.readers.reading import IMAGE_SUFFIXES, Listing, inside, names_in, open_folder
from harness.data.sources import Opening

LAYOUT = "a table of boxes such as train.csv, with val.csv beside it"
CLASSES = "classes.csv"
DESCRIPTIONS = "class-descriptions"  # part of the name of Open Images' file of LabelName,DisplayName
VAL = ("val", "valid", "validation", "test")


def open_source(asked: Opening) -> FolderSet:
    """Open one split of a table of boxes; the file that was named is that of training.

    The table of validation lies beside it: ``--val-split NAME`` is ``NAME.csv``, by default the file whose name has one
    of `VAL` for "train". Paths of images count from the table's folder, and none leads out of it; those of Open Images
    are found by their id. Corners are in pixels and continuous; Open Images' are shares of the sides, and its groups
    (``IsGroupOf``) are regions without negatives.

    Classes are those of ``classes.csv`` (``name,id``) by their ids, or else all that either split names, sorted. A
    limit takes the first images, in the file's order.

    Raises:
        UserError: if something is missing or wrong; the line names file and line.
    """
    with reading(f"table of boxes {shorten(asked.folder)}", f"; expected {LAYOUT}"):
        named = Path(asked.folder).expanduser()
        if named.is_dir():
            raise UserError(f"{named} is a folder; name {LAYOUT}: csv:{asked.folder}/train.csv")
    root = open_folder(str(named.parent), LAYOUT)
    path = _table(named, asked)
    digest = hashlib.sha256()
    images = _Images(root)
    table = read_table(path, digest.update, images.name)
    display = _descriptions(root) if table.normalised else {}
    label_of, classes = _classes(root, table, _others(named, asked, path, images.name), display)
    digest.update("\n".join(("", *classes)).encode())
    counted = Oddities()
    folders = images.folders(path.stem) if table.normalised else []
    files = [
        _image_file(root, images.file(name, folders), table, name, label_of, counted)
        for name in list(table.images)[: asked.limit]
    ]
    problem = _problem(table, files)
    return FolderSet(root, path.stem, classes, _each_once(files, counted), digest.hexdigest(), counted, problem)


def _table(named: Path, asked: Opening) -> Path:
    """The file of a split."""
    if asked.split is None and asked.role == "train":
        return named
    train = asked.data.train_split or named.stem
    tables = [name.removesuffix(".csv") for name in names_in(named.parent) if name.endswith(".csv")]
    if asked.split is not None:
        found = asked.split if asked.split in tables else None
        hint = did_you_mean(asked.split, tables)
    else:
        # The sixth version of Open Images' training table alone has a word in front of its name.
        names = [part.replace("train", word) for part in (train, train.removeprefix("oidv6-")) for word in VAL]
        found = next((name for name in names if name in tables and name != train), None)
        hint = f" that belongs to {train}.csv"
    if found is None:
        wanted = f"table {asked.split}.csv" if asked.split is not None else "validation table"
        there = shorten(", ".join(tables)) or "none"
        raise UserError(
            f"there is no {wanted} beside {named}{hint}; the tables there are {there}; {undecided(asked.role)}"
        )
    return named.parent / f"{found}.csv"


def _others(named: Path, asked: Opening, own: Path, name: Callable[[str], str | None]) -> Iterable[BoxTable]:
    """The table of the other role, whose classes count as well; none where there is none."""
    role: Role = "val" if asked.role == "train" else "train"
    try:
        path = _table(named, Opening(asked.folder, asked.data, role))
    except UserError:  # said when it is opened
        return []
    return [read_table(path, lambda _: None, name)] if path != own and os.path.isfile(path) else []


class _Images:
    """Where the images of a table lie."""

    def __init__(self, root: Path) -> None:
        self._root, self._listing = root, Listing(root)

    def name(self, written: str) -> str | None:
        """Of an image relative to the data folder, or its id; None where it leads out of it."""
        return inside(self._root, written)

    def folders(self, stem: str) -> list[str]:
        """Where images of Open Images may lie, by the name of their table."""
        word = next((word for word in ("train", "validation", "valid", "val", "test") if word in stem), stem)
        names = (f"images/{stem}", f"images/{word}", stem, word, f"{word}/data", "images", ".")
        return [name for name in dict.fromkeys(names) if os.path.isdir(self._root / name)]

    def file(self, name: str, folders: list[str]) -> str:
        """The file of a path, or of an id in the first of some folders that has one."""
        if not folders:
            return self._listing.find(name) or name
        for folder in folders:
            base = name if folder == "." else f"{folder}/{name}"
            if os.path.isfile(self._root / base):
                return base
            if found := self._listing.with_suffix(base, IMAGE_SUFFIXES):
                return found[0]
        return f"{folders[0]}/{name}.jpg"


def _descriptions(root: Path) -> dict[str, str]:
    """Open Images' names for people by its own; none where there is no such file."""
    names = [name for name in names_in(root) if DESCRIPTIONS in name and name.endswith(".csv")]
    found: dict[str, str] = {}
    for name in names[:1]:
        for line, cells in csv_rows(root / name, "list of classes", lambda _: None):
            if len(cells) != 2 or not all(map(str.strip, cells)):
                raise UserError(f"list of classes {root / name}, line {line} must be LabelName,DisplayName")
            found[cells[0].strip()] = cells[1].strip()
    return found


def _classes(
    root: Path, table: BoxTable, others: Iterable[BoxTable], display: Mapping[str, str]
) -> tuple[dict[str, int], tuple[str, ...]]:
    """Class ids by what stands in the tables, and the classes."""
    named = [(each, label, line) for each in (table, *others) for label, line in each.labels().items()]
    listed = _listed(root / CLASSES) if os.path.lexists(root / CLASSES) else None
    classes = listed or tuple(sorted({display.get(label, label) for _, label, _ in named}))
    if not classes:
        raise UserError(f"table of boxes {table.path} names no class, so there is nothing to learn")
    ids = {name: number for number, name in enumerate(classes)}
    for each, label, line in named:
        if (name := display.get(label, label)) not in ids:
            hint = did_you_mean(name, classes)
            raise UserError(
                f"table of boxes {each.path}, line {line}: class {shorten(name)!r} is not in {root / CLASSES}{hint}"
            )
    return {label: ids[display.get(label, label)] for _, label, _ in named}, classes


def _listed(path: Path) -> tuple[str, ...]:
    """The classes of a ``classes.csv`` in the order of their ids."""
    names: dict[int, str] = {}
    known: set[str] = set()
    for line, cells in csv_rows(path, "list of classes", lambda _: None):
        name, word = (cell.strip() for cell in cells) if len(cells) == 2 else ("", "")
        if not names and word.lower() in ("id", "class_id"):  # a header
            continue
        if not name or not (word.isascii() and word.isdecimal() and len(word) < 19):
            raise UserError(f"list of classes {path}, line {line} must be name,id, got {shorten(','.join(cells))!r}")
        if int(word) in names or name in known:
            raise UserError(f"list of classes {path}, line {line}: {name!r} or its id {word} stands there before")
        names[int(word)] = name
        known.add(name)
    if not names:
        raise UserError(f"list of classes {path} is empty; fill it or take it away")
    return tuple(names[number] for number in sorted(names))


def _image_file(
    root: Path, file: str, table: BoxTable, name: str, label_of: Mapping[str, int], counted: Oddities
) -> ImageFile:
    image_id = identity(name)  # by its name, so that an image keeps it in a table that was cut or sorted
    size = header_size(root / file)
    if size is None:
        return ImageFile(image_id, file, UNKNOWN_SIZE, NO_OBJECTS)
    corners, rows = table.boxes(name)
    if table.normalised:
        corners = corners * np.array((size[1], size[0]) * 2, dtype=np.float64)
    boxes, keep = keep_boxes(corners, size, counted, lambda row: f"{file} of line {rows[row].line}")
    labels = np.array([label_of[row.label] for row in rows], dtype=np.int64)
    crowd = np.array([row.crowd for row in rows], dtype=np.bool_)
    return ImageFile(image_id, file, size, Annotations.plain(boxes[keep], labels[keep], crowd=crowd[keep]))


def _each_once(files: Iterable[ImageFile], counted: Oddities) -> list[ImageFile]:
    """The images, of which some may stand in the table in letters of another case as well."""
    by_file: dict[str, list[ImageFile]] = {}
    for file in files:
        by_file.setdefault(file.name, []).append(file)
    return [
        replace(copies[0], objects=joined([copy.objects for copy in copies], name, counted))
        for name, copies in by_file.items()
    ]


def _problem(table: BoxTable, files: Iterable[ImageFile]) -> str | None:
    """Why the boxes cannot be corners in pixels; Open Images' are asked to lie between 0 and 1 row by row."""
    if table.normalised:
        return None
    parts: list[tuple[npt.NDArray[np.float64], tuple[int, int]]] = [
        (table.boxes(name)[0], file.size)
        for name, file in zip(table.images, files, strict=False)  # a limit may have left out the last images
        if file.size != UNKNOWN_SIZE
    ]
    sizes = [size[::-1] for boxes, size in parts for _ in boxes]
    corners = np.concatenate([np.zeros((0, 4)), *(boxes for boxes, _ in parts)])
    return corners_problem(corners, np.array(sizes, np.float64).reshape(-1, 2), "RetinaNet's")
