"""What kind of mistake each detection is, and how much AP50 each kind costs.

After TIDE (Bolya, Foley, Hays and Hoffman, "TIDE: A General Toolbox for Identifying Object Detection Errors", ECCV
2020, sections 2.2 and 2.3). A detection is *correct* if it takes an object of its class at IoU 0.5, as pycocotools
matches them. With u and v the largest IoU with an object of its own class and of another one, the others are, the
first that fits:

    localisation    0.1 <= u < 0.5      the class is right, the box is not
    classification  v >= 0.5            the box is right, the class is not
    duplicate       u >= 0.5            a better detection has the object
    background      u, v < 0.1          there is nothing
    both            else: v >= 0.1      neither is right

*Missed* is an object that nothing took and no localisation or classification error means. Crowd and difficult objects
count for nothing, and neither do the detections that pycocotools matches with them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from harness.evaluation.coco_metrics import box_iou
from harness.evaluation.detections import Detections, check
from harness.evaluation.matching import Matcher

if TYPE_CHECKING:
    from harness.data.base import ImageSet

FOREGROUND, BACKGROUND = 0.5, 0.1  # IoU: TIDE's t_f and t_b
SCORE = 0.3  # least score of the detections that are counted; gains read all of them

ERRORS = ("classification", "localisation", "both", "duplicate", "background", "missed")
TYPES = ("correct", *ERRORS)
_CODE = {name: code for code, name in enumerate(TYPES)}
_IGNORED = -1

Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]


def error_types(images: ImageSet, detections: Sequence[Detections]) -> dict[str, Any]:
    """Count the mistakes by type, and tell what AP50 gains from an oracle that repairs one type alone.

    The oracle gives a classification error the class, and a localisation error the box, of the object that it means,
    or drops it if another detection has that object (of several that mean it, the best is repaired); it drops
    duplicates, background and errors of both kinds, and takes missed objects from the ground truth. No gain is
    negative; as repairs interact, the gains do not add up to what is missing to 100.

    Returns:
        ``score``: least score of what is counted; ``counts``: of detections by type, and of missed objects;
        ``objects``: how many there are; ``gain``: points of AP50 by type, ``None`` without an object. The classes
        are averaged over as before the repair: one of which every object was missed stays at 0.

    Raises:
        ValueError: if the detections do not match the set, or hold NaN or infinity.
    """
    check(images, detections)
    verdicts = _classified(images, [_by_score(each) for each in detections])
    above = verdicts.score >= SCORE
    counts = {name: int((above & (verdicts.kind == _CODE[name])).sum()) for name in TYPES}
    counts["missed"] = int(verdicts.missed(above).sum())
    before = _mean_ap50(verdicts, len(images.classes))
    gain = {
        name: None if before is None else _repaired(verdicts, name, len(images.classes)) - before for name in ERRORS
    }
    return {"score": SCORE, "counts": counts, "objects": int(verdicts.counted.sum()), "gain": gain}


@dataclass(frozen=True)
class _Verdicts:
    """Detections [N] and objects [M] of a whole set, flat; detections in the order of the image ids.

    Attributes:
        score, label, kind: ``[N]`` of the detections; kind is a position in `TYPES`, or `_IGNORED`.
        means: ``[N]`` the object that a detection took or ought to have taken, -1 where there is none.
        object_label: ``[M]``; counted: ``[M]`` neither crowd nor difficult.
    """

    score: NDArray[np.float64]
    label: Ints
    kind: Ints
    means: Ints
    object_label: Ints
    counted: Bools

    def meant_by(self, rows: Bools, *names: str) -> Bools:
        """The objects ``[M]`` that detections of these types, of the given `rows`, took or ought to have taken."""
        chosen = rows & np.isin(self.kind, [_CODE[name] for name in names])
        meant = np.zeros(len(self.counted), dtype=bool)
        meant[self.means[chosen]] = True
        return meant

    def missed(self, rows: Bools) -> Bools:
        """The objects ``[M]`` that are missed if `rows` are all the detections."""
        return self.counted & ~self.meant_by(rows, "correct", "classification", "localisation")


def _by_score(detections: Detections) -> Detections:
    order = np.argsort(-detections["scores"], kind="stable")
    return {name: values[order] for name, values in detections.items()}


def _classified(images: ImageSet, detections: Sequence[Detections]) -> _Verdicts:
    match, ignored = _matches(images, detections)
    truths = [images.annotations(index) for index in range(len(images))]
    counted = [~(truth.crowd | truth.difficult) for truth in truths]
    first_object = np.cumsum([0, *(len(truth) for truth in truths)])
    first = np.cumsum([0, *(len(result["scores"]) for result in detections)])
    kind, means = np.full(first[-1], _IGNORED), np.full(first[-1], -1)
    for index, (truth, result) in enumerate(zip(truths, detections, strict=True)):
        rows, objects = slice(first[index], first[index + 1]), np.flatnonzero(counted[index])
        overlap = box_iou(result["boxes"], truth.boxes[objects])
        same = result["labels"][:, None] == truth.labels[objects][None, :]
        kind[rows], target = _kinds(overlap, same)
        means[rows] = np.where(target >= 0, first_object[index] + np.append(objects, -1)[target], -1)
    kind[match >= 0], means[match >= 0] = _CODE["correct"], match[match >= 0]
    kind[ignored], means[ignored] = _IGNORED, -1
    # Equal scores are ranked as pycocotools does: in the order of the image ids.
    identity = np.repeat([images.image_id(index) for index in range(len(images))], np.diff(first))
    order = np.argsort(identity, kind="stable")
    return _Verdicts(
        score=_joined([result["scores"] for result in detections], np.float64)[order],
        label=_joined([result["labels"] for result in detections], np.int64)[order],
        kind=kind[order],
        means=means[order],
        object_label=_joined([truth.labels for truth in truths], np.int64),
        counted=_joined(counted, np.bool_),
    )


def _joined(parts: Sequence[NDArray[Any]], dtype: type) -> NDArray[Any]:
    return np.concatenate([np.zeros(0, dtype), *parts]).astype(dtype)


def _matches(images: ImageSet, detections: Sequence[Detections]) -> tuple[Ints, Bools]:
    """By COCO's matching: the object that each detection ``[N]`` took, -1 for none, and which count for nothing."""
    matcher = Matcher(images, detections)
    matches = matcher.match()
    match, ignored = np.full(len(matcher.given), -1), np.zeros(len(matcher.given), dtype=bool)
    match[matcher.given], ignored[matcher.given] = matches.object[0], matches.ignored[0]  # the first threshold is 0.5
    return match, ignored


