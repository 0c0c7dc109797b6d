"""COCO's matching of detections with objects, for all images, classes and thresholds of IoU at once.

Within an image and a class the detections choose by falling score: each takes the object of highest IoU that is free,
if that IoU reaches the threshold. An object that counts goes before one that is ignored, a crowd region is never
taken away, and of equal IoU the later object is chosen. Which objects are ignored differs from one AP to the next:
those of other sizes, those outside a bin.

The answers are those of pycocotools to the bit: IoU is computed by the library, and a test holds every choice to its
own loops. They take the library a visit to each image, class and size in Python; here all images go in step, and of
their detections only those go that reach the least threshold with an object of their class.

Shape letters: N detections and M objects of the whole set, D detections and G objects of one class, P pairs of a
detection and an object that may match, T = 10 thresholds of IoU, 0.5 to 0.95.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask

from harness.evaluation.detections import Detections, check

if TYPE_CHECKING:
    from harness.data.base import ImageSet

Bools = NDArray[np.bool_]
Ints = NDArray[np.intp]
Floats = NDArray[np.float64]

THRESHOLDS = np.linspace(0.5, 0.95, 10)  # of IoU, as in pycocotools
ALL = (0.0, 1e5**2)  # area in pixels


@dataclass(frozen=True)
class ClassMatches:
    """One class, its detections by falling score.

    Attributes:
        image: ``[D]`` position in the set of the image of each detection.
        matched: ``[T, D]`` whether it took an object.
        ignored: ``[T, D]`` whether it counts neither for nor against (it took an object that is ignored).
        objects: ``[G]`` image of each object that counts.
    """

    image: Ints
    matched: Bools
    ignored: Bools
    objects: Ints


class Matcher:
    """The detections and objects of a set, and the pairs of them that may match.

    Objects lie in the order of the set. Detections lie by class, then by falling score; equal scores by rising id of
    the image, as the library goes through the images, then in the order given.

    Attributes:
        given: ``[N]`` position of each detection among all as given.
        image, label, score, area: ``[N]`` of the detections; area is that of the box.
        rank: ``[N]`` of a detection among those of its image and class, from 0.
        object_image, object_label, object_area, crowd: ``[M]`` of the objects; area as the annotations have it.
        ignored: ``[M]`` the objects that never count: crowd regions and difficult ones.
        num_classes: of the set.
    """

    def __init__(self, images: ImageSet, detections: Sequence[Detections]) -> None:
        """Compute the overlaps.

        Raises:
            ValueError: if the detections do not match the set, or hold NaN or infinity.
        """
        check(images, detections)
        truths = [images.annotations(index) for index in range(len(images))]
        self.num_classes = len(images.classes)
        self.object_image = np.repeat(np.arange(len(images)), [len(truth) for truth in truths])
        self.object_label = _joined([truth.labels for truth in truths], np.intp)
        self.object_area = _joined([truth.area for truth in truths], np.float64)
        self.crowd = _joined([truth.crowd for truth in truths], np.bool_)
        self.ignored = self.crowd | _joined([truth.difficult for truth in truths], np.bool_)

        image = np.repeat(np.arange(len(images)), [len(result["scores"]) for result in detections])
        label = _joined([result["labels"] for result in detections], np.intp)
        score = _joined([result["scores"] for result in detections], np.float64)
        sides = _sides([result["boxes"] for result in detections])
        identity = np.array([images.image_id(index) for index in range(len(images))], dtype=np.int64)
        by_id = np.argsort(identity[image], kind="stable")
        self.given = by_id[np.lexsort((-score[by_id], label[by_id]))]
        self.image, self.label, self.score = image[self.given], label[self.given], score[self.given]
        self.area = sides[self.given, 2] * sides[self.given, 3]
        group = self.image * max(1, self.num_classes) + self.label
        self.rank = _rank(group)

        detection, item, iou = self._overlaps(image, sides, _sides([truth.boxes for truth in truths]))
        # Detections of a round are of different images or classes, so that none is in another one's way.
        turn = np.full(len(self.given), -1)
        turn[detection] = 0
        paired = np.flatnonzero(turn == 0)
        turn[paired] = _rank(group[paired])
        order = np.lexsort((-item, -iou, detection, turn[detection]))
        self._detection, self._object, self._iou = detection[order], item[order], iou[order]
        self._round = turn[self._detection]

    def _overlaps(self, image: Ints, sides: Floats, object_sides: Floats) -> tuple[Ints, Ints, Floats]:
        """Detection, object and IoU, each ``[P]``, of the pairs of one class that reach the least threshold.

        Args:
            image: ``[N]`` of the detections as given, rising.
            sides: ``[N, 4]`` of the detections as given; object_sides: ``[M, 4]``.
        """
        place = np.empty_like(self.given)
        place[self.given] = np.arange(len(place))
        label = self.label[place]
        edges = np.arange(max(image.max(initial=-1), self.object_image.max(initial=-1)) + 2)
        bounds = (pairwise(np.searchsorted(of, edges).tolist()) for of in (image, self.object_image))
        pairs = [(np.zeros(0, np.intp), np.zeros(0, np.intp), np.zeros(0))]
        for (start, stop), (first, last) in zip(*bounds, strict=True):
            if start < stop and first < last:
                iou = mask.iou(sides[start:stop], object_sides[first:last], self.crowd[first:last])
                same = label[start:stop, None] == self.object_label[first:last]
                row, item = np.nonzero(same & (iou >= THRESHOLDS[0]))
                pairs.append((place[start + row], first + item, iou[row, item]))
        detection, item, iou = (np.concatenate(part) for part in zip(*pairs, strict=True))
        return detection, item, iou

    def match(self, *, size: tuple[float, float] = ALL, without: Bools | None = None) -> Matches:
        """What each detection takes if objects of a size are all that counts.

        Args:
            size: least and largest area in pixels. Detections of another size that take no object count for nothing.
            without: ``[M]`` further objects that do not count.
        """
        ignored = self.ignored | _outside(self.object_area, size)
        if without is not None:
            ignored |= without
        taken_by = np.full((len(THRESHOLDS), len(self.given)), -1, dtype=np.int32)
        taken = np.zeros((len(THRESHOLDS), len(ignored)), dtype=bool)
        # Pairs of a detection stay together and come in the order of its preference.
        first = _starts(self._detection)
        detection_of_pair = np.repeat(np.arange(len(first)), np.diff(first, append=len(self._detection)))
        order = np.argsort(2 * detection_of_pair + ignored[self._object], kind="stable")
        objects, reached = self._object[order], self._iou[order] >= THRESHOLDS[:, None]
        for start, stop in pairwise(np.append(_starts(self._round), len(order))):
            wanted = objects[start:stop]
            own = first[slice(*np.searchsorted(first, (start, stop)))]
            free = reached[:, start:stop] & ~taken[:, wanted]
            choice = np.minimum.reduceat(np.where(free, np.arange(len(wanted)), len(wanted)), own - start, axis=1)
            threshold, column = np.nonzero(choice < len(wanted))
            chosen = wanted[choice[threshold, column]]
            taken_by[threshold, self._detection[own[column]]] = chosen
            taken[threshold, chosen] = ~self.crowd[chosen]
        neither = np.append(ignored, False)[taken_by] | ((taken_by < 0) & _outside(self.area, size))
        return Matches(self, taken_by, neither, ~ignored)


@dataclass(frozen=True)
class Matches:
    """The outcome of one matching.

    Attributes:
        of: whose detections and objects.
        object: ``[T, N]`` the object that each detection took, -1 for none.
        ignored: ``[T, N]`` whether the detection counts neither for nor against.
        counted: ``[M]`` whether the object counts.
    """

    of: Matcher
    object: NDArray[np.int32]
    ignored: Bools
    counted: Bools

    def classes(self) -> Iterator[ClassMatches]:
        """Of each class of the set, in order."""
        bounds = np.searchsorted(self.of.label, np.arange(self.of.num_classes + 1))
        for label, (start, stop) in enumerate(pairwise(bounds)):
            yield ClassMatches(
                image=self.of.image[start:stop],
                matched=self.object[:, start:stop] >= 0,
                ignored=self.ignored[:, start:stop],
                objects=self.of.object_image[self.counted & (self.of.object_label == label)],
            )


def _joined(parts: Sequence[NDArray[Any]], dtype: type) -> NDArray[Any]:
    return np.concatenate([np.zeros(0, dtype), *parts]).astype(dtype, copy=False)


def _sides(boxes: Sequence[NDArray[Any]]) -> Floats:
    """Left, top, width and height ``[n, 4]`` of xyxy boxes."""
    corners = np.concatenate([np.zeros((0, 4)), *boxes]).astype(np.float64, copy=False)
    return np.concatenate((corners[:, :2], corners[:, 2:] - corners[:, :2]), axis=1)


def _outside(area: Floats, size: tuple[float, float]) -> Bools:
    """Which areas ``[n]`` lie below the least or above the largest of a size."""
    return (area < size[0]) | (area > size[1])


def _starts(values: Ints) -> Ints:
    """Where runs of equal values ``[n]`` begin."""
    return np.flatnonzero(np.diff(values, prepend=values[:1] - 1))


def _rank(groups: Ints) -> Ints:
    """How many elements of the same group ``[n]`` lie before each."""
    order = np.argsort(groups, kind="stable")
    first = _starts(groups[order])
    rank = np.empty_like(order)
    rank[order] = np.arange(len(order)) - np.repeat(first, np.diff(first, append=len(order)))
    return rank
