"""Data sets whose images are files in a folder: what their readers have in common."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from harness.core.errors import UserError, is_text, no_text
from harness.data.base import Annotations, ImageSet, Oddities
from harness.data.decoding import decode, size_in_header
from harness.data.readers.reading import file_size

MAX_SIDE = 2**24  # px; float32 coordinates are exact to here

NO_AREA = "boxes without area dropped"
OUTSIDE = "boxes outside the image dropped"
CLIPPED = "boxes that stick out of the image by more than a pixel and a hundredth of it, clipped"
REPEATED_IMAGE = "images named more than once, read once"
REPEATED_OBJECT = "objects repeated in another copy of their image, read once"
SAME_NAME = "categories of a name that another one has, read as one class"
OTHER_CLASSES = "objects of classes that are not chosen, left out"


def keep_boxes(
    boxes: npt.NDArray[np.float64],
    sizes: tuple[int, int] | npt.NDArray[np.int64],
    warnings: Oddities,
    name: Callable[[int], str],
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.bool_]]:
    """Clip boxes ``[n, 4]`` to their images and tell which rows ``[n]`` still have an area.

    The rows without are counted in `warnings`, apart for those that had none and those outside the image, and so are
    those that lose more than rounding can explain.

    Args:
        sizes: ``(height, width)`` of the image, or ``[n, 2]`` of each box's.
        name: of a row, for examples.
    """
    rows, columns = np.asarray(sizes, dtype=np.float64).reshape(-1, 2).T
    limits = np.stack((columns, rows, columns, rows), axis=1)
    empty = np.any(boxes[:, 2:] <= boxes[:, :2], axis=1)
    clipped = np.clip(boxes, 0, limits).astype(np.float32)
    outside = ~empty & np.any(clipped[:, 2:] <= clipped[:, :2], axis=1)
    lost = np.maximum(-boxes, boxes - limits) > np.maximum(1, 0.01 * limits)
    cut = ~empty & ~outside & lost.any(axis=1)
    for fault, rows_at_fault in ((NO_AREA, empty), (OUTSIDE, outside), (CLIPPED, cut)):
        warnings.note_all(fault, (name(row) for row in np.flatnonzero(rows_at_fault).tolist()))
    return clipped, ~(empty | outside)


def concatenated(parts: Sequence[Annotations]) -> Annotations:
    """The objects of several images, or of copies of one, in a row; without further attributes."""
    columns = {part.name: np.concatenate([getattr(p, part.name) for p in (NO_OBJECTS, *parts)]) for part in _ARRAYS}
    return Annotations(**columns)  # type: ignore[arg-type]


def joined(copies: Sequence[Annotations], name: str, warnings: Oddities) -> Annotations:
    """The objects of an image that is listed several times; what several copies say counts once."""
    if len(copies) == 1:
        return copies[0]
    warnings.note(REPEATED_IMAGE, name, len(copies) - 1)
    every = concatenated(copies)
    known: dict[tuple[object, ...], int] = {}
    # Copies of one file differ in the last digits where tools wrote them anew.
    boxes = np.rint(10 * every.boxes).astype(np.int64).tolist()
    for row, (box, label) in enumerate(zip(boxes, every.labels.tolist(), strict=True)):
        known.setdefault((*box, label), row)
    if len(known) < len(every):
        warnings.note(REPEATED_OBJECT, name, len(every) - len(known))
    return select(every, np.array(sorted(known.values()), dtype=np.int64))


def select(objects: Annotations, rows: npt.NDArray[np.int64] | npt.NDArray[np.bool_]) -> Annotations:
    """Some of the objects."""
    chosen = {part.name: getattr(objects, part.name)[rows] for part in _ARRAYS}
    return replace(objects, **chosen, attributes={name: value[rows] for name, value in objects.attributes.items()})


_ARRAYS = tuple(part for part in fields(Annotations) if part.name != "attributes")

NO_OBJECTS = Annotations.plain(np.zeros((0, 4), np.float32), np.zeros(0, np.int64))
UNKNOWN_SIZE = (1, 1)  # of an image that cannot be read, so that nothing is done with it


@dataclass(frozen=True)
class ImageFile:
    """One image of a folder: identity, name relative to the data root, ``(height, width)``, objects."""

    image_id: int
    name: str
    size: tuple[int, int]
    objects: Annotations


class FolderSet(ImageSet):
    """A split whose images are files and whose annotations have been read.

    Attributes:
        named_classes: those of the annotations, of which `classes` may be a choice.

    Args:
        classes: in the order of their ids.
        annotation_digest: of what the annotations were read from, in order, for the checksum.
        warnings: oddities counted by the reader.
        problem: why nothing should be learnt from it (`ImageSet.problems`), if there is a reason.

    Raises:
        UserError: if there is no image, or an image's file is missing.
    """

    def __init__(
        self,
        root: Path,
        split: str,
        classes: Sequence[str],
        files: Sequence[ImageFile],
        annotation_digest: str,
        warnings: Oddities,
        problem: str | None = None,
    ) -> None:
        if not files:
            raise UserError(f"split {split!r} of {root} has no images")
        self.title, self.split = root.resolve().name, split
        if not is_text(self.title):
            raise UserError(f"the name of data folder {self.title!r} {no_text()}")
        self.classes = self.named_classes = tuple(classes)
        self.warnings, self.problems = warnings, (problem,) if problem else ()
        self._root, self._files, self._annotation_digest = root, tuple(files), annotation_digest
        self._bytes = tuple(_sizes(root, files))
        self._listed = tuple((file.name, length) for file, length in zip(files, self._bytes, strict=True))

    def __len__(self) -> int:
        return len(self._files)

    def image_id(self, index: int) -> int:
        return self._files[index].image_id

    def name(self, index: int) -> str:
        return self._files[index].name

    def size(self, index: int) -> tuple[int, int]:
        return self._files[index].size

    def annotations(self, index: int) -> Annotations:
        return self._files[index].objects

    def path(self, index: int) -> Path:
        """Of the image's file."""
        return self._root / self._files[index].name

    def load(self, index: int) -> npt.NDArray[np.uint8]:
        image = decode(self.path(index), self.size(index))
        if fault := self.wrong_size(index, (image.shape[0], image.shape[1])):
            raise fault
        return image

    def wrong_size(self, index: int, decoded: tuple[int, int]) -> UserError | None:
        """The fault of an image that is not ``(height, width)`` of its annotation."""
        if decoded == self.size(index):
            return None
        stored, said = (f"{width}x{height}" for height, width in (decoded, self.size(index)))
        return UserError(
            f"image {self.path(index)} is {stored}, but its annotation says {said}; its boxes count other pixels, so "
            "put the right image there or mend the annotation"
        )

    def checksum(self) -> str:
        digest = hashlib.sha256(self._annotation_digest.encode())
        for name, length in self._listed:
            digest.update(f"{name}\0{length}\n".encode())
        return digest.hexdigest()

    def without(self, indices: Collection[int]) -> FolderSet:
        """Another set: this one without some images.

        Raises:
            UserError: if none is left.
        """
        subset = self.skipping(indices)
        subset._listed = tuple((file.name, length) for file, length in zip(subset._files, subset._bytes, strict=True))
        return subset

    def skipping(self, indices: Collection[int]) -> FolderSet:
        """This very set, by its checksum, of which some images cannot be had.

        Raises:
            UserError: if none is left.
        """
        left_out = set(indices)
        kept = [index for index in range(len(self)) if index not in left_out]
        if not kept:
            raise UserError(f"split {self.split!r} of {self._root} has no images left without those to leave out")
        subset = self._copy()
        subset._files = tuple(self._files[index] for index in kept)
        subset._bytes = tuple(self._bytes[index] for index in kept)
        return subset

    def with_classes(self, classes: Sequence[str]) -> FolderSet:
        """The set with these classes, in this order; objects of others are left out and counted.

        A class that this split has no name for is one without objects here; `harness.data.splits` asks that the other
        split has it then.
        """
        table = np.array([classes.index(n) if n in classes else -1 for n in self.classes], dtype=np.int64)

        def relabelled(file: ImageFile) -> ImageFile:
            labels = table[file.objects.labels]
            kept = labels >= 0
            if not kept.all():
                relabelled_set.warnings.note(OTHER_CLASSES, file.name, int((~kept).sum()))
            return replace(file, objects=replace(select(file.objects, kept), labels=labels[kept]))

        relabelled_set = self._copy()
        relabelled_set._files = tuple(map(relabelled, self._files))
        relabelled_set.classes, relabelled_set.named_classes = tuple(classes), self.classes
        return relabelled_set

    def _copy(self) -> FolderSet:
        twin = copy.copy(self)
        twin.warnings = copy.deepcopy(self.warnings)
        return twin


def _sizes(root: Path, files: Sequence[ImageFile]) -> Iterator[int]:
    """Bytes of each image; of those that are missing the message names the first and counts the others."""
    for number, file in enumerate(files):
        try:
            yield file_size(root / file.name)
        except UserError as error:
            others = sum(not (root / other.name).is_file() for other in files[number + 1 :])
            what, advice = error.parts()
            more = f", and so are {others} of the {len(files)} images" if others else ""
            raise UserError("; ".join(filter(None, (what + more, advice)))) from error


def header_size(path: Path) -> tuple[int, int] | None:
    """``(height, width)`` of an image whose annotation says none; None where the image does not say it either, which
    `harness.data.check` tells of.
    """
    try:
        return size_in_header(path)
    except UserError:
        return None
