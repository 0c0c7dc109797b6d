"""Whether boxes can be what their format says: pixels of their image, in the order that it asks for.

A file of another convention reads without a fault, and what is learnt from it is wrong. Each rule below looks at all
boxes of a split together, for what any single one may do by chance.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Numbers = npt.NDArray[np.float64]

FEW = 3  # boxes, of which all may look odd by chance
MANY = 20
MOST = 0.95  # share of the boxes that makes a rule of what they have in common
ROUNDED = 0.01  # beyond 0 and 1 that shares of a side may lie

COCO_ORDER = "COCO's 'bbox' is x, y, w, h"
WIDER_ORDER = "WIDER FACE's rows begin with x, y, w, h"


def sides_problem(boxes: Numbers, sizes: Numbers, areas: Numbers, around: Numbers, order: str) -> str | None:
    """Why rows x, y, w, h cannot be that.

    Args:
        boxes: ``[n, 4]`` as they stand.
        sizes: ``[n, 2]`` width and height of each box's image.
        areas: ``[n]`` as stated, NaN where nothing is.
        around: ``[n, 4]`` x, y, w, h around each object's mask, NaN where there is none.
        order: what the format asks for, in words.

    Returns:
        A problem in the words of `ImageSet.problems`, without what it is about.
    """
    if len(boxes) == 0:
        return None
    if shares := _shares(boxes, sizes, order):
        return shares
    corner, side = boxes[:, :2], boxes[:, 2:]
    out = ((corner + side) > sizes + 1).any(axis=1)
    as_corners = ((side > corner) & (side <= sizes + 1)).all(axis=1)
    # Tools that count pixels make a side one longer or shorter.
    of_corners, of_sides = (side - corner).prod(axis=1), side.prod(axis=1)
    known = np.isfinite(areas) & (areas > 0)
    stated = _share(np.abs(areas - of_corners) <= np.abs(side - corner).sum(axis=1) + 2, known & as_corners)
    plainly = _share(np.abs(areas - of_sides) <= 1 + 0.01 * of_sides, known)
    masked = np.isfinite(around).all(axis=1)
    there = np.concatenate((around[:, :2], around[:, :2] + around[:, 2:]), axis=1)
    by_mask = _share((np.abs(boxes - there) <= 2).all(axis=1), masked)
    plain_by_mask = _share((np.abs(boxes - around) <= 2).all(axis=1), masked)
    fit = as_corners.mean() >= MOST
    least = 0.5 if len(boxes) < MANY else 0.2
    if plain_by_mask < 0.5 <= MOST <= by_mask:
        why = ", as their masks do"
    elif fit and plainly < 0.5 and stated >= MOST and (len(boxes) >= FEW or out.any()):
        why = ", and have the areas stated"
    elif fit and plainly < MOST and len(boxes) >= FEW and out.mean() > least:
        why = ""
    else:
        return None
    return (
        f"boxes look like corners x1, y1, x2, y2 ({int(out.sum())} of {len(boxes)} stick out of their image, and "
        f"{int(as_corners.sum())} fit as corners{why}); {order}: convert them"
    )


def voc_problem(corners: Numbers, sizes: Numbers) -> str | None:
    """Why rows xmin, ymin, xmax, ymax of VOC files cannot be that; arguments and answer as for `sides_problem`."""
    return corners_problem(corners, sizes, "VOC's")


def corners_problem(corners: Numbers, sizes: Numbers, whose: str) -> str | None:
    """Why rows xmin, ymin, xmax, ymax in pixels cannot be that; arguments and answer as for `sides_problem`.

    Args:
        whose: the format, as a genitive.
    """
    if shares := _shares(corners, sizes, f"{whose} xmin, ymin, xmax, ymax count pixels"):
        return shares
    empty = (corners[:, 2:] < corners[:, :2]).any(axis=1)
    if len(corners) < FEW or empty.mean() <= (0.5 if len(corners) < MANY else 0.2):
        return None
    return (
        f"{int(empty.sum())} of {len(corners)} boxes end before they begin, so they are x, y, width, height, or have "
        f"their corners swapped; {whose} are xmin, ymin, xmax, ymax: convert them"
    )


def centre_problem(boxes: Numbers) -> str | None:
    """Why rows cx, cy, w, h in shares of the image's sides ``[n, 4]`` cannot be that; answer as for `sides_problem`.

    Rows that begin with a corner, read as if with a centre, give boxes that stick out of the image; others
    seldom do.
    """
    begin, end = boxes[:, :2] - boxes[:, 2:] / 2, boxes[:, :2] + boxes[:, 2:] / 2
    out = (np.minimum(begin, 1 - end) < -ROUNDED).any(axis=1)
    if len(boxes) < FEW or out.mean() <= (0.5 if len(boxes) < MANY else 0.2):
        return None
    readings = {
        "corners x1, y1, x2, y2": (boxes[:, 2:] > boxes[:, :2]).all(axis=1),
        "x, y, w, h from the upper left corner": (boxes[:, :2] + boxes[:, 2:] <= 1 + ROUNDED).all(axis=1),
    }
    for what, fitting in readings.items():
        if fitting.mean() >= MOST:
            return (
                f"boxes look like {what} ({int(out.sum())} of {len(boxes)} stick out of their image, and "
                f"{int(fitting.sum())} fit as such); YOLO's are the centre and the sides, cx, cy, w, h: convert them"
            )
    return None


def _share(rows: npt.NDArray[Any] | np.bool_, among: npt.NDArray[Any] | np.bool_) -> float:
    """Of the rows among some; 0 where there are none."""
    return float(np.asarray(rows)[among].mean()) if among.any() else 0.0


def _shares(boxes: Numbers, sizes: Numbers, order: str) -> str | None:
    """Shares of the image's sides in place of pixels: (nearly) no number beyond 0 and 1, most of them between, in
    images that have room.
    """
    if len(boxes) == 0 or sizes.min() <= 4:
        return None
    within = ((boxes >= -ROUNDED) & (boxes <= 1 + ROUNDED)).all(axis=1)
    between = ((boxes > 0) & (boxes < 1)).any(axis=1)
    if within.mean() < MOST or not between.any():
        return None
    return (
        f"boxes lie between 0 and 1 ({int(within.sum())} of {len(boxes)}), so they are shares of the image's sides; "
        f"{order}, in pixels: multiply by width and height"
    )
