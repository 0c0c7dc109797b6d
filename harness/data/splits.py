"""The two splits of a run together: whether they are apart, and whether there is anything to learn and to find."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from rich.console import Console

from harness.data import open_data
from harness.data.base import Annotations, ImageSet
from harness.data.files import NO_AREA, OUTSIDE, FolderSet
from harness.data.transforms import MIN_SIDE, fit, roles
from harness.errors import UserError, reason, shorten
from harness.protocol import DataSection, Protocol
from harness.wording import counted

SHARED = "images that are trained on as well"
LEFT_TO_VAL = "images left out of training, as the validation split has them too"
TOO_SMALL = f"objects with a side below {MIN_SIDE:g} px at the protocol's size, not learnt"
UNLEARNT = "classes without an object to learn"
ONLY_THERE = "classes with objects to find and none to learn"
NOTHING_TO_FIND = "splits without an object to find, for which AP is undefined"
ALIKE = "class names that differ from another's in case or blanks alone"

_FEWEST = 0.05  # share of the boxes that are meant to be learnt: below it they are something else than was meant
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
        train = _apart(data, train, val, section)
        _examine(data, train, val, section)
    return train, val


def say_warnings(console: Console | None, *splits: ImageSet) -> None:
    """Show what was corrected or left out of the data, so that nobody has to find it in the record."""
    if console is None:
        return
    for images in splits:
        for line in images.warnings.lines(f" in {images.title}, split {images.split}"):
            console.print(f"warning: {line}", highlight=False, markup=False, soft_wrap=True)


def _apart(data: str, train: FolderSet, val: FolderSet, section: DataSection) -> FolderSet:
    """Training images none of which is evaluated, or what the protocol says of those that are."""
    pairs = shared_images(train, val)
    if not pairs:
        return train
    own, theirs = zip(*pairs, strict=True)
    if section.overlap == "drop":
        train = train.without(own)
        train.warnings.note_all(LEFT_TO_VAL, (val.name(index) for index in theirs))
    elif section.overlap == "allow":
        val.warnings.note_all(SHARED, (val.name(index) for index in theirs))
    else:
        names = ", ".join(val.name(index) for index in theirs[:3]) + (", ..." if len(theirs) > 3 else "")
        raise UserError(
            f"{data}: {len(theirs)} of {counted(len(val), 'validation image')} ({val.split}) are trained on as well "
            f"({train.split}): {names}; name splits that share none (--train-split, --val-split), leave them out of "
            "training with --set data.overlap=drop, or keep them with --set data.overlap=allow"
        )
    return train


def shared_images(train: FolderSet, val: FolderSet) -> list[tuple[int, int]]:
    """Images that are in both, as (index in `train`, index in `val`): the same file, or another one of equal content.

    Contents are read where lengths agree, whole ones where their ends do.
    """
    by_name = {train.path(index): index for index in range(len(train))}
    pairs = {index: by_name[val.path(index)] for index in range(len(val)) if val.path(index) in by_name}
    by_length: dict[int, list[int]] = defaultdict(list)
    for index in range(len(train)):
        by_length[train.bytes(index)].append(index)
    ends: dict[Path, bytes] = {}
    for index in set(range(len(val))) - set(pairs):
        for other in by_length.get(val.bytes(index), ()):
            if _equal(train.path(other), val.path(index), ends):
                pairs[index] = other
                break
    return [(other, index) for index, other in sorted(pairs.items())]


def _equal(one: Path, two: Path, ends: dict[Path, bytes]) -> bool:
    """Whether two files of one length have one content; what was read of their ends is kept."""
    for path in (one, two):
        if path not in ends:
            ends[path] = _read_ends(path)
    return ends[one] == ends[two] and _whole(one) == _whole(two)


def _read_ends(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            first = file.read(_ENDS)
            file.seek(max(path.stat().st_size - _ENDS, 0))
            return hashlib.blake2b(first + file.read(_ENDS), digest_size=16).digest()
    except OSError as error:
        raise UserError(f"image {path} cannot be read: {reason(error)}") from error


def _whole(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "blake2b").digest()
    except OSError as error:
        raise UserError(f"image {path} cannot be read: {reason(error)}") from error


@dataclass(frozen=True)
class Objects:
    """All objects of a split, one after the other.

    Attributes:
        image: ``[n]`` index of the image of each.
        labels: ``[n]``.
        sides: ``[n, 2]`` width and height in pixels at the protocol's size.
        learnt: ``[n]`` whether it is taught; large enough or not.
        found: ``[n]`` whether evaluation asks for it.
    """

    image: npt.NDArray[np.int64]
    labels: npt.NDArray[np.int64]
    sides: npt.NDArray[np.float64]
    learnt: npt.NDArray[np.bool_]
    found: npt.NDArray[np.bool_]

    @property
    def large_enough(self) -> npt.NDArray[np.bool_]:
        """``[n]`` whether no side is below what is learnt."""
        return np.asarray((self.sides >= MIN_SIDE).all(axis=1), dtype=np.bool_)


def all_objects(images: ImageSet, section: DataSection) -> Objects:
    """The objects of every image of a split, at the protocol's size without jitter."""
    parts = [images.annotations(index) for index in range(len(images))]
    factors = np.ones((len(images), 2))
    for index in range(len(images)):
        height, width = images.size(index)
        rows, columns = fit((height, width), section.short_edge, section.long_edge)
        factors[index] = columns / width, rows / height
    image = np.repeat(np.arange(len(parts)), [len(part) for part in parts])

    def together(name: str) -> npt.NDArray[np.generic]:
        return np.concatenate([getattr(part, name) for part in parts]) if parts else np.zeros(0)

    boxes = together("boxes").reshape(-1, 4)
    every = Annotations(boxes, *(together(name) for name in ("labels", "crowd", "difficult", "area")))  # type: ignore[arg-type]
    learnt, _ = roles(every, section)
    sides = (every.boxes[:, 2:] - every.boxes[:, :2]) * factors[image]
    return Objects(image, every.labels, sides, learnt, ~(every.crowd | every.difficult))


