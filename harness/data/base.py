"""What every data set looks like to the rest of the harness."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from harness.core.errors import UserError


@dataclass(frozen=True)
class Annotations:
    """The objects of one image in original pixels; row i of every array is object i.

    Attributes:
        boxes: ``[n, 4]`` float32 xyxy, continuous coordinates: a box around one pixel has sides of 1.
        labels: ``[n]`` int64 class ids ``0..C-1``.
        crowd: ``[n]`` bool; a region full of objects rather than one object (COCO's ``iscrowd``).
        difficult: ``[n]`` bool (VOC); ignored in evaluation, in training what ``data.difficult`` says.
        area: ``[n]`` float32 square pixels, for AP by size.
        attributes: further floats ``[n]`` per object, by name, for analysis.
    """

    boxes: npt.NDArray[np.float32]
    labels: npt.NDArray[np.int64]
    crowd: npt.NDArray[np.bool_]
    difficult: npt.NDArray[np.bool_]
    area: npt.NDArray[np.float32]
    attributes: dict[str, npt.NDArray[np.float32]] = field(default_factory=dict)

    @classmethod
    def plain(
        cls,
        boxes: npt.NDArray[np.float32],
        labels: npt.NDArray[np.int64],
        *,
        crowd: npt.NDArray[np.bool_] | None = None,
        difficult: npt.NDArray[np.bool_] | None = None,
        attributes: dict[str, npt.NDArray[np.float32]] | None = None,
    ) -> Annotations:
        """Objects of which no areas are stated: those of the boxes. Without `crowd` or `difficult` none of them is."""
        none = np.zeros(len(boxes), dtype=np.bool_)
        area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
        crowd, difficult = none if crowd is None else crowd, none if difficult is None else difficult
        return cls(boxes, labels, crowd, difficult, area, attributes or {})

    def __len__(self) -> int:
        return len(self.labels)


class Oddities(Counter[str]):
    """What was corrected, left out or merely odd in a split: how often each kind occurred, and where it did first.

    Attributes:
        examples: by kind, the names of the first few places.
    """

    MOST = 3  # examples of a kind

    def __init__(self, counts: Mapping[str, int] | None = None) -> None:
        super().__init__(counts or {})
        self.examples: dict[str, list[str]] = {}

    def __reduce__(self) -> Any:
        return type(self), (dict(self),), {"examples": self.examples}  # Counter's own forgets the examples

    def note(self, kind: str, where: str, times: int = 1) -> None:
        """Count `times` occurrences of a kind at one place."""
        self[kind] += times
        known = self.examples.setdefault(kind, [])
        if len(known) < self.MOST and where not in known:
            known.append(where)

    def note_all(self, kind: str, places: Iterable[str]) -> None:
        """Count one occurrence at each place."""
        for where in places:
            self.note(kind, where)

    def add(self, others: Oddities) -> None:
        """Count all that others counted."""
        for kind in others:
            self[kind] += others[kind]
            known = self.examples.setdefault(kind, [])
            known += others.examples.get(kind, [])[: self.MOST - len(known)]

    def lines(self, where: str = "") -> list[str]:
        """A line for each kind: count, kind, `where`, the first places."""
        return [f"{self[kind]} {kind}{where}{self._shown(kind)}" for kind in sorted(self)]

    def _shown(self, kind: str) -> str:
        known = self.examples.get(kind, [])
        more = ", ..." if self[kind] > len(known) else ""
        return f" ({', '.join(known)}{more})" if known else ""


class ImageSet(ABC):
    """One split of one data set; images are numbered ``0..len-1`` in a fixed order.

    Attributes:
        title: short name for records, never an absolute path.
        split: name of the split.
        classes: class names; the position is the class id.
        warnings: oddities met while reading.
        problems: why nothing should be learnt from this split as it was read, a line each; `harness.data.open_data`
            refuses such a set.
    """

    title: str
    split: str
    classes: tuple[str, ...]
    warnings: Oddities
    problems: tuple[str, ...] = ()

    @abstractmethod
    def __len__(self) -> int:
        """Number of images in the split."""

    @abstractmethod
    def image_id(self, index: int) -> int:
        """An identity that is unique in the split and stable when the split is truncated."""

    @abstractmethod
    def name(self, index: int) -> str:
        """File name relative to the data root."""

    @abstractmethod
    def size(self, index: int) -> tuple[int, int]:
        """Original ``(height, width)`` in pixels, without decoding the image."""

    @abstractmethod
    def annotations(self, index: int) -> Annotations:
        """The objects of the image."""

    @abstractmethod
    def load(self, index: int) -> npt.NDArray[np.uint8]:
        """The image, ``[H, W, 3]`` RGB, contiguous. It may be shared: do not write to it."""

    @abstractmethod
    def checksum(self) -> str:
        """SHA-256 in hex over what determines the content of the split."""

    def with_classes(self, classes: Sequence[str]) -> ImageSet:
        """The set with these classes, in this order; objects of others are left out and counted.

        Raises:
            UserError: for a set whose classes are its own.
        """
        raise UserError(f"data.classes: {self.title} has its own classes; leave the key out")
