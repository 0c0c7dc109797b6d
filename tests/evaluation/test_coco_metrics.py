"""Evaluation against cases whose answer is known by hand, and against the library's own path."""

import contextlib
import io
from itertools import pairwise

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from harness.evaluation.coco_metrics import BINS, box_iou, coco_metrics, object_bins
from tests.support.fakes import MemorySet, found, objects

SMALL, MEDIUM, LARGE = [10, 10, 20, 20], [100, 100, 150, 150], [300, 300, 500, 500]


def test_perfect_detections_score_100():
    images = MemorySet([objects([SMALL, MEDIUM], [0, 1]), objects([LARGE], [1]), objects()])
    detections = [found([SMALL, MEDIUM], labels=[0, 1]), found([LARGE], labels=[1]), found()]
    metrics = coco_metrics(images, detections)
    assert list(metrics) == ["AP", "AP50", "AP75", "APs", "APm", "APl", "AR100"]
    assert all(value == pytest.approx(100) for value in metrics.values())


def test_a_known_precision_curve():
    # Found, wrong, found: precision 1 up to recall 0.5 (51 of 101 points), 2/3 beyond.
    images = MemorySet([objects([MEDIUM, LARGE])])
    detections = [found([MEDIUM, [600, 600, 700, 700], LARGE], [0.9, 0.8, 0.7])]
    metrics = coco_metrics(images, detections)
    assert metrics["AP"] == pytest.approx(100 * (51 + 50 * 2 / 3) / 101)
    assert metrics["AR100"] == pytest.approx(100)


def test_thresholds_are_taken_at_their_values():
    images = MemorySet([objects([[0, 0, 100, 100]])])
    metrics = coco_metrics(images, [found([[0, 0, 100, 72]])])  # IoU 0.72: five of the ten thresholds
    assert metrics["AP50"] == pytest.approx(100)
    assert metrics["AP75"] == pytest.approx(0)
    assert metrics["AP"] == pytest.approx(50)


def test_the_wrong_class_finds_nothing():
    images = MemorySet([objects([MEDIUM], [0])])
    assert coco_metrics(images, [found([MEDIUM], labels=[1])])["AP"] == 0


def test_no_detections_score_zero():
    metrics = coco_metrics(MemorySet([objects([MEDIUM]), objects()]), [found(), found()])
    assert metrics["AP"] == 0
    assert metrics["APm"] == 0


def test_what_no_object_defines_is_none_and_never_minus_one():
    metrics = coco_metrics(MemorySet([objects([MEDIUM])]), [found([MEDIUM])])
    assert metrics["APs"] is None
    assert metrics["APl"] is None
    empty = MemorySet([objects(), objects()])
    for detections in ([found(), found()], [found([MEDIUM]), found()]):
        assert set(coco_metrics(empty, detections).values()) == {None}
    assert set(coco_metrics(MemorySet([]), []).values()) == {None}


def inside_large(count):
    return [[310 + 20 * n, 310, 350 + 20 * n, 350] for n in range(count)]


def test_detections_in_a_crowd_count_for_nothing():
    detections = [found([*inside_large(3), MEDIUM], [0.9, 0.9, 0.9, 0.5])]
    boxes = [LARGE, MEDIUM]
    crowd = MemorySet([objects(boxes, crowd=[True, False])])
    alone = MemorySet([objects([MEDIUM])])
    assert coco_metrics(crowd, detections)["AP"] == pytest.approx(100)
    assert coco_metrics(alone, detections)["AP"] < 30


def test_all_detections_of_a_crowded_image_are_read():
    grid = [[x, y, x + 20, y + 20] for x in range(0, 750, 50) for y in range(0, 500, 50)]  # 150 small ones
    images = MemorySet([objects(grid), objects([LARGE])])
    scores = np.linspace(0.9, 0.1, 150)
    metrics = coco_metrics(images, [found(grid, scores), found([LARGE])])
    assert metrics["AP"] == metrics["AP50"] == pytest.approx(100)
    assert metrics["APs"] == pytest.approx(100)
    assert metrics["AR100"] == pytest.approx(100 * 101 / 151)
    cut = coco_metrics(images, [found(grid[:100], scores[:100]), found([LARGE])])
    assert cut["AP"] == pytest.approx(100 * 67 / 101)  # recall ends at 101 of 151
    assert cut["AR100"] == metrics["AR100"]


def test_a_difficult_object_is_neither_asked_for_nor_held_against_anyone():
    images = MemorySet([objects([LARGE, MEDIUM], difficult=[True, False])])
    assert coco_metrics(images, [found([MEDIUM])])["AP"] == pytest.approx(100)
    assert coco_metrics(images, [found([LARGE, MEDIUM], [0.9, 0.5])])["AP"] == pytest.approx(100)


