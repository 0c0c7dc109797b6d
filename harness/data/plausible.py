"""Whether boxes can be what their format says: pixels of their image, in the order that it asks for.

A file of another convention reads without a fault, and what is learnt from it is wrong. Each rule below looks at all
boxes of a split together, for what any single one may do by chance.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Numbers = npt.NDArray[np.float64]

FEW = 3  # boxes, of which all may look odd by chance
MANY = 20


def coco_problem(boxes: Numbers, sizes: Numbers, areas: Numbers) -> str | None:
    """Why rows x, y, w, h of a COCO file cannot be that.

    Args:
        boxes: ``[n, 4]`` as they stand.
        sizes: ``[n, 2]`` width and height of each box's image.
        areas: ``[n]`` as stated, NaN where nothing is.

    Returns:
        A problem in the words of `ImageSet.problems`, without what it is about.
    """
    if shares := _shares(boxes, sizes, "x, y, w, h"):
        return shares
    if len(boxes) == 0:
        return None
    corner, side = boxes[:, :2], boxes[:, 2:]
    out = ((corner + side) > sizes + 1).any(axis=1)
    as_corners = ((side > corner) & (side <= sizes + 1)).all(axis=1)
    stated = np.abs(areas - (side - corner).prod(axis=1)) <= 1
    plainly = np.abs(areas - side.prod(axis=1)) <= 1
    by_area = bool((stated & as_corners & ~plainly).all())
    least = 0.5 if len(boxes) < MANY else 0.2
    by_place = len(boxes) >= FEW and as_corners.mean() >= 0.95 and out.mean() > least
    if not by_area and not by_place:
        return None
    why = f"{int(out.sum())} of {len(boxes)} stick out of their image, and {int(as_corners.sum())} fit as corners"
    why += ", whose areas are those stated" if by_area else ""
    return f"boxes look like corners x1, y1, x2, y2 ({why}); COCO's 'bbox' is x, y, w, h: convert them"


def voc_problem(corners: Numbers, sizes: Numbers) -> str | None:
    """Why rows xmin, ymin, xmax, ymax of VOC files cannot be that; arguments and answer as for `coco_problem`."""
    if shares := _shares(corners, sizes, "xmin, ymin, xmax, ymax"):
        return shares
    empty = (corners[:, 2:] < corners[:, :2]).any(axis=1)
    as_sides = ((corners[:, 2:] > 0) & (corners[:, :2] + corners[:, 2:] <= sizes + 1)).all(axis=1)
    if len(corners) < FEW or empty.mean() <= 0.2 or as_sides.mean() < 0.95:
        return None
    return (
        f"boxes look like x, y, width, height ({int(empty.sum())} of {len(corners)} end before they begin, and "
        f"{int(as_sides.sum())} fit so); VOC's are corners: add xmin to xmax and ymin to ymax"
    )


def _shares(boxes: Numbers, sizes: Numbers, names: str) -> str | None:
    """Shares of the image's sides in place of pixels: no number above 1, some between, in images that have room."""
    if len(boxes) == 0 or boxes.min() < 0 or boxes.max() > 1 or sizes.min() <= 4:
        return None
    if not ((boxes > 0) & (boxes < 1)).any():
        return None
    return (
        f"all boxes lie between 0 and 1 ({len(boxes)} of them), so they are shares of the image's sides; "
        f"{names} count pixels: multiply by width and height"
    )
