"""Dense versions of rules that read no predictions."""

from __future__ import annotations

import torch
from torchvision.ops import box_iou

from harness.bench.dense.picture import IGNORED, NEGATIVE, Answer, Picture, cheapest_box


def center(picture: Picture, radius: float = 1.5) -> Answer:
    """FCOS with center sampling."""
    low = picture.points.new_tensor([-1.0, 64.0, 128.0, 256.0, 512.0])[picture.grid.level]
    high = picture.points.new_tensor([64.0, 128.0, 256.0, 512.0, torch.inf])[picture.grid.level]
    sides = picture.sides()
    reach = sides.amax(dim=-1)
    ok = (sides.amin(dim=-1) > 0) & (reach > low[:, None]) & (reach <= high[:, None]) & picture.near(radius)
    return Answer(cheapest_box(torch.where(ok, picture.areas, torch.inf)))


def foveabox(picture: Picture, sigma: float = 0.4, eta: float = 2.0) -> Answer:
    """FoveaBox: the shrunken box on the levels of its size."""
    edge = 4 * picture.grid.stride[:, None]
    first, last = picture.grid.level[:, None] == 0, picture.grid.level[:, None] == picture.grid.num_levels - 1
    side = picture.areas.sqrt()
    in_scale = ((side >= edge / eta) | first) & ((side <= edge * eta) | last)
    half = (picture.boxes[:, 2:] - picture.boxes[:, :2]) / 2
    offset = (picture.points[:, None] - picture.centers).abs()
    ok = in_scale & picture.inside() & (offset <= sigma * half).all(dim=-1)
    return Answer(cheapest_box(torch.where(ok, picture.areas, torch.inf)))


def max_iou(picture: Picture, positive: float = 0.5, negative: float = 0.4) -> Answer:
    """RetinaNet's thresholds, with low-quality matches; positives outside their box are ignored."""
    iou = box_iou(picture.anchors, picture.boxes)  # [R, n]
    best_of_box = iou.amax(dim=0)
    claims = (iou == best_of_box) & (best_of_box > 0)
    able = picture.inside() & (claims | (iou >= positive))
    assigned = cheapest_box(torch.where(able, -(iou + 2 * claims), torch.inf))
    asked = (iou >= negative).any(dim=1) | claims.any(dim=1)
    return Answer(torch.where(asked & (assigned == NEGATIVE), IGNORED, assigned))


def atss(picture: Picture, topk: int = 9) -> Answer:
    """ATSS: the nearest anchors above mean plus deviation of their overlaps."""
    return adaptive(picture, box_iou(picture.anchors, picture.boxes), topk)


def adaptive(picture: Picture, overlap: torch.Tensor, topk: int) -> Answer:
    """ATSS with any overlap [R, n]: candidates by distance, a threshold per box, the largest overlap wins."""
    distance = torch.cdist(picture.points, picture.centers)
    candidates = torch.cat(
        [
            level.start + distance[level].topk(min(topk, level.stop - level.start), dim=0, largest=False).indices
            for level in picture.levels()
        ]
    )  # [K, n]
    overlaps = overlap.gather(0, candidates)
    threshold = overlaps.mean(dim=0) + overlaps.std(dim=0)
    points = picture.points[candidates]
    sides = torch.cat((points - picture.boxes[:, :2], picture.boxes[:, 2:] - points), dim=-1)
    ok = (overlaps >= threshold) & (sides.amin(dim=-1) > 0.01)
    table = torch.full_like(overlap, -torch.inf).scatter(0, candidates, torch.where(ok, overlaps, -torch.inf))
    return Answer(cheapest_box(-table))
