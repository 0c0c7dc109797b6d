"""Where there are negatives: everywhere but in regions that are to be ignored."""

from __future__ import annotations

from torch import Tensor

from assigners.contract import Targets
from assigners.grid import Grid, coverage


def negatives_outside_ignore(grid: Grid, targets: Targets) -> Tensor:
    """Negative weight ``[B, R]``: 1, but 0 where the point lies in one of its image's ignore regions.

    The regions are rectangles of cells, so their union is a two-dimensional running sum of corner marks: work
    grows with regions + locations, never with their product.
    """
    if not targets.ignore.shape[0]:
        return grid.points.new_ones(targets.num_images, grid.num_locations)
    return (coverage(grid, targets.ignore, targets.ignore_image, targets.num_images) == 0).to(grid.points.dtype)
