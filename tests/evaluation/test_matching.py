"""The matching and all that is read from it against pycocotools' own loops: equal to the bit, ties included."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.evaluation import coco_metrics as metrics
from harness.evaluation.coco_metrics import BINS, SIZES, coco_metrics, in_bins, object_bins
from harness.evaluation.matching import ALL, THRESHOLDS, Matcher
from harness.verify.published.cases import golden_files, read_case
from tests.support.coco_reference import CocoReference, mean_in_points
from tests.support.fakes import MemorySet, found, objects

GOLDEN = Path(__file__).resolve().parents[1] / "golden"
CLASSES = ("a", "b", "c", "d")
LABELS = st.sampled_from([0, 0, 0, 1, 3])  # nothing has the third class
SIDE = st.sampled_from([0, 1, 4, 6, 20, 32, 96, 100])
CORNER = st.sampled_from([0, 0, 2, 3, 50])
BOX = st.tuples(CORNER, CORNER, SIDE, SIDE).map(lambda b: [b[0], b[1], b[0] + b[2], b[1] + b[3]])
AREA = st.sampled_from([None, 0.0, 32.0**2, 1500.0, 96.0**2, 96.0**2 + 1, 2e10])
KIND = st.sampled_from(["", "", "", "", "crowd", "difficult", "both"])
NUDGE = st.sampled_from([0, 0, 0, 1, 2, 5, 30, -40])  # the last turns small boxes inside out


@st.composite
def image(draw):
    """Objects and detections of one image on a coarse raster: equal boxes, equal overlaps and equal scores abound."""
    truth = draw(st.lists(st.tuples(BOX, LABELS, KIND, AREA, st.floats(0, 0.5), st.floats(0, 1)), max_size=7))
    boxes, labels, kinds, areas, eccentricity, fill = zip(*truth, strict=True) if truth else ([],) * 6
    annotations = objects(
        boxes,
        labels,
        crowd=[kind in ("crowd", "both") for kind in kinds],
        difficult=[kind in ("difficult", "both") for kind in kinds],
        eccentricity=eccentricity,
        centre_fill=fill,
    )
    for row, area in enumerate(areas):
        annotations.area[row] = annotations.area[row] if area is None else area
    near = st.sampled_from(boxes) | BOX if boxes else BOX
    guess = st.tuples(near, NUDGE, NUDGE, st.sampled_from([0.25, 0.5, 0.75]), LABELS)
    guesses = draw(st.lists(guess, max_size=12))
    moved = [[box[0], box[1], box[2] + right, box[3] + down] for box, right, down, _, _ in guesses]
    return annotations, found(moved, [each[3] for each in guesses], [each[4] for each in guesses])


@st.composite
def scenes(draw):
    """A set whose ids do not rise with the position, and detections of it."""
    scene = draw(st.lists(image(), min_size=1, max_size=5))
    ids = draw(st.permutations([3, 5, 2**40, 8, 1])) if scene else []
    images = MemorySet([truth for truth, _ in scene], classes=CLASSES, ids=list(ids[: len(scene)]))
    return images, [detections for _, detections in scene]


def crowded(images=3, boxes=40, guesses=250):
    """Many of one class that overlap, and more detections than AR100 reads."""
    rng = np.random.default_rng(0)
    truths, detections = [], []
    for _ in range(images):
        corner = rng.uniform(0, 120, (boxes, 2))
        truth = np.hstack((corner, corner + rng.uniform(20, 60, (boxes, 2))))
        kind = rng.random(boxes)
        truths.append(objects(truth, crowd=kind < 0.05, difficult=kind > 0.9, eccentricity=rng.uniform(0, 0.5, boxes)))
        guess = truth[rng.integers(0, boxes, guesses)] + rng.normal(0, 4, (guesses, 4))
        detections.append(found(guess, rng.random(guesses).round(2)))
    return MemorySet(truths), detections


def golden():
    """The golden cases that hold predictions: their boxes are the objects, the best locations the detections."""
    truths, detections = [], []
    for file in golden_files(GOLDEN):
        case = read_case(file)
        if case.predictions is not None:
            score, label = (part.numpy() for part in case.predictions.logits[0].sigmoid().max(dim=-1))
            best = np.argsort(-score, kind="stable")[:400]
            truths.append(objects(case.boxes, case.labels))
            detections.append(found(case.predictions.boxes[0].numpy()[best], score[best], label[best]))
    return MemorySet(truths, classes=tuple(map(str, range(80)))), detections


KNOWN = ("crowded", "golden", "no detections", "no objects", "only ignored", "no image")


@cache
def known(name):
    box = [0, 0, 9, 9]
    return {
        "crowded": crowded,
        "golden": golden,
        "no detections": lambda: (MemorySet([objects([box]), objects()]), [found(), found()]),
        "no objects": lambda: (MemorySet([objects(), objects()]), [found([box]), found()]),
        "only ignored": lambda: (MemorySet([objects([box], difficult=[True])]), [found([box])]),
        "no image": lambda: (MemorySet([]), []),
    }[name]()


def assert_same_choices(matches, entries, matcher):
    """Every detection takes the object that it takes in the library, at every threshold, and counts as there."""
    told = np.full(matches.object.shape, -1)
    ignored = np.zeros(matches.ignored.shape, bool)
    counted = np.zeros(matches.counted.shape, bool)
    place = np.empty(len(matcher.given), int)
    place[matcher.given] = np.arange(len(place))
    for entry in entries:
        rows = place[np.array(entry["dtIds"], int) - 1]
        told[:, rows] = entry["dtMatches"] - 1
        ignored[:, rows] = entry["dtIgnore"]
        counted[np.array(entry["gtIds"], int) - 1] = np.asarray(entry["gtIgnore"]) == 0
    assert np.array_equal(matches.object, told)
    assert np.array_equal(matches.ignored, ignored)
    assert np.array_equal(matches.counted, counted)


def assert_is_the_library(images, detections):
    reference, matcher = CocoReference(images, detections, most=metrics.MAX_DETECTIONS), Matcher(images, detections)
    for name, size in {"AP": ALL, **SIZES}.items():
        assert_same_choices(matcher.match(size=size), reference.entries(name), matcher)
    assert coco_metrics(images, detections) == reference.metrics()  # no tolerance


@given(scenes())
@settings(max_examples=60)
def test_choices_and_metrics_are_those_of_the_library(scene):
    assert_is_the_library(*scene)


@pytest.mark.parametrize("name", KNOWN)
def test_of_known_sets_too(name):
    assert_is_the_library(*known(name))


@given(scenes())
def test_recall_reads_the_best_of_each_image(scene):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(metrics, "MAX_DETECTIONS", 2)
        assert_is_the_library(*scene)


def assert_bins_are_the_library(images, detections):
    rows = object_bins(images, detections)
    for name, bins in rows.items():
        values = np.concatenate([images.annotations(index).attributes[name] for index in range(len(images))])
        for title, inside in in_bins(values, BINS[name]).items():
            precision = CocoReference(images, detections, inside=inside).eval["precision"]
            assert bins[title]["AP"] == mean_in_points(precision[..., 0, -1])
    return rows


@given(scenes())
def test_ap_of_bins_is_that_of_the_library(scene):
    assert_bins_are_the_library(*scene)


def test_ap_of_bins_of_crowded_images():
    rows = assert_bins_are_the_library(*known("crowded"))
    assert all(0 < row["AP"] < 100 for row in rows["eccentricity"].values())


def test_the_known_sets_ask_something():
    for name, least in (("crowded", 20), ("golden", 1)):
        images, detections = known(name)
        assert least < coco_metrics(images, detections)["AP50"] < 100
        scores = np.concatenate([each["scores"] for each in detections])
        assert len(np.unique(scores)) < len(scores) / 2  # ties
    matches = Matcher(*known("crowded")).match()
    assert matches.ignored.any()
    assert max(len(each["scores"]) for each in known("crowded")[1]) > metrics.MAX_DETECTIONS


def test_thresholds_are_those_of_the_library():
    assert np.array_equal(THRESHOLDS, CocoReference(*known("no image")).params.iouThrs)
    assert np.array_equal(metrics.RECALL, CocoReference(*known("no image")).params.recThrs)


def test_of_equal_overlap_the_later_object_is_taken():
    box = [0, 0, 10, 10]
    matcher = Matcher(MemorySet([objects([box, box, box], crowd=[False, False, True])]), [found([box] * 4, [0.9] * 4)])
    # A third detection finds only the crowd region left, a fourth finds it still there.
    assert matcher.match().object[0].tolist() == [1, 0, 2, 2]
    assert matcher.match().ignored[0].tolist() == [False, False, True, True]


def test_an_object_that_counts_goes_before_a_better_one_that_does_not():
    truth = objects([[0, 0, 10, 10], [0, 0, 10, 8]], difficult=[True, False])
    matches = Matcher(MemorySet([truth]), [found([[0, 0, 10, 10]])]).match()
    # IoU 1 with the difficult one, 0.8 with the other: up to 0.8 that one, above it the difficult one.
    assert matches.object[:, 0].tolist() == [1] * 7 + [0] * 3
    assert matches.ignored[:, 0].tolist() == [False] * 7 + [True] * 3


def test_an_overlap_of_just_the_threshold_reaches_it():
    images = MemorySet([objects([[0, 0, 10, 10]])])
    for height, reached in ((5, 1), (7.5, 6)):  # IoU 0.5 and 0.75
        detections = [found([[0, 0, 10, height]])]
        assert Matcher(images, detections).match().object[:, 0].tolist() == [0] * reached + [-1] * (10 - reached)
        assert_is_the_library(images, detections)
