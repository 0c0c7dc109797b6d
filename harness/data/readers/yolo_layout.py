"""What is where in a YOLO folder: by ``data.yaml`` (Ultralytics), by ``*.data`` (Darknet), or by what lies there."""

from __future__ import annotations

import os
import posixpath
import reprlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from harness.core.errors import UserError, is_text, shorten
from harness.data.base import Oddities
from harness.data.readers.coco_values import LARGEST, whole
from harness.data.readers.reading import IMAGE_SUFFIXES, find_inside, inside, names_in, read_text

LAYOUT = (
    "data.yaml, or an obj.data, or classes.txt (*.names) and images/SPLIT/ with labels/SPLIT/, SPLIT/images/ with "
    "SPLIT/labels/, SPLIT/ with images and labels side by side, or SPLIT.txt"
)
SPLITS = ("train", "val", "valid", "validation", "test")
YAML, DARKNET, NAMES = (".yaml", ".yml"), ".data", ".names"

ELSEWHERE = "entries 'path' that name another folder than the data folder, which is read in its place"

# What PyYAML raises for text that is no YAML, or holds values that are none of their kind.
_NO_YAML = (
    yaml.YAMLError, ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError,
)  # fmt: skip


@dataclass(frozen=True)
class Layout:
    """A data set as it describes itself.

    Attributes:
        origin: the file that does so, or the folder.
        names: of classes by the ids of label files.
        splits: what each consists of as it is written there: folders of images, and lists of them (``.txt``).
        base: the folder that these count from, relative to the data folder.
        keypoints: numbers of them behind each box.
    """

    origin: Path
    names: tuple[str, ...]
    splits: dict[str, tuple[str, ...]]
    base: str = "."
    keypoints: int = 0


def find_layout(root: Path, odd: Oddities) -> Layout:
    """The layout of a data folder.

    Raises:
        UserError: if there is none, or what describes it is damaged or names no classes.
    """
    names = names_in(root)
    for suffixes, usual, read in ((YAML, "data", _from_yaml), ((DARKNET,), "obj", _from_darknet)):
        fitting = [name for name in names if name.endswith(suffixes) and not name.startswith(".")]
        chosen = [name for name in fitting if posixpath.splitext(name)[0] == usual] or fitting
        if len(chosen) > 1:
            raise UserError(f"{root} has {', '.join(chosen)}; rename the one that counts to {usual}{suffixes[0]}")
        if chosen:
            return read(root, root / chosen[0], odd)
    return _from_folders(root, names)


def _from_yaml(root: Path, path: Path, odd: Oddities) -> Layout:
    text = read_text(path, "description of the data")
    try:
        content: Any = yaml.safe_load(text)
    except _NO_YAML as error:
        mark = getattr(error, "problem_mark", None)
        line = "" if mark is None else f", line {mark.line + 1}"
        why = getattr(error, "problem", None) or type(error).__name__
        raise UserError(f"{path}{line} is not valid YAML ({shorten(why)})") from error
    if not isinstance(content, dict):
        raise UserError(f"{path} must have entries such as 'train', 'val' and 'names', got {_shown(content)}")
    splits: dict[str, tuple[str, ...]] = {}
    for split in SPLITS:
        value = content.get(split)
        entries = value if isinstance(value, list) else [] if value in (None, "") else [value]
        if not all(isinstance(entry, str) and entry.strip() for entry in entries):
            kinds = "a folder, a list of folders or a .txt file"
            raise UserError(f"{path}: {split!r} must be {kinds}, got {_shown(value)}")
        if entries:
            splits[split] = tuple(entries)
    if not splits:
        raise UserError(f"{path} names no split; write 'train' and 'val'")
    return Layout(path, _names(content, path), splits, _base(content, root, path, odd), _keypoints(content, path))


def _names(content: Mapping[Any, Any], path: Path) -> tuple[str, ...]:
    """The class names, a list or a mapping from ids."""
    names = content.get("names")
    if isinstance(names, dict):
        if set(names) != set(range(len(names))) or any(isinstance(key, bool) for key in names):
            raise UserError(f"{path}: the keys of 'names' must be the ids 0 to {len(names) - 1}")
        names = [names[key] for key in range(len(names))]
    if not isinstance(names, list) or not names:
        raise UserError(f"{path} needs 'names', a list of class names or a mapping from ids, got {_shown(names)}")
    for name in names:
        # YAML makes a boolean of a bare "no", and a number of "1.10".
        if not (_is_name(name) if isinstance(name, str) else type(name) is int and abs(name) < LARGEST):
            raise UserError(f"{path}: class name {_shown(name)} is no text; put it in quotes")
    count = content.get("nc")
    if count is not None and whole(count) != len(names):
        raise UserError(f"{path}: 'nc' is {_shown(count)}, but 'names' has {len(names)}; mend the wrong one")
    return tuple(str(name).strip() for name in names)


