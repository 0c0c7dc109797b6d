"""The two splits of a run together: whether they are apart, and whether there is anything to learn and to find."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from rich.console import Console

from assigners.ops.boxes import MIN_SIDE
from harness.core.errors import UserError, did_you_mean, reading, shorten
from harness.core.progress import say
from harness.core.text import counted
from harness.data import open_data
from harness.data.base import ImageSet
from harness.data.readers.folder import NO_AREA, OUTSIDE, FolderSet, concatenated
from harness.data.transforms import fit, roles
from harness.protocol.protocol import DataSection, Protocol

SHARED = "images that are trained on as well"
LEFT_TO_VAL = "images left out of training, as the validation split has them too"
TOO_SMALL = f"objects with a side below {MIN_SIDE:g} px at the protocol's size, not learnt"
UNLEARNT = "classes without an object to learn"
ONLY_THERE = "classes with objects to find and none to learn"
NOTHING_TO_FIND = "splits without an object to find, for which AP is undefined"
REPEATED = "objects that repeat another one of their image, in class and box; all are kept"
ALIKE = "class names that differ from another's in case or blanks alone"

_FEWEST = 0.1  # share of the boxes that are meant to be learnt: below it they are something else than was meant
_ENDS = 4096  # bytes at either end of a file, read before all of it is


def open_splits(data: str, protocol: Protocol) -> tuple[ImageSet, ImageSet]:
    """The training and validation images.

    Raises:
        UserError: if they cannot be read, are empty, differ in their classes, share images though the protocol does
            not say that they may, or leave nothing to learn.
    """
    train, val = open_data(data, protocol.data, role="train"), open_data(data, protocol.data, role="val")
    return put_together(data, train, val, protocol.data)


def put_together(data: str, train: ImageSet, val: ImageSet, section: DataSection) -> tuple[ImageSet, ImageSet]:
    """Hold two opened splits against each other, as `open_splits` does."""
    if train.classes != val.classes:
        alone = sorted({*train.classes} ^ {*val.classes}) or ["their order"]
        raise UserError(
            f"{data}: the splits {train.split} and {val.split} have different classes ({shorten(', '.join(alone))}); "
            "give both the same categories, or choose classes by name with --set 'data.classes=[...]'"
        )
    if isinstance(train, FolderSet) and isinstance(val, FolderSet):  # what is drawn on the fly has no such faults
        _expect_known(data, train, val, section)
        train = _apart(data, train, val, section)
        _examine(data, train, val, section)
    return train, val


def _expect_known(data: str, train: FolderSet, val: FolderSet, section: DataSection) -> None:
    """Every chosen class must be one of some split: one of them may have no object of it and not name it."""
    known = list(dict.fromkeys((*train.named_classes, *val.named_classes)))
    for name in section.classes or ():
        if name not in known:
            raise UserError(
                f"data.classes: {data} has no class {name!r}{did_you_mean(name, known)}; it has "
                f"{shorten(', '.join(known))}"
            )


def say_warnings(console: Console | None, *splits: ImageSet) -> None:
    """Show what was corrected or left out of the data, so that nobody has to find it in the record."""
    for images in splits:
        for line in images.warnings.lines(f" in {images.title}, split {images.split}"):
            say(console, f"warning: {line}")


def _apart(data: str, train: FolderSet, val: FolderSet, section: DataSection) -> FolderSet:
    """Training images none of which is evaluated, or what the protocol says of those that are."""
    pairs = shared_images(train, val)
    if not pairs:
        return train
    in_train, in_val = zip(*pairs, strict=True)
    if section.overlap == "drop":
        train = train.without(in_train)
        train.warnings.note_all(LEFT_TO_VAL, (val.name(index) for index in in_val))
    elif section.overlap == "allow":
        val.warnings.note_all(SHARED, (val.name(index) for index in in_val))
    else:
        names = ", ".join(val.name(index) for index in in_val[:3]) + (", ..." if len(in_val) > 3 else "")
        raise UserError(
            f"{data}: {len(in_val)} of {counted(len(val), 'validation image')} ({val.split}) are trained on as well "
            f"({train.split}): {names}; name splits that share none (--train-split, --val-split), leave them out of "
            "training with --set data.overlap=drop, or keep them with --set data.overlap=allow"
        )
    return train


def shared_images(train: FolderSet, val: FolderSet) -> list[tuple[int, int]]:
    """Images that are in both, as (index in `train`, index in `val`): the same file, or another one of equal content.

    Each file is read at most once: where lengths agree its ends, and where those agree too all of it.
    """
    by_name = {train.path(index): index for index in range(len(train))}
    pairs = {index: by_name[val.path(index)] for index in range(len(val)) if val.path(index) in by_name}
    train_files = [(train.path(index), index) for index in range(len(train))]
    val_files = [(val.path(index), index) for index in range(len(val)) if index not in pairs]
    same = _alike(train_files, val_files, lambda path: path.stat().st_size)
    for look in (_ends, _whole):
        same = [pair for train_files, val_files in same for pair in _alike(train_files, val_files, look)]
    for train_files, val_files in same:
        pairs |= {index: train_files[0][1] for _, index in val_files}
    return [(other, index) for index, other in sorted(pairs.items())]


_Files = list[tuple[Path, int]]  # with their indices


def _alike(train_files: _Files, val_files: _Files, look: Callable[[Path], object]) -> list[tuple[_Files, _Files]]:
    """The files of two lists that look alike, kind by kind; kinds of which one list has none are left out."""
    kinds: dict[object, tuple[_Files, _Files]] = defaultdict(lambda: ([], []))
    for side, files in enumerate((train_files, val_files)):
        for path, index in files:
            with reading(f"image {path}"):
                kinds[look(path)][side].append((path, index))
    return [pair for pair in kinds.values() if all(pair)]


def _ends(path: Path) -> bytes:
    with path.open("rb") as file:
        first = file.read(_ENDS)
        file.seek(max(path.stat().st_size - _ENDS, 0))
        return hashlib.blake2b(first + file.read(_ENDS), digest_size=16).digest()


def _whole(path: Path) -> bytes:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "blake2b").digest()


@dataclass(frozen=True)
class Objects:
    """All objects of a split, one after the other.

    Attributes:
        image: ``[n]`` index of the image of each.
        labels: ``[n]``.
        boxes: ``[n, 4]`` original pixels.
        sides: ``[n, 2]`` width and height in pixels at the protocol's size.
        learnt: ``[n]`` whether it is taught; large enough or not.
        evaluated: ``[n]`` whether evaluation asks for it.
    """

    image: npt.NDArray[np.int64]
    labels: npt.NDArray[np.int64]
    boxes: npt.NDArray[np.float32]
    sides: npt.NDArray[np.float64]
    learnt: npt.NDArray[np.bool_]
    evaluated: npt.NDArray[np.bool_]

    @property
    def large_enough(self) -> npt.NDArray[np.bool_]:
        """``[n]`` whether no side is below what is learnt."""
        return np.asarray((self.sides >= MIN_SIDE).all(axis=1), dtype=np.bool_)


def all_objects(images: ImageSet, section: DataSection) -> Objects:
    """The objects of every image of a split, at the protocol's size without jitter."""
    parts = [images.annotations(index) for index in range(len(images))]
    sizes = [images.size(index) for index in range(len(images))]
    resized = [fit(size, section.short_edge, section.long_edge) for size in sizes]
    factors = (np.array(resized) / np.array(sizes)).reshape(-1, 2)[:, ::-1]  # along x and y
    image = np.repeat(np.arange(len(parts)), list(map(len, parts)))
    every = concatenated(parts)
    learnt, _ = roles(every, section)
    sides = (every.boxes[:, 2:] - every.boxes[:, :2]) * factors[image]
    return Objects(image, every.labels, every.boxes, sides, learnt, ~(every.crowd | every.difficult))