def test_a_difficult_object_is_one_object_and_no_region():
    images = MemorySet([objects([LARGE, MEDIUM], difficult=[True, False])])
    twice = [found([LARGE, LARGE, MEDIUM], [0.9, 0.8, 0.5])]
    part = [found([*inside_large(1), MEDIUM], [0.9, 0.5])]
    for detections in (twice, part):
        assert coco_metrics(images, detections)["AP"] == pytest.approx(50)


def test_only_difficult_objects_define_nothing():
    assert coco_metrics(MemorySet([objects([LARGE], difficult=[True])]), [found([LARGE])])["AP"] is None


def test_the_given_area_decides_the_size():
    annotations = objects([LARGE])
    annotations.area[:] = 50.0  # a thin mask in a large box
    metrics = coco_metrics(MemorySet([annotations]), [found([LARGE])])
    assert metrics["APs"] == pytest.approx(100)
    assert metrics["APl"] is None


def random_scene(seed, images=12, classes=3):
    rng = np.random.default_rng(seed)

    def boxes(count):
        corner = rng.uniform(0, 500, (count, 2))
        return np.concatenate([corner, corner + rng.uniform(4, 300, (count, 2))], axis=1)

    truths, detections = [], []
    for _ in range(images):
        count = int(rng.integers(0, 6))
        truth = objects(boxes(count), rng.integers(0, classes, count), crowd=rng.random(count) < 0.15)
        near = truth.boxes + rng.normal(0, 6, truth.boxes.shape)
        near[:, 2:] = np.maximum(near[:, 2:], near[:, :2] + 1)
        stray = boxes(int(rng.integers(0, 8)))
        both = np.concatenate([near, stray])
        labels = np.concatenate([truth.labels, rng.integers(0, classes, len(stray))])
        truths.append(truth)
        detections.append(found(both, rng.random(len(both)), labels))
    ids = [int(n) for n in rng.choice(2**40, images, replace=False)]
    return MemorySet(truths, classes=tuple("abcdefg"[:classes]), ids=ids), detections


def library_stats(images, detections):
    """The route of the library's manual: an annotation file's content and a result list."""
    rows, results = [], []
    for index in range(len(images)):
        truth, dets = images.annotations(index), detections[index]
        for n in range(len(truth)):
            x0, y0, x1, y1 = truth.boxes[n].tolist()
            rows.append({"id": len(rows) + 1, "image_id": images.image_id(index), "category_id": int(truth.labels[n]),
                         "bbox": [x0, y0, x1 - x0, y1 - y0], "area": float(truth.area[n]),
                         "iscrowd": int(truth.crowd[n])})  # fmt: skip
        for box, score, label in zip(dets["boxes"].tolist(), dets["scores"], dets["labels"], strict=True):
            results.append({"image_id": images.image_id(index), "category_id": int(label), "score": float(score),
                            "bbox": [box[0], box[1], box[2] - box[0], box[3] - box[1]]})  # fmt: skip
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = {
            "images": [{"id": images.image_id(index)} for index in range(len(images))],
            "annotations": rows,
            "categories": [{"id": n} for n in range(len(images.classes))],
            "info": {},
        }
        truth.createIndex()
        judge = COCOeval(truth, truth.loadRes(results), "bbox")
        judge.evaluate()
        judge.accumulate()
        judge.summarize()
    return judge.stats


@pytest.mark.parametrize("seed", range(5))
def test_the_numbers_are_those_of_the_library(seed):
    images, detections = random_scene(seed)
    ours, theirs = coco_metrics(images, detections), library_stats(images, detections)
    for name, position in {"AP": 0, "AP50": 1, "AP75": 2, "APs": 3, "APm": 4, "APl": 5, "AR100": 8}.items():
        assert ours[name] == (None if theirs[position] < 0 else 100 * theirs[position])


def test_nothing_is_printed(capsys):
    coco_metrics(MemorySet([objects([MEDIUM])]), [found([MEDIUM])])
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("detections", "message"),
    [
        ([], "0 detections for 1 images"),
        ([found([MEDIUM], scores=[0.5, 0.6])], "image 0"),
        ([found([[0, 0, np.nan, 5]])], "NaN"),
    ],
)
def test_detections_that_do_not_fit_are_refused(detections, message):
    for judge in (coco_metrics, object_bins):
        with pytest.raises(ValueError, match=message):
            judge(MemorySet([objects([MEDIUM])]), detections)


def test_iou_by_hand():
    a = np.array([[0, 0, 10, 10], [5, 5, 5, 5]])
    b = np.array([[0, 0, 10, 10], [5, 0, 15, 10], [20, 20, 30, 30], [5, 5, 5, 5]])
    np.testing.assert_allclose(box_iou(a, b), [[1, 50 / 150, 0, 0], [0, 0, 0, 0]])


