"""The image bootstrap: AP of a run had its images been drawn again.

The weights depend on the number of images alone, so replicate i means the same images for every run on a set, whenever
and wherever it was evaluated: differences between runs are taken replicate by replicate.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from harness.evaluation.match_table import MatchTable

SEED = 20210420  # any constant; a change breaks the pairing with every file of details written before
REPLICATES = 1000
DECIMALS = 4  # of a point: far below what any comparison resolves


def image_weights(num_images: int, replicates: int) -> NDArray[np.float64]:
    """How often each image is drawn when as many as there are get drawn with replacement.

    Args:
        num_images: N.
        replicates: B; fewer replicates are the first rows of more.

    Returns:
        ``[B, N]`` counts; every row sums to N.
    """
    state = np.random.RandomState(SEED)  # its stream is frozen, that of a Generator may change between versions
    weights = np.zeros((replicates, num_images))
    for row in weights if num_images else ():
        row += np.bincount(state.randint(num_images, size=num_images, dtype=np.int64), minlength=num_images)
    return weights


def replicates(table: MatchTable, count: int = REPLICATES) -> dict[str, list[float | None]]:
    """AP and AP50 in points under `count` draws of the images, as details hold them; None where undefined."""
    points = table.average_precision(image_weights(table.num_images, count))
    return {
        name: [None if np.isnan(value) else round(float(value), DECIMALS) for value in values]
        for name, values in points.items()
    }
