"""Counting where two answers agree, and the first place where they do not, in words."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from assigners.contract import Term
from assigners.grid import Grid
from harness.verify.published.cases import IntArray

FLOOR = 1e-7  # of a loss: what float32 leaves of the logarithm of a probability of nearly 1
LOSS_TOLERANCE = 1e-4  # of an assigner's loss terms, relative


@dataclass(frozen=True)
class Count:
    """How many points or numbers were compared, and how many were equal."""

    compared: int
    equal: int

    @property
    def all_equal(self) -> bool:
        """Whether there is no difference at all."""
        return self.compared == self.equal


@dataclass(frozen=True)
class Agreement:
    """A count, and what differs first; None where nothing does."""

    count: Count
    difference: str | None = None


def boxes(
    grid: Grid, our_name: str, ours: IntArray, their_name: str, theirs: IntArray, where: NDArray[np.bool_]
) -> Agreement:
    """Locations of `where` that learn the same box, and the first that does not."""
    places = np.flatnonzero(where & (ours != theirs))
    count = Count(int(where.sum()), int(where.sum()) - len(places))
    if not len(places):
        return Agreement(count)
    place = int(places[0])
    x, y = grid.points[place].tolist()
    return Agreement(
        count,
        f"{len(places)} differ, first location {place} (level {int(grid.level[place])}, x {x:g}, y {y:g}): "
        f"{our_name} says {_word(int(ours[place]))}, {their_name} {_word(int(theirs[place]))}",
    )


def _word(box: int) -> str:
    return {-1: "background", -2: "ignored", -3: "several boxes"}.get(box, f"box {box}")


def array(
    name: str, ours: Any, theirs: NDArray[Any], comparable: NDArray[np.bool_], tolerance: float, *, relative: bool
) -> Agreement:
    """A peer's array against the oracle's: integers equal, floats within `tolerance`.

    Args:
        comparable: ``[R]``; of an array over all locations, those alone are looked at.
        relative: the tolerance is a share of the number, as for losses.
    """
    mine = np.asarray(ours)
    if mine.shape != theirs.shape:
        return Agreement(Count(1, 0), f"{name}: the oracle has the shape {mine.shape}, the peer {theirs.shape}")
    rtol, atol = (tolerance, FLOOR) if relative else (0.0, tolerance)
    near = mine == theirs if theirs.dtype.kind in "iub" else np.isclose(mine, theirs, rtol=rtol, atol=atol)
    looked = comparable if theirs.shape == comparable.shape else np.ones(theirs.shape, np.bool_)
    wrong = np.argwhere(looked & ~near)
    count = Count(int(looked.sum()), int((looked & near).sum()))
    if not len(wrong):
        return Agreement(count)
    at = tuple(wrong[0].tolist())
    place = f"{name}[{', '.join(map(str, at))}]" if at else name
    many = f"{len(wrong)} of {count.compared} numbers differ, first " if count.compared > 1 else ""
    difference = f"{many}{place}: the oracle with the peer's conventions says {mine[at]:.7g}, the peer {theirs[at]:.7g}"
    return Agreement(count, difference)


def losses(title: str, ours: Mapping[str, Term], expected: Mapping[str, tuple[float, float]]) -> Agreement:
    """An assigner's loss terms against its oracle's: sums and counts."""
    if ours.keys() != expected.keys():
        return Agreement(
            Count(max(len(ours), len(expected)), len(ours.keys() & expected.keys())),
            f"{title} has the losses {sorted(ours)}, its oracle {sorted(expected)}",
        )
    differing = []
    for name, pair in expected.items():
        mine = tuple(float(part.detach()) for part in ours[name])
        if not np.allclose(mine, pair, rtol=LOSS_TOLERANCE, atol=FLOOR):
            stated, wanted = (f"{total:.7g} / {count:.7g}" for total, count in (mine, pair))
            differing.append(f"loss {name!r}: {title} says {stated}, its oracle {wanted}")
    count = Count(len(expected), len(expected) - len(differing))
    return Agreement(count, differing[0] if differing else None)
