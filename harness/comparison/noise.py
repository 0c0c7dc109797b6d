"""The noise floor of a board: how far runs of one assigner lie apart, and which gaps its pairs can show."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from harness.comparison.board import METRIC, Board
from harness.comparison.intervals import smallest_gap

FEWEST = 3  # seeds of which a standard deviation is told


@dataclass(frozen=True)
class Noise:
    """Of one board, in AP, by assigners and pairs with `FEWEST` (shared) seeds at least."""

    single: float  # standard deviation over the seeds of one assigner, the median
    longest: tuple[str, int, float]  # name and seeds of the assigner with most of them, and its standard deviation
    paired: float | None  # standard deviation of seed-paired differences, the median
    half: float | None  # half the 95 % interval of a gap, the median
    widest: float | None  # the largest of these
    smallest: float | None  # the gap that a pair finds in four of five cases, images included where details are at hand

    def __str__(self) -> str:
        """The noise in one line of text."""
        name, seeds, sd = self.longest
        text = f"Noise: sd over seeds {self.single:.2f} AP (`{name}`, {seeds} seeds: {sd:.2f})"
        if self.paired is None:
            return text + "."
        return (
            f"{text}, of seed-paired differences {self.paired:.2f}; 95 % interval of a gap ± {self.half:.1f}, of the "
            f"widest ± {self.widest:.1f}; a gap of {self.smallest:.1f} is found in four of five cases."
        )


def noise(board: Board) -> Noise | None:
    """None where no assigner has `FEWEST` seeds."""
    values = {entry.name: [*entry.values(METRIC).values()] for entry in board.entries}
    known = {name: float(np.std(aps, ddof=1)) for name, aps in values.items() if len(aps) >= FEWEST}
    if not known:
        return None
    most = max(known, key=lambda name: (len(values[name]), name))
    pairs = [gap for gap in board.gaps.values() if gap.seeds >= FEWEST]
    halves = [(gap.high - gap.low) / 2 for gap in pairs if gap.low is not None and gap.high is not None]
    return Noise(
        single=float(np.median(list(known.values()))),
        longest=(most, len(values[most]), known[most]),
        paired=float(np.median([(gap.se_seed or 0.0) * math.sqrt(gap.seeds) for gap in pairs])) if pairs else None,
        half=float(np.median(halves)) if halves else None,
        widest=max(halves, default=None),
        smallest=smallest_gap(pairs),
    )
