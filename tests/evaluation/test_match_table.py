"""The match table against pycocotools itself: at weight 1, and on sets with images physically repeated."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.evaluation.coco_metrics import coco_metrics
from harness.evaluation.match_table import RECALL, MatchTable, _points_reached
from tests.support.coco_reference import CocoReference
from tests.support.fakes import MemorySet, found, objects

CLASSES = ("a", "b", "c")
BOXES = st.tuples(st.integers(0, 60), st.integers(0, 60), st.integers(8, 40), st.integers(8, 40)).map(
    lambda box: [box[0], box[1], box[0] + box[2], box[1] + box[3]]
)
LABELS = st.integers(0, 1)  # no object and no detection has the third class


@st.composite
def image(draw):
    """Objects of one image and detections, most of them near an object, with few distinct scores."""
    truth = draw(st.lists(st.tuples(BOXES, LABELS, st.sampled_from(["", "", "", "crowd", "difficult"])), max_size=4))
    annotations = objects(
        [box for box, _, _ in truth],
        [label for _, label, _ in truth],
        crowd=[kind == "crowd" for _, _, kind in truth],
        difficult=[kind == "difficult" for _, _, kind in truth],
    )
    near = [box for box, _, _ in truth]
    shift = st.tuples(st.sampled_from([0, 0, 1, 3]), st.sampled_from([0, 0, 2, 5]))
    boxes, labels, scores = [], [], []
    for _ in range(draw(st.integers(0, 6))):
        box = draw(st.sampled_from(near) | BOXES) if near else draw(BOXES)
        right, down = draw(shift)
        boxes.append([box[0] + right, box[1] + down, box[2] + right, box[3] + down])
        labels.append(draw(LABELS))
        scores.append(draw(st.sampled_from([0.25, 0.5, 0.75])))
    return annotations, found(boxes, scores, labels)


SCENES = st.lists(image(), min_size=1, max_size=5)


def image_set(truths, ids=None):
    return MemorySet(truths, classes=CLASSES, ids=ids)


def without_ties(detections):
    """The same order of all detections by distinct scores: earlier images first where scores are equal."""
    scores = np.concatenate([one["scores"] for one in detections])
    distinct = np.empty(len(scores))
    distinct[np.argsort(-scores, kind="stable")] = np.linspace(0.9, 0.1, len(scores))
    parts = np.split(distinct, np.cumsum([len(one["scores"]) for one in detections])[:-1])
    return [one | {"scores": part} for one, part in zip(detections, parts, strict=True)]


def close(points, expected):
    return np.allclose(points, np.nan if expected is None else expected, rtol=0, atol=1e-10, equal_nan=True)


@given(SCENES)
def test_weight_one_is_pycocotools(scene):
    images, detections = image_set([truth for truth, _ in scene]), [found for _, found in scene]
    expected = CocoReference(images, detections).metrics()
    points = MatchTable.build(images, detections).average_precision(np.ones((2, len(images))))
    for name in ("AP", "AP50"):
        assert points[name].shape == (2,)
        assert close(points[name], expected[name])


@given(SCENES, st.data())
def test_whole_weights_are_images_repeated(scene, data):
    weights = data.draw(st.lists(st.integers(0, 3), min_size=len(scene), max_size=len(scene)))
    truths, detections = [truth for truth, _ in scene], [found for _, found in scene]
    table = MatchTable.build(image_set(truths), detections)  # with its ties
    chosen = np.repeat(np.arange(len(scene)), weights)
    distinct = without_ties(detections)
    expected = coco_metrics(image_set([truths[i] for i in chosen]), [distinct[i] for i in chosen])
    points = table.average_precision(np.array([weights, [1] * len(scene)], dtype=float))
    for name in ("AP", "AP50"):
        assert close(points[name][0], expected[name])
        assert close(points[name][1], coco_metrics(image_set(truths), detections)[name])


def test_ties_between_images_need_no_help():
    # Equal scores in different images: repeats of an image follow it, as a weight does.
    box = [10, 10, 50, 50]
    truths = [objects([box]), objects([box]), objects([box])]
    detections = [found([box], [0.5]), found([[60, 60, 90, 90]], [0.5]), found([box], [0.5])]
    weights = np.array([1, 3, 2])
    chosen = np.repeat(np.arange(3), weights)
    expected = coco_metrics(image_set([truths[i] for i in chosen]), [detections[i] for i in chosen])
    points = MatchTable.build(image_set(truths), detections).average_precision(weights[None].astype(float))
    assert 0 < expected["AP"] < 100
    assert close(points["AP"], expected["AP"])


def test_columns_are_images_of_the_set_whatever_their_ids():
    box, off = [10, 10, 50, 50], [100, 100, 150, 150]
    truths, detections = [objects([box]), objects([box])], [found([box]), found([off])]
    weights = np.array([[1.0, 0.0], [0.0, 1.0]])
    for ids in ([1, 2], [2, 1], [2**40, 5]):
        points = MatchTable.build(image_set(truths, ids), detections).average_precision(weights)
        assert points["AP"] == pytest.approx([100, 0])


def test_a_class_without_weighted_objects_leaves_the_mean():
    box = [10, 10, 50, 50]
    truths = [objects([box], [0]), objects([box], [1]), objects()]
    detections = [found([box], labels=[0]), found(), found([box], labels=[1])]
    weights = np.array([[1, 1, 1], [1, 0, 1], [0, 1, 1], [0, 0, 1], [0, 0, 0]], dtype=float)
    points = MatchTable.build(image_set(truths), detections).average_precision(weights)
    for values in points.values():
        assert values[:3] == pytest.approx([50, 100, 0])
        assert np.isnan(values[3:]).all()


def test_a_set_without_anything_is_undefined():
    empty = MatchTable.build(image_set([objects(), objects()]), [found(), found()])
    assert np.isnan(empty.average_precision(np.ones((3, 2)))["AP"]).all()
    assert np.isnan(MatchTable.build(image_set([]), []).average_precision(np.ones((1, 0)))["AP"]).all()


def test_only_the_proportions_of_weights_matter_and_blocks_do_not(monkeypatch):
    rng = np.random.default_rng(0)
    corner = rng.uniform(0, 500, (8, 5, 2))
    boxes = np.concatenate([corner, corner + rng.uniform(20, 200, corner.shape)], axis=-1)
    detections = [found(one + rng.normal(0, 4, one.shape), rng.random(5)) for one in boxes]
    table = MatchTable.build(image_set([objects(one) for one in boxes]), detections)
    weights = rng.integers(0, 3, (9, 8)).astype(float)
    whole = table.average_precision(weights)["AP"]
    assert len(set(whole.round(6))) > 3
    assert table.average_precision(weights / 2)["AP"] == pytest.approx(whole, abs=1e-9)
    monkeypatch.setattr("harness.evaluation.match_table.BLOCK", 64)
    assert table.average_precision(weights)["AP"] == pytest.approx(whole, abs=1e-9)


def test_weights_of_another_set_are_refused():
    table = MatchTable.build(image_set([objects()]), [found()])
    for shape in [(3, 2), (1,)]:
        with pytest.raises(ValueError, match=r"\[B, 1\]"):
            table.average_precision(np.ones(shape))
    with pytest.raises(ValueError, match="2 detections for 1 images"):
        MatchTable.build(image_set([objects()]), [found(), found()])


def test_recall_points_are_counted_as_a_search_counts_them():
    shares = np.array([k / n for n in range(1, 250) for k in range(n + 1)])
    edges = [RECALL, np.nextafter(RECALL, 2), np.nextafter(RECALL, 0)]
    values = np.concatenate([shares, *edges])
    assert np.array_equal(_points_reached(values), np.searchsorted(RECALL, values, side="right"))


def test_there_are_ten_thresholds():
    box = [0, 0, 100, 100]
    table = MatchTable.build(image_set([objects([box])]), [found([[0, 0, 100, 72]])])
    (only,) = table.classes
    assert only.matched.shape == (10, 1)  # IoU 0.5, 0.55 ... 0.95
    assert only.matched.sum() == 5
    assert only.objects.tolist() == [0]
