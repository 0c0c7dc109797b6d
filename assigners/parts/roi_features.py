"""Features of every box on every level.

RoIAlign (He et al., Mask R-CNN, ICCV 2017, sec. 3) as one weighted bag of rows.

Each bin averages bilinear reads, so a bin is a sum of feature rows with fixed weights: an embedding bag. That is
what `torchvision.ops.roi_align` computes (``aligned=True``, tested equal), at a third of its time for forward and
backward together on a CPU, and with an order of summation in the backward that never changes, on a GPU as well.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from assigners.contract import Targets
from assigners.grid import Grid
from assigners.ops.segments import at
from assigners.parts.map_reader import corners

Extractor = Literal["roi_align", "roi_align_mean", "roi_pool"]

CHUNK = 512  # boxes whose features are held at once: 128 MB at 256 channels, 7 x 7 bins and 5 levels


@dataclass(frozen=True)
class Rows:
    """Boxes on levels, one a row: what is to be pooled.

    Attributes:
        boxes: ``[M, 4]`` xyxy pixels.
        image: ``[M]`` int64 position in the batch.
        level: ``[M]`` int64.
    """

    boxes: Tensor
    image: Tensor
    level: Tensor

    @staticmethod
    def at(targets: Targets, levels: int, index: Tensor) -> Rows:
        """The rows at indices ``[M]`` into (box, level)."""
        box = index // levels
        return Rows(at(targets.boxes, box), at(targets.image, box), index % levels)

    @staticmethod
    def all(targets: Targets, levels: int) -> Rows:
        """Every box on every level, by box and then by level."""
        return Rows.at(targets, levels, torch.arange(targets.num_boxes * levels, device=targets.boxes.device))


def by_rows(read: Callable[[tuple[Tensor, ...], Rows], Tensor], features: tuple[Tensor, ...], rows: Rows) -> Tensor:
    """What ``read(features, rows)`` makes of rows and their features, those of `CHUNK` boxes at a time.

    Of crowds only the answer is kept; the backward pass pools again.
    """
    few = CHUNK * len(features)
    if rows.level.shape[0] <= few:
        return read(features, rows)
    parts = zip(rows.boxes.split(few), rows.image.split(few), rows.level.split(few), strict=True)
    return torch.cat([checkpoint(read, features, Rows(*part), use_reentrant=False) for part in parts])


def box_features(
    features: tuple[Tensor, ...], grid: Grid, rows: Rows, side: int, sampling_ratio: int, extractor: Extractor
) -> Tensor:
    """The rows of IQDet's Table 3: ``[M, bins, D]`` float32 of each of M boxes on its level.

    Args:
        features: maps ``[B, D, H_l, W_l]`` of all levels.
        rows: for ``roi_pool`` those of `Rows.all`.
        side: bins along each axis.
        sampling_ratio: of RoIAlign, reads per bin and axis.
        extractor: ``roi_align``. ``roi_align_mean``: its mean over the bins, which leaves nothing of where in the box a
            feature is; one bin. ``roi_pool``: the largest value of each quantised bin.
    """
    if extractor == "roi_pool":
        each = grid.num_levels
        return roi_pool_levels(features, grid, rows.boxes[::each], rows.image[::each], side).flatten(0, 1)
    aligned = roi_align_rows(features, grid, rows, side, sampling_ratio)
    return aligned.mean(dim=1, keepdim=True) if extractor == "roi_align_mean" else aligned


def roi_align_rows(features: tuple[Tensor, ...], grid: Grid, rows: Rows, side: int, sampling_ratio: int) -> Tensor:
    """Pool each of M boxes to ``side x side`` bins, row-major, on its level; arguments as `box_features`.

    Returns:
        ``[M, side * side, D]`` float32.
    """
    cells = torch.cat([f.float().flatten(2).transpose(1, 2) for f in features], dim=1).flatten(0, 1)  # [B * R, D]
    ticks = side * sampling_ratio
    share = (torch.arange(ticks, device=cells.device) + 0.5) / ticks
    low, size = rows.boxes[:, None, :2], rows.boxes[:, None, 2:] - rows.boxes[:, None, :2]
    xy = low + share[:, None] * size  # [M, ticks, 2]: x of the columns and y of the rows
    uv = xy / at(grid.level_stride, rows.level)[:, None, None] - grid.offset
    count = uv.shape[0]
    u, v = uv.unbind(-1)
    shape = (count, ticks, ticks)
    uv = torch.stack((u[:, None].expand(shape), v[:, :, None].expand(shape)), dim=-1)
    # The reads of a bin side by side: [M, side * side * ratio * ratio, 2].
    uv = uv.view(count, side, sampling_ratio, side, sampling_ratio, 2).transpose(2, 3).reshape(count, ticks * ticks, 2)
    level, image = (each[:, None].expand(uv.shape[:-1]).flatten() for each in (rows.level, rows.image))
    location, weight = corners(grid, level, uv.flatten(0, 1))
    cell = grid.cell(image[:, None], location)
    reads = 4 * sampling_ratio**2
    pooled = F.embedding_bag(
        cell.view(-1, reads), cells, per_sample_weights=weight.view(-1, reads) / sampling_ratio**2, mode="sum"
    )
    return pooled.view(count, side * side, cells.shape[1])


def roi_pool_levels(features: tuple[Tensor, ...], grid: Grid, boxes: Tensor, image: Tensor, side: int) -> Tensor:
    """RoIPool (Girshick, Fast R-CNN, ICCV 2015, sec. 2.1) with torchvision's rounding: boxes ``[N, 4]`` on all levels.

    The largest value of a rectangle is that of four overlapping rectangles whose sides are powers of two, so a few
    pooled maps answer every bin: no loop over boxes, and no sizes are read from the device.

    Returns:
        ``[N, L, side * side, D]`` float32, bins row-major; an empty bin (of a box beyond the map) is 0.
    """
    levels = []
    for level, feature in enumerate(features):
        height, width = grid.shapes[level]
        corner = (boxes / grid.strides[level] + 0.5).floor()  # half up, as C's round of what is positive
        extent = (corner[:, 2:] - corner[:, :2] + 1).clamp(min=1)
        ticks = torch.arange(side + 1, device=extent.device)
        x0, x1 = _bins(corner[:, 0], extent[:, 0], ticks, width)
        y0, y1 = _bins(corner[:, 1], extent[:, 1], ticks, height)
        levels.append(_rectangle_max(feature.float(), image, (x0, x1), (y0, y1)))
    return torch.stack(levels, dim=1)


def _bins(start: Tensor, extent: Tensor, ticks: Tensor, limit: int) -> tuple[Tensor, Tensor]:
    """First cells and ends ``[N, side]`` of the bins along one axis, cut to the map."""
    size = extent[:, None] / (ticks.numel() - 1)
    low = ((ticks[:-1] * size).floor() + start[:, None]).clamp(0, limit)
    high = ((ticks[1:] * size).ceil() + start[:, None]).clamp(0, limit)
    return low.long(), high.long()


def _rectangle_max(
    feature: Tensor, image: Tensor, columns: tuple[Tensor, Tensor], rows: tuple[Tensor, Tensor]
) -> Tensor:
    """``[N, side * side, D]``: the largest value over ``rows x columns``, bins ``[N, side]`` along each axis."""
    height, width = feature.shape[-2:]
    side = columns[0].shape[1]
    best = feature.new_zeros(image.shape[0], side, side, feature.shape[1])
    tall, wide = rows[1] - rows[0], columns[1] - columns[0]
    at = image[:, None, None]
    for i in range(_doublings(height, side)):
        for j in range(_doublings(width, side)):
            fits_y, fits_x = (tall >= 2**i) & (tall < 2 ** (i + 1)), (wide >= 2**j) & (wide < 2 ** (j + 1))
            fits = fits_y[:, :, None] & fits_x[:, None]
            pooled = F.max_pool2d(feature, (2**i, 2**j), stride=1).permute(0, 2, 3, 1)
            corners_y = (rows[0], rows[1] - 2**i)
            corners_x = (columns[0], columns[1] - 2**j)
            reads = [
                pooled[at, y.clamp(0, height - 2**i)[:, :, None], x.clamp(0, width - 2**j)[:, None]]
                for y in corners_y
                for x in corners_x
            ]
            best = torch.where(fits.unsqueeze(-1), torch.stack(reads).amax(dim=0), best)
    return best.flatten(1, 2)


def _doublings(cells: int, side: int) -> int:
    """How many powers of two the length of a bin may reach on a map of `cells`."""
    return min(cells, -(-(cells + 1) // side) + 1).bit_length()