def _keypoints(content: Mapping[Any, Any], path: Path) -> int:
    """How many numbers stand behind each box of a data set of poses."""
    shape = content.get("kpt_shape")
    if shape is None:
        return 0
    numbers = [whole(side) for side in shape] if isinstance(shape, list) and len(shape) == 2 else []
    known = [side for side in numbers if side is not None and 0 < side < 10_000]
    if len(known) != 2:
        raise UserError(f"{path}: 'kpt_shape' must be two whole numbers above 0, got {_shown(shape)}")
    return known[0] * known[1]


def _base(content: Mapping[Any, Any], root: Path, path: Path, odd: Oddities) -> str:
    """The folder of ``path``, if it lies within the data folder; that folder itself if not: the user named it."""
    written = content.get("path")
    if written is None or written == "":
        return "."
    base = inside(root, written) if isinstance(written, str) else None
    if base is not None and os.path.isdir(root / base):
        return base
    odd.note(ELSEWHERE, f"{_shown(written)} in {path.name}")
    return "."


def _from_darknet(root: Path, path: Path, odd: Oddities) -> Layout:
    pairs = (line.partition("=") for line in read_text(path, "description of the data").splitlines())
    content = {key.strip(): value.strip() for key, _, value in pairs if key.strip() and not key.startswith("#")}
    splits: dict[str, tuple[str, ...]] = {split: (content[split],) for split in SPLITS if content.get(split)}
    named = find_inside(root, spellings(root, content.get("names", ""), "."))
    if not splits or not content.get("names") or named is None:
        raise UserError(f"{path} needs 'train', 'valid' and 'names', files within the data folder")
    return Layout(path, _listed(root / named), splits)


def _from_folders(root: Path, names: list[str]) -> Layout:
    splits: dict[str, tuple[str, ...]] = {}  # by preference
    for split in filter(_is_name, names_in(root / "images")):
        if os.path.isdir(root / "images" / split):
            splits[split] = (f"images/{split}",)
    for name in filter(_is_name, names):
        if name in ("images", "labels") or name[0] == "." or not os.path.isdir(root / name):
            continue
        if os.path.isdir(root / name / "images"):
            splits.setdefault(name, (f"{name}/images",))
        elif any(map(is_image, names_in(root / name))):
            splits.setdefault(name, (name,))
    for split in SPLITS:
        if f"{split}.txt" in names:
            splits.setdefault(split, (f"{split}.txt",))
    lists = [name for name in names if name == "classes.txt"] or [name for name in names if name.endswith(NAMES)]
    if not lists and os.path.isfile(root / "labels" / "classes.txt"):
        lists = ["labels/classes.txt"]
    if not splits:
        raise UserError(f"{root} holds no data set that was found; looked for {LAYOUT}")
    if len(lists) != 1:
        raise UserError(f"{root} has {', '.join(lists) or 'no list of class names'}; put one into classes.txt")
    return Layout(root, _listed(root / lists[0]), splits)


def _listed(path: Path) -> tuple[str, ...]:
    """The class names of a list, a line each."""
    names = tuple(line.strip() for line in read_text(path, "list of classes").splitlines())
    while names and not names[-1]:
        names = names[:-1]
    if not names or not all(names):
        raise UserError(f"list of classes {path} must have a name on each line: the first line is that of class 0")
    return names


def spellings(root: Path, name: str, *folders: str) -> list[str]:
    """What a name may mean that counts from some folder.

    Darknet's names count from where it was started, mostly the folder above the data: the data folder's own name stands
    in front of them.
    """
    first, _, below = name.partition("/")
    above = [below] if below and first == root.resolve().name else []
    return [name] if name.startswith("/") else [*(posixpath.join(folder, name) for folder in folders), *above]


def _shown(value: object) -> str:
    """Any value of a YAML file in a message; nested ones may be endless."""
    try:
        return reprlib.repr(value)
    except ValueError:  # a number of thousands of digits
        return type(value).__name__


def _is_name(name: str) -> bool:
    return bool(name.strip()) and is_text(name)


def is_image(name: str) -> bool:
    """Whether a file is one by its name."""
    return name.lower().endswith(IMAGE_SUFFIXES)
