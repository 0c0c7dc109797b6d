"""Integer rasterising: the shapes of the procedural set and the smooth noise of its backgrounds.

Masks are inequalities over integer coordinates ``u`` (columns) and ``v`` (rows) that run from -UNIT to UNIT over the
box, so that a shape is written once and drawn at any size. There is no floating point in this file.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from harness.data.hashing import Draws, hash_range

Mask = npt.NDArray[np.bool_]
Ints = npt.NDArray[np.int32]

UNIT = 1024  # half a box side in shape coordinates; UNIT**2 * 5 stays far below 2**31


def _disc(u: Ints, v: Ints, draws: Draws) -> Mask:
    return u * u + v * v <= UNIT * UNIT


def _square(u: Ints, v: Ints, draws: Draws) -> Mask:
    return (abs(u) <= UNIT) & (abs(v) <= UNIT)


def _triangle(u: Ints, v: Ints, draws: Draws) -> Mask:
    return 2 * abs(u) <= v + UNIT


def _ell(u: Ints, v: Ints, draws: Draws) -> Mask:
    edge = UNIT - 2 * UNIT * draws.between(22, 34) // 100  # how thick the two arms are
    return (u <= -edge) | (v >= edge)


def _crescent(u: Ints, v: Ints, draws: Draws) -> Mask:
    shift, radius = draws.between(480, 620), draws.between(800, 900)
    return (u * u + v * v <= UNIT * UNIT) & ((u - shift) * (u - shift) + v * v > radius * radius)


def _ring(u: Ints, v: Ints, draws: Draws) -> Mask:
    hole = draws.between(560, 700)
    distance = u * u + v * v
    return (distance <= UNIT * UNIT) & (distance >= hole * hole)


def _comb(u: Ints, v: Ints, draws: Draws) -> Mask:
    teeth = draws.between(3, 4)
    slot = (u + UNIT) * (2 * teeth - 1) // (2 * UNIT)
    tooth: Mask = slot % 2 == 0
    return tooth | (v >= UNIT - draws.between(480, 680))


def _bar(u: Ints, v: Ints, draws: Draws) -> Mask:
    return abs(u - v) <= draws.between(220, 340)


def _cross(u: Ints, v: Ints, draws: Draws) -> Mask:
    arm = draws.between(240, 380)
    return (abs(u) <= arm) | (abs(v) <= arm)


def _figure(u: Ints, v: Ints, draws: Draws) -> Mask:
    # Twice as high as wide: u counts half, so that the head is round. The trunk narrows downwards.
    radius = draws.between(290, 360)
    below = v + UNIT - 2 * radius
    head = u * u + 4 * (below + radius) * (below + radius) <= 4 * radius * radius
    return head | ((below >= 0) & (abs(u) <= UNIT - below // 4))


@dataclass(frozen=True)
class Shape:
    """One class: its inequality, its range of long side over short side in percent, and whether it may be turned."""

    name: str
    inside: Callable[[Ints, Ints, Draws], Mask]
    aspect: tuple[int, int]
    turns: bool = True


SHAPES = (
    Shape("disc", _disc, (100, 170)),
    Shape("square", _square, (100, 125)),
    Shape("triangle", _triangle, (100, 170)),
    Shape("L", _ell, (100, 170)),
    Shape("crescent", _crescent, (100, 130)),
    Shape("ring", _ring, (100, 150)),
    Shape("comb", _comb, (100, 160)),
    Shape("bar", _bar, (100, 200)),
    Shape("cross", _cross, (100, 150)),
    Shape("figure", _figure, (170, 230), turns=False),
)


def draw_mask(shape: Shape, side: int, draws: Draws) -> Mask:
    """The tight mask ``[h, w]`` of one object with longer side about `side` pixels, turned and mirrored at random."""
    width = max(side * 100 // draws.between(*shape.aspect), 4)
    u, v = _axis(width)[None, :], _axis(side)[:, None]
    mask = shape.inside(u, v, draws)
    if shape.turns:
        turn = draws.between(0, 7)
        mask = mask.T if turn & 1 else mask
        mask = mask[::-1] if turn & 2 else mask
        mask = mask[:, ::-1] if turn & 4 else mask
    x1, y1, x2, y2 = extent(mask)
    return mask[y1:y2, x1:x2]


def _axis(length: int) -> Ints:
    centres = 2 * np.arange(length, dtype=np.int32) + 1 - length  # twice the distance of pixel centres to the middle
    return centres * UNIT // length


def extent(mask: Mask) -> tuple[int, int, int, int]:
    """Tight xyxy box of a mask that holds at least one pixel."""
    columns, rows = np.flatnonzero(mask.any(axis=0)), np.flatnonzero(mask.any(axis=1))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def smooth_noise(key: int, height: int, width: int, cells: int, channels: int) -> Ints:
    """Noise ``[height, width, channels]`` in 0..255, bilinear between ``(cells + 1)**2`` lattice values."""
    words = hash_range(key, (cells + 1) * (cells + 1) * channels)
    lattice = (words >> np.uint32(24)).astype(np.int32).reshape(cells + 1, cells + 1, channels)
    row, row_share = _lattice_position(height, cells)
    column, column_share = _lattice_position(width, cells)
    rows = _blend(lattice[row], lattice[row + 1], row_share[:, None, None])
    return _blend(rows[:, column], rows[:, column + 1], column_share[:, None]) >> 16


def _blend(low: Ints, high: Ints, share: Ints) -> Ints:
    """256 times the mixture with `share` parts in 256 of `high`."""
    return low * np.int32(256) + (high - low) * share


def _lattice_position(length: int, cells: int) -> tuple[Ints, Ints]:
    position = np.arange(length, dtype=np.int32) * (cells * 256) // length
    return position >> 8, position & 255
