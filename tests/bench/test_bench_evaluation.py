"""Time of all COCO numbers, by the harness and by pycocotools: 80 classes, 100 detections an image: ``make bench``.

`make bench` measures 100 images by both and 5000 by the harness; both go up by the image.
"""

from __future__ import annotations

import numpy as np
import pytest

from harness.evaluation.coco_metrics import coco_metrics
from tests.support.coco_reference import CocoReference
from tests.support.fakes import MemorySet, found, objects

CLASSES, OBJECTS, DETECTIONS, SIDE = 80, 7, 100, 640


def detected(images):
    """A set and detections of it: of three classes an image, half of them near an object, the rest anywhere."""
    rng = np.random.default_rng(0)

    def boxes(count):
        size = np.exp(rng.uniform(np.log(8), np.log(300), (count, 2)))
        corner = rng.random((count, 2)) * (SIDE - size)
        return np.hstack((corner, corner + size))

    truths, detections = [], []
    for _ in range(images):
        present = rng.integers(0, CLASSES, 3)
        truth = objects(boxes(OBJECTS), present[rng.integers(0, 3, OBJECTS)], crowd=rng.random(OBJECTS) < 0.02)
        near = rng.integers(0, OBJECTS, DETECTIONS // 2)
        sides = np.tile(truth.boxes[near, 2:] - truth.boxes[near, :2], 2)
        moved = truth.boxes[near] + sides * rng.normal(0, 0.12, (len(near), 4))
        stray = DETECTIONS - len(near)
        scores = np.concatenate((rng.beta(2, 3, len(near)), rng.beta(1, 12, stray)))
        labels = np.concatenate((truth.labels[near], rng.integers(0, CLASSES, stray)))
        truths.append(truth)
        detections.append(found(np.vstack((moved, boxes(stray))), scores, labels))
    return MemorySet(truths, classes=tuple(map(str, range(CLASSES)))), detections


def harness(images, found):
    return coco_metrics(images, found)


def pycocotools(images, found):
    return CocoReference(images, found).metrics()


@pytest.mark.benchmark(group="evaluation")
@pytest.mark.parametrize(
    ("judge", "images"),
    [(harness, 100), (pycocotools, 100), pytest.param(harness, 5000, marks=pytest.mark.slow)],
)
def test_coco_metrics(benchmark, judge, images):
    metrics = benchmark.pedantic(judge, detected(images), rounds=3)
    assert 10 < metrics["AP"] < metrics["AR100"] < 90
