"""Features of every box on every level.

RoIAlign (He et al., Mask R-CNN, ICCV 2017, sec. 3) as one weighted bag of rows.

Each bin averages bilinear reads, so a bin is a sum of feature rows with fixed weights: an embedding bag. That is
what `torchvision.ops.roi_align` computes (``aligned=True``, tested equal), at a third of its time for forward and
backward together on a CPU, and with an order of summation in the backward that never changes, on a GPU as well.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from assigners.contract import Targets
from assigners.grid import Grid
from assigners.parts.map_reader import corners

Extractor = Literal["roi_align", "roi_align_mean", "roi_pool"]

CHUNK = 512  # boxes whose features are held at once: 128 MB at 256 channels and 7 x 7 bins


def by_boxes(read: Callable[..., Tensor], features: tuple[Tensor, ...], grid: Grid, targets: Targets) -> Tensor:
    """What ``read(features, grid, targets)`` makes ``[N, ...]`` of N boxes and their features, `CHUNK` boxes at a time.

    Of crowds only the answer is kept; the backward pass pools again.
    """
    if targets.num_boxes <= CHUNK:
        return read(features, grid, targets)
    parts = zip(targets.boxes.split(CHUNK), targets.image.split(CHUNK), strict=True)
    few = (replace(targets, boxes=boxes, image=image) for boxes, image in parts)  # as much as this module reads
    return torch.cat([checkpoint(read, features, grid, each, use_reentrant=False) for each in few])


def box_features(
    features: tuple[Tensor, ...], grid: Grid, targets: Targets, side: int, sampling_ratio: int, extractor: Extractor
) -> Tensor:
    """The rows of IQDet's Table 3: ``[N, L, bins, D]`` float32 of each of N boxes on each of L levels.

    Args:
        features: maps ``[B, D, H_l, W_l]`` of all levels.
        side: bins along each axis.
        sampling_ratio: of RoIAlign, reads per bin and axis.
        extractor: ``roi_align``. ``roi_align_mean``: its mean over the bins, which leaves nothing of where in the box a
            feature is; one bin. ``roi_pool``: the largest value of each quantised bin.
    """
    if extractor == "roi_pool":
        return roi_pool_levels(features, grid, targets, side)
    aligned = roi_align_levels(features, grid, targets, side, sampling_ratio)
    return aligned.mean(dim=2, keepdim=True) if extractor == "roi_align_mean" else aligned


def roi_align_levels(
    features: tuple[Tensor, ...], grid: Grid, targets: Targets, side: int, sampling_ratio: int
) -> Tensor:
    """Pool each of N boxes to ``side x side`` bins, row-major, on each of L levels; arguments as `box_features`.

    Returns:
        ``[N, L, side * side, D]`` float32.
    """
    rows = torch.cat([f.float().flatten(2).transpose(1, 2) for f in features], dim=1).flatten(0, 1)  # [B * R, D]
    ticks = side * sampling_ratio
    share = (torch.arange(ticks, device=rows.device) + 0.5) / ticks
    low, size = targets.boxes[:, :2], targets.boxes[:, 2:] - targets.boxes[:, :2]
    x, y = (low + share[:, None, None] * size).unbind(-1)  # [ticks, N]
    boxes = targets.num_boxes
    xy = torch.stack((x.T[:, None].expand(boxes, ticks, ticks), y.T[:, :, None].expand(boxes, ticks, ticks)), dim=-1)
    # The reads of a bin side by side: [N, 1, side * side * ratio * ratio, 2].
    bins = xy.view(boxes, side, sampling_ratio, side, sampling_ratio, 2).transpose(2, 3)
    uv = bins.reshape(boxes, 1, ticks * ticks, 2) / grid.level_stride[:, None, None] - grid.offset  # [N, L, reads, 2]
    level = torch.arange(grid.num_levels, device=rows.device)[:, None].expand(uv.shape[:-1])
    location, weight = corners(grid, level.flatten(), uv.flatten(0, 2))
    image = targets.image[:, None].expand(boxes, level.shape[1] * level.shape[2]).flatten()
    cell = grid.cell(image[:, None], location)
    reads = 4 * sampling_ratio**2
    pooled = F.embedding_bag(
        cell.view(-1, reads), rows, per_sample_weights=weight.view(-1, reads) / sampling_ratio**2, mode="sum"
    )
    return pooled.view(boxes, grid.num_levels, side * side, rows.shape[1])


def roi_pool_levels(features: tuple[Tensor, ...], grid: Grid, targets: Targets, side: int) -> Tensor:
    """RoIPool (Girshick, Fast R-CNN, ICCV 2015, sec. 2.1) with torchvision's rounding.

    The largest value of a rectangle is that of four overlapping rectangles whose sides are powers of two, so a few
    pooled maps answer every bin: no loop over boxes, and no sizes are read from the device.

    Returns:
        ``[N, L, side * side, D]`` float32, bins row-major; an empty bin (of a box beyond the map) is 0.
    """
    levels = []
    for level, feature in enumerate(features):
        height, width = grid.shapes[level]
        corner = (targets.boxes / grid.strides[level] + 0.5).floor()  # half up, as C's round of what is positive
        extent = (corner[:, 2:] - corner[:, :2] + 1).clamp(min=1)
        ticks = torch.arange(side + 1, device=extent.device)
        x0, x1 = _bins(corner[:, 0], extent[:, 0], ticks, width)
        y0, y1 = _bins(corner[:, 1], extent[:, 1], ticks, height)
        levels.append(_rectangle_max(feature.float(), targets.image, (x0, x1), (y0, y1)))
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