def _kinds(overlap: NDArray[np.float64], same: Bools) -> tuple[Ints, Ints]:
    """Type ``[n]`` of the detections of an image that take no object, and the object they mean, of `overlap` [n, m]."""
    same_class, other_class = np.where(same, overlap, 0.0), np.where(same, 0.0, overlap)
    u, v = same_class.max(axis=1, initial=0.0), other_class.max(axis=1, initial=0.0)
    rules = {
        "localisation": (u >= BACKGROUND) & (u < FOREGROUND),
        "classification": v >= FOREGROUND,
        "duplicate": u >= FOREGROUND,
        "background": np.maximum(u, v) < BACKGROUND,
    }
    kind = np.select(list(rules.values()), [_CODE[name] for name in rules], _CODE["both"])
    target = np.full(len(kind), -1)
    if overlap.shape[1]:
        for name, of in (("localisation", same_class), ("classification", other_class)):
            target = np.where(kind == _CODE[name], of.argmax(axis=1), target)
    return kind, target


def _repaired(verdicts: _Verdicts, name: str, num_classes: int) -> float:
    """AP50 after an oracle's repair of one type.

    Nothing is matched anew: what is repaired takes an object that nobody had, and all others keep theirs.
    """
    rows = verdicts.kind == _CODE[name]
    every = np.ones_like(rows)
    if name == "missed":
        return _mean_ap50(verdicts, num_classes, without=verdicts.missed(every)) or 0.0
    kind, label = verdicts.kind.copy(), verdicts.label.copy()
    kind[rows] = _IGNORED
    if name in ("classification", "localisation"):
        free = np.flatnonzero(rows & ~verdicts.meant_by(every, "correct")[verdicts.means])
        best_first = free[np.argsort(-verdicts.score[free], kind="stable")]
        chosen = best_first[np.unique(verdicts.means[best_first], return_index=True)[1]]
        kind[chosen], label[chosen] = _CODE["correct"], verdicts.object_label[verdicts.means[chosen]]
    return _mean_ap50(replace(verdicts, kind=kind, label=label), num_classes) or 0.0


def _mean_ap50(verdicts: _Verdicts, num_classes: int, without: Bools | None = None) -> float | None:
    """AP50 in points over the classes that have counted objects, ``None`` where none has any."""
    values = []
    for label in range(num_classes):
        of_class = verdicts.counted & (verdicts.object_label == label)
        if of_class.any():
            objects = int(of_class.sum() if without is None else (of_class & ~without).sum())
            rows = (verdicts.label == label) & (verdicts.kind != _IGNORED)
            values.append(_ap(verdicts.score[rows], verdicts.kind[rows] == _CODE["correct"], objects))
    return 100 * float(np.mean(values)) if values else None


def _ap(score: NDArray[np.float64], correct: Bools, objects: int) -> float:
    """Mean of the interpolated precision at recall 0, 0.01 ... 1, as pycocotools has it."""
    hits = np.cumsum(correct[np.argsort(-score, kind="stable")])
    if not objects or not len(hits):
        return 0.0
    precision = hits / np.arange(1, len(hits) + 1)
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    place = np.searchsorted(hits / objects, np.linspace(0, 1, 101), side="left")
    return float(np.append(envelope, 0.0)[place].mean())