def _examine(data: str, train: FolderSet, val: FolderSet, section: DataSection) -> None:
    """Count what will not be learnt; stop where nothing will be."""
    own, theirs = all_objects(train, section), all_objects(val, section)
    taught = own.learnt & own.large_enough
    small = own.learnt & ~own.large_enough
    train.warnings.note_all(TOO_SMALL, (train.name(index) for index in own.image[small]))
    dropped = train.warnings[NO_AREA] + train.warnings[OUTSIDE]
    meant = int(own.learnt.sum()) + dropped
    if taught.sum() == 0 or taught.sum() < _FEWEST * meant:
        raise UserError(_nothing_left(data, train, own, dropped))
    absent = set(range(len(train.classes))) - set(own.labels[taught].tolist())
    asked = set(theirs.labels[theirs.found].tolist())
    train.warnings.note_all(UNLEARNT, (train.classes[label] for label in sorted(absent - asked)))
    val.warnings.note_all(ONLY_THERE, (val.classes[label] for label in sorted(absent & asked)))
    train.warnings.note_all(ALIKE, _alike(train.classes))
    if not theirs.found.any():
        val.warnings.note(NOTHING_TO_FIND, val.split)


def _nothing_left(data: str, train: FolderSet, own: Objects, dropped: int) -> str:
    large = own.large_enough
    counts = {
        "without an area inside the image": dropped,
        f"below {MIN_SIDE:g} px at the protocol's size": int((own.learnt & ~large).sum()),
        "crowd, ignored or difficult": int((~own.learnt).sum()),
    }
    left = int((own.learnt & large).sum())
    every = len(own.labels) + dropped
    why = ", ".join(f"{count} {what}" for what, count in counts.items() if count) or "none is annotated"
    return (
        f"{data}: {left} of {every} boxes in split {train.split} can be learnt ({why}), so there is "
        f"nothing to train on; `harness data {data}` shows the boxes as they were read"
    )


def _alike(classes: tuple[str, ...]) -> Iterator[str]:
    plain = Counter("".join(name.lower().split()) for name in classes)
    return (name for name in classes if plain["".join(name.lower().split())] > 1)
