"""Time of 20 bootstrap replicates: 2000 images, 80 classes, 7 objects and 100 detections an image: ``make bench``."""

from __future__ import annotations

import numpy as np

from harness.evaluation.bootstrap import image_weights
from harness.evaluation.match_table import MatchTable
from harness.evaluation.matching import ClassMatches

THRESHOLDS = 10  # IoU 0.5, 0.55 ... 0.95
IMAGES, CLASSES, OBJECTS, DETECTIONS, REPLICATES = 2000, 80, 14_000, 200_000, 20


def table() -> MatchTable:
    """Fewer objects are found as the threshold rises."""
    rng = np.random.default_rng(0)
    classes = []
    for _ in range(CLASSES):
        objects, count = OBJECTS // CLASSES, DETECTIONS // CLASSES
        found_until = np.zeros(count, dtype=int)  # the number of thresholds at which a detection is right
        # Right ones rank high, as they do in a trained detector.
        ranks = np.unique((count * rng.random(objects) ** 4).astype(int))
        found_until[ranks] = rng.integers(0, THRESHOLDS + 1, len(ranks))
        matched = np.arange(THRESHOLDS)[:, None] < found_until
        classes.append(
            ClassMatches(
                image=rng.integers(0, IMAGES, count),
                matched=matched,
                ignored=np.zeros_like(matched),
                objects=rng.integers(0, IMAGES, objects),
            )
        )
    return MatchTable(IMAGES, tuple(classes))


def test_replicates(benchmark):
    points = benchmark(table().average_precision, image_weights(IMAGES, REPLICATES))
    assert np.isfinite(points["AP"]).all()
    assert (points["AP"] < points["AP50"]).all()
