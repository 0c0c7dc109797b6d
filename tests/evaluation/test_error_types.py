"""Types of mistakes against hand-made cases, and the oracle's gains against detections that are really repaired."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from harness.evaluation.coco_metrics import box_iou, coco_metrics
from harness.evaluation.error_types import ERRORS, TYPES, _classified, _mean_ap50, error_types
from tests.evaluation.test_coco_metrics import random_scene
from tests.support.fakes import MemorySet, found, objects

BOX, FAR = [100, 100, 200, 200], [600, 600, 700, 700]
NEAR = [100, 100, 200, 180]  # IoU 0.8 with BOX
HALF = [100, 100, 200, 130]  # IoU 0.3
NEITHER = [0, 0, 50, 50]


def counts(report):
    return {name: count for name, count in report["counts"].items() if count}


def test_perfect_detections_are_all_correct_and_nothing_is_to_gain():
    images = MemorySet([objects([BOX, FAR], [0, 1]), objects([FAR], [1]), objects()])
    report = error_types(images, [found([BOX, FAR], labels=[0, 1]), found([FAR], labels=[1]), found()])
    assert counts(report) == {"correct": 3}
    assert report["gain"] == dict.fromkeys(ERRORS, 0.0)
    assert (report["score"], report["objects"]) == (0.3, 3)
    assert tuple(report["counts"]) == TYPES


@pytest.mark.parametrize(
    ("box", "label", "name"),
    [
        (NEAR, 1, "classification"),
        (HALF, 0, "localisation"),
        (HALF, 1, "both"),
        (NEITHER, 0, "background"),
        (NEITHER, 1, "background"),
    ],
)
def test_each_type_by_hand(box, label, name):
    # Another object keeps class 1 in the mean. The mistake scores higher than the object that is found.
    images = MemorySet([objects([BOX, FAR], [0, 1])])
    report = error_types(images, [found([box, FAR], [0.9, 0.8], [label, 1])])
    means_an_object = name in ("classification", "localisation")
    assert counts(report) == {"correct": 1, name: 1} | ({} if means_an_object else {"missed": 1})
    # Class 0 has AP 0, class 1 has 100, or 50 where the mistake stands above its detection.
    before = 25.0 if label == 1 else 50.0
    assert report["gain"][name] == pytest.approx((100 if means_an_object else 50) - before)
    assert report["gain"]["duplicate"] == 0


def test_a_duplicate_is_dropped():
    images = MemorySet([objects([BOX, FAR], [0, 0])])
    report = error_types(images, [found([BOX, NEAR, FAR], [0.9, 0.8, 0.7])])
    assert counts(report) == {"correct": 2, "duplicate": 1}
    assert report["gain"]["duplicate"] == pytest.approx(100 - 100 * (51 + 50 * 2 / 3) / 101)


def test_the_wrong_class_on_an_object_that_is_found_is_dropped_too():
    images = MemorySet([objects([BOX, FAR], [0, 1])])
    report = error_types(images, [found([BOX, NEAR, FAR], [0.9, 0.95, 0.8], [0, 1, 1])])
    assert counts(report) == {"correct": 2, "classification": 1}
    assert report["gain"]["classification"] == pytest.approx(25.0)  # class 1 had precision 1/2


def test_of_several_that_mean_one_object_the_best_is_repaired():
    images = MemorySet([objects([BOX])])
    report = error_types(images, [found([HALF, HALF, HALF], [0.5, 0.9, 0.7])])
    assert counts(report) == {"localisation": 3}
    assert report["gain"]["localisation"] == pytest.approx(100)
    assert report["gain"]["missed"] == 0


def test_missed_objects_leave_the_ground_truth():
    images = MemorySet([objects([BOX, FAR])])
    report = error_types(images, [found([BOX])])
    assert counts(report) == {"correct": 1, "missed": 1}
    assert report["gain"]["missed"] == pytest.approx(100 - 100 * 51 / 101)


def test_a_class_of_which_everything_is_missed_stays_in_the_mean():
    images = MemorySet([objects([BOX, FAR], [0, 1])])
    report = error_types(images, [found([BOX])])
    assert report["gain"]["missed"] == 0
    assert error_types(MemorySet([objects([BOX])]), [found()])["gain"] == dict.fromkeys(ERRORS, 0.0)


def test_a_localisation_error_comes_before_a_classification_error():
    both = objects([BOX, [100, 100, 200, 135]], [1, 0])  # IoU 0.8 with class 1, 0.4375 with class 0
    assert counts(error_types(MemorySet([both]), [found([NEAR])])) == {"localisation": 1, "missed": 1}


def test_only_detections_of_some_score_are_counted_but_all_are_repaired():
    images = MemorySet([objects([BOX, FAR])])
    report = error_types(images, [found([BOX, HALF, [600, 600, 700, 640]], [0.29, 0.31, 0.1])])
    assert counts(report) == {"localisation": 1, "missed": 1}  # BOX is meant by HALF, FAR by nothing above 0.3
    # HALF stands for BOX, which is found already, so it goes; the other takes FAR.
    assert report["gain"]["localisation"] == pytest.approx(100 - 100 * 51 / 101 / 2)
    assert report["gain"]["missed"] == 0
    low = error_types(images, [found([BOX], [0.1])])
    assert counts(low) == {"missed": 2}
    assert low["gain"]["missed"] > 0  # one of them is found, though with a low score


def test_crowd_and_difficult_objects_count_for_nothing():
    truth = objects([BOX, FAR, NEITHER], [0, 0, 1], crowd=[True, False, False], difficult=[False, True, False])
    report = error_types(MemorySet([truth]), [found([BOX, HALF, FAR, NEITHER], labels=[0, 0, 0, 1])])
    assert (counts(report), report["objects"]) == ({"correct": 1}, 1)
    stray = error_types(MemorySet([truth]), [found([FAR, FAR], labels=[0, 0])])
    assert counts(stray) == {"background": 1, "missed": 1}  # a difficult object is one object, and none to mean


def test_every_detection_is_read_however_many_there_are():
    images = MemorySet([objects([BOX])])
    report = error_types(images, [found([BOX, *[FAR] * 100], [0.5] + [0.9] * 100)])
    assert counts(report) == {"correct": 1, "background": 100}


def test_without_objects_there_is_no_gain_to_tell():
    report = error_types(MemorySet([objects(), objects()]), [found([BOX]), found()])
    assert report == {
        "score": 0.3, "counts": dict.fromkeys(TYPES, 0) | {"background": 1}, "objects": 0,
        "gain": dict.fromkeys(ERRORS),
    }  # fmt: skip
    assert error_types(MemorySet([]), [])["objects"] == 0


def test_detections_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="0 detections for 1 images"):
        error_types(MemorySet([objects([BOX])]), [])


def crowded_scene(seed):
    """Few scores and few places, so that ties, duplicates and confusions of all kinds occur."""
    rng = np.random.default_rng(seed)
    truths, detections = [], []
    for _ in range(5):
        corner = rng.integers(0, 3, (int(rng.integers(0, 5)), 2)) * 60.0
        truth = np.concatenate([corner, corner + rng.integers(6, 12, corner.shape) * 10], axis=1)
        flags = rng.random((2, len(truth))) < 0.15
        truths.append(objects(truth, rng.integers(0, 3, len(truth)), crowd=flags[0], difficult=flags[1] & ~flags[0]))
        corner = rng.integers(0, 9, (int(rng.integers(0, 12)), 2)) * 20.0
        boxes = np.concatenate([corner, corner + rng.integers(4, 12, corner.shape) * 10], axis=1)
        detections.append(found(boxes, rng.integers(1, 9, len(boxes)) / 10, rng.integers(0, 3, len(boxes))))
    return MemorySet(truths, classes=("a", "b", "c"), ids=[9, 3, 7, 1, 5]), detections


def ap50(images, detections):
    return coco_metrics(images, detections)["AP50"]


@pytest.mark.parametrize("scene", [random_scene, crowded_scene])
@pytest.mark.parametrize("seed", range(4))
def test_ap50_before_any_repair_is_that_of_pycocotools(scene, seed):
    images, detections = scene(seed)
    assert _mean_ap50(_classified(images, detections), len(images.classes)) == pytest.approx(
        ap50(images, detections), abs=1e-9
    )


def really_repaired(images, detections, name):
    """The detections after the oracle, one image and one detection at a time."""
    changed = []
    for index, dets in enumerate(detections):
        truth = images.annotations(index)
        one = _classified(MemorySet([truth], classes=images.classes), [dets])
        names = ["ignored" if kind < 0 else TYPES[kind] for kind in one.kind]
        taken = {int(one.means[n]) for n in range(len(names)) if names[n] == "correct"}
        keep, boxes, labels = [], dets["boxes"].copy(), dets["labels"].copy()
        for n in sorted(range(len(names)), key=lambda n: (-dets["scores"][n], n)):
            meant = int(one.means[n])
            if names[n] != name:
                keep.append(n)
            elif name in ("classification", "localisation") and meant not in taken:
                taken.add(meant)
                keep.append(n)
                labels[n] = truth.labels[meant]
                boxes[n] = truth.boxes[meant] if name == "localisation" else boxes[n]
        keep.sort()
        changed.append({"boxes": boxes[keep], "scores": dets["scores"][keep], "labels": labels[keep]})
    return changed


@given(st.integers(0, 2**32 - 1), st.sampled_from([name for name in ERRORS if name != "missed"]))
def test_gains_are_those_of_detections_that_are_really_repaired(seed, name):
    images, detections = crowded_scene(seed)
    before = ap50(images, detections)
    assume(before is not None)
    after = ap50(images, really_repaired(images, detections, name))
    assert error_types(images, detections)["gain"][name] == pytest.approx(after - before, abs=1e-9)


@given(st.integers(0, 2**32 - 1))
def test_what_always_holds(seed):
    images, detections = crowded_scene(seed)
    report = error_types(images, detections)
    assert all(gain is None or gain >= -1e-9 for gain in report["gain"].values())
    above = sum(int((dets["scores"] >= 0.3).sum()) for dets in detections)
    assert sum(report["counts"][name] for name in TYPES if name != "missed") <= above
    assert report["counts"]["correct"] + report["counts"]["missed"] <= report["objects"]
    order = np.random.default_rng(seed).permutation(len(images))
    shuffled = MemorySet(
        [images.annotations(n) for n in order], classes=images.classes, ids=[images.image_id(n) for n in order]
    )
    assert error_types(shuffled, [detections[n] for n in order]) == report


@pytest.mark.parametrize("seed", range(3))
def test_missed_is_what_nothing_took_and_no_error_means(seed):
    images, detections = crowded_scene(seed)
    missed = iter(_classified(images, detections).missed(np.ones(sum(len(d["scores"]) for d in detections), bool)))
    for index, dets in enumerate(detections):
        truth = images.annotations(index)
        overlap = box_iou(dets["boxes"], truth.boxes)
        for n in range(len(truth)):
            same, given_up = dets["labels"] == truth.labels[n], next(missed)
            if truth.crowd[n] or truth.difficult[n]:
                assert not given_up
            elif not (overlap[same, n] >= 0.1).any() and not (overlap[~same, n] >= 0.5).any():
                assert given_up
            elif (overlap[same, n] >= 0.5).any() and len(truth) == 1:
                assert not given_up