def test_bins_by_hand():
    images = MemorySet(
        [
            objects([SMALL, MEDIUM, LARGE], eccentricity=[0.0, 0.1, 0.3], centre_fill=[1.0, 0.9, 0.02]),
            objects([MEDIUM], eccentricity=[0.05], centre_fill=[0.5]),
        ]
    )
    halves = [100, 100, 150, 130]  # IoU 0.6 with MEDIUM
    bins = object_bins(images, [found([SMALL, halves], [0.3, 0.9]), found()])
    one = pytest.approx
    # The better score stands on MEDIUM of another bin up to IoU .6; beyond, it finds nothing and halves the precision.
    ap_of_small = 100 * (3 * 51 + 7 * 51 / 2) / 1010
    ap_of_both = 100 * (3 * 101 + 7 * 51 / 2) / 1010
    assert bins["eccentricity"] == {
        "[0, 0.1)": {"count": 2, "AP": one(ap_of_small), "recall": 50.0, "mean_iou": 0.5},
        "[0.1, 0.25)": {"count": 1, "AP": one(30.0), "recall": 100.0, "mean_iou": one(0.6)},  # at IoU .5, .55 and .6
        "[0.25, inf)": {"count": 1, "AP": 0.0, "recall": 0.0, "mean_iou": 0.0},
    }
    fill = bins["centre_fill"]
    assert [row["count"] for row in fill.values()] == [1, 0, 1, 2]
    assert fill["[0.05, 0.5)"] == {"count": 0, "AP": None, "recall": None, "mean_iou": None}
    # 0.9 in float32 lies below 0.9 in float64
    assert fill["[0.5, 0.9)"] == {"count": 1, "AP": 0.0, "recall": 0.0, "mean_iou": 0.0}
    assert fill["[0.9, 1]"] == {"count": 2, "AP": one(ap_of_both), "recall": 100.0, "mean_iou": one(0.8)}


def test_ap_of_a_bin_is_coco_ap_with_the_others_difficult():
    rng = np.random.default_rng(0)
    corners = [rng.uniform(0, 300, (6, 2)) for _ in range(5)]
    boxes = [np.hstack((corner, corner + rng.uniform(20, 200, (6, 2)))) for corner in corners]
    labels = [rng.integers(0, 2, 6) for _ in range(5)]
    values = [rng.uniform(0, 0.5, 6) for _ in range(5)]
    guesses = [
        found(b + rng.normal(0, 4, b.shape), rng.uniform(0, 1, 6), np.where(rng.uniform(size=6) < 0.8, n, 1 - n))
        for b, n in zip(boxes, labels, strict=True)
    ]
    rows = object_bins(
        MemorySet([objects(b, n, eccentricity=v) for b, n, v in zip(boxes, labels, values, strict=True)]),
        guesses,
    )["eccentricity"]
    for (low, high), row in zip(pairwise(BINS["eccentricity"]), rows.values(), strict=True):
        outside = [(v < low) | (v >= high) for v in values]
        told = [objects(b, n, difficult=d) for b, n, d in zip(boxes, labels, outside, strict=True)]
        assert row["AP"] == pytest.approx(coco_metrics(MemorySet(told), guesses)["AP"])
        assert 0 < row["AP"] < 100


def one_bin(images, detections):
    return object_bins(images, detections)["centre_fill"]["[0.9, 1]"]


def test_the_better_score_chooses_first_and_each_object_is_taken_once():
    images = MemorySet([objects([[0, 0, 100, 100], [0, 0, 100, 80]], centre_fill=[1.0, 1.0])])
    # The first takes the object it fits best; the second, although it fits the same one, gets what is left.
    row = one_bin(images, [found([[0, 0, 100, 96], [0, 0, 100, 100]], [0.9, 0.8])])
    assert (row["count"], row["recall"], row["mean_iou"]) == (2, 100.0, pytest.approx((0.96 + 0.8) / 2))
    row = one_bin(images, [found([[0, 0, 100, 100]])])
    assert (row["count"], row["recall"], row["mean_iou"]) == (2, 50.0, pytest.approx(0.5))


def test_bins_read_every_detection_however_many_there_are():
    images = MemorySet([objects([MEDIUM], centre_fill=[1.0])])
    strays = [[600, 600, 700, 700]] * 100
    assert one_bin(images, [found([MEDIUM, *strays], [0.1] + [0.9] * 100)])["recall"] == 100


def test_class_crowd_and_difficult_matter_to_bins():
    images = MemorySet(
        [
            objects(
                [SMALL, MEDIUM, LARGE],
                crowd=[True, False, False],
                difficult=[False, True, False],
                centre_fill=[1, 1, 1],
            )
        ]
    )
    assert one_bin(images, [found([LARGE], labels=[1])]) == {"count": 1, "AP": 0.0, "recall": 0.0, "mean_iou": 0.0}
    assert one_bin(images, [found([SMALL, MEDIUM])])["count"] == 1


def test_sets_without_attributes_have_no_bins():
    assert object_bins(MemorySet([objects([MEDIUM])]), [found([MEDIUM])]) == {}
    assert object_bins(MemorySet([]), []) == {}