def _examine(data: str, train: FolderSet, val: FolderSet, section: DataSection) -> None:
    """Count what will not be learnt; stop where nothing will be."""
    train_objects, val_objects = all_objects(train, section), all_objects(val, section)
    for images, objects in ((train, train_objects), (val, val_objects)):
        images.warnings.note_all(REPEATED, (images.name(index) for index in objects.image[_repeats(objects)]))
    taught = train_objects.learnt & train_objects.large_enough
    small = train_objects.learnt & ~train_objects.large_enough
    train.warnings.note_all(TOO_SMALL, (train.name(index) for index in train_objects.image[small]))
    dropped = train.warnings[NO_AREA] + train.warnings[OUTSIDE]
    meant = int(train_objects.learnt.sum()) + dropped
    if taught.sum() == 0 or taught.sum() < _FEWEST * meant:
        raise UserError(_nothing_left(data, train, train_objects, dropped))
    absent = set(range(len(train.classes))) - set(train_objects.labels[taught].tolist())
    asked = set(val_objects.labels[val_objects.evaluated].tolist())
    train.warnings.note_all(UNLEARNT, (train.classes[label] for label in sorted(absent - asked)))
    val.warnings.note_all(ONLY_THERE, (val.classes[label] for label in sorted(absent & asked)))
    train.warnings.note_all(ALIKE, _look_alike(train.classes))
    if not val_objects.evaluated.any():
        val.warnings.note(NOTHING_TO_FIND, val.split)


def _repeats(objects: Objects) -> npt.NDArray[np.int64]:
    """Rows of objects that are there before, to the tenth of a pixel."""
    rows = np.column_stack((objects.image, objects.labels, np.rint(10 * objects.boxes).astype(np.int64)))
    _, first = np.unique(rows, axis=0, return_index=True)
    return np.setdiff1d(np.arange(len(rows)), first)


def _nothing_left(data: str, train: FolderSet, objects: Objects, dropped: int) -> str:
    large = objects.large_enough
    counts = {
        "without an area inside the image": dropped,
        f"below {MIN_SIDE:g} px at the protocol's size": int((objects.learnt & ~large).sum()),
        "crowd, ignored or difficult": int((~objects.learnt).sum()),
    }
    left = int((objects.learnt & large).sum())
    every = len(objects.labels) + dropped
    why = ", ".join(f"{count} {what}" for what, count in counts.items() if count) or "none is annotated"
    return (
        f"{data}: {left} of {every} boxes in split {train.split} can be learnt ({why}), so there is "
        f"nothing to train on; `harness data {data}` shows the boxes as they were read"
    )


def _look_alike(classes: tuple[str, ...]) -> Iterator[str]:
    plain = Counter("".join(name.lower().split()) for name in classes)
    return (name for name in classes if plain["".join(name.lower().split())] > 1)
