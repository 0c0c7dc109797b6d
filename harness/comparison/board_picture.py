"""A board as a picture: AP of every seed and its mean, and what is between each assigner and one of them, by pairs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from harness.comparison.board import METRIC, Board, BoardEntry
from harness.comparison.intervals import Gap
from harness.comparison.noise import noise
from harness.core.files import slug
from harness.drawing.charts import INK, LETTER, SOFT, beside, colour, new_figure, styled
from harness.drawing.svg import MINUS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

REFERENCE = "center"  # that the gaps are to, where it is on the board; else the best


@styled
def draw(board: Board) -> Figure:
    """Best mean first, as in the tables; entries without an AP are left out, and there must be others."""
    entries = [(entry, group) for entry, group in zip(board.entries, board.letters, strict=True) if group]
    reference = next((entry for entry, _ in entries if entry.name == REFERENCE), entries[0][0])
    names = [entry.name for entry, _ in entries]
    floor = noise(board)
    legend = "dots: seeds; bars: 95 %; letters: who shares one is not told apart"
    notes = "\n".join((legend, *(str(floor).replace("`", "").split("; ") if floor is not None else ())))
    title = f"{METRIC} on {board.question.data} under {board.question.protocol}"
    figure = new_figure(9 + LETTER * max(map(len, names)), 1.8 + 0.26 * len(names), title, notes)
    first, second = figure.subplots(1, 2, sharey=True)
    first.set_yticks(range(len(names)), names, color=INK)
    first.set(ylim=(len(names) - 0.5, -0.5), xlabel=METRIC)
    second.set_xlabel(f"{METRIC} minus that of {reference.name}, seed by seed")
    second.axvline(0, color=INK, linewidth=1)
    for row, (entry, group) in enumerate(entries):
        _seeds(first, entry, row)
        if entry is not reference and (gap := _gap(board, entry, reference)) is not None:
            _difference(second, gap, row)
        beside(second, row, group, away=88, ink=SOFT)
    for axes in (first, second):
        axes.grid(visible=False, axis="y")
    return figure


def file_name(board: Board) -> str:
    """Of its picture, without an ending: protocol and data by name and hash, and what the board holds."""
    question = board.question
    kind = "" if board.kind == "fair" else "-extras"
    part = "-variants" if board.part == "variants" else ""
    protocol = slug(question.protocol.partition("+")[0])
    return f"board-{protocol}-{slug(question.data)}-{question.protocol_hash[:6]}{kind}{part}"


def _gap(board: Board, entry: BoardEntry, reference: BoardEntry) -> Gap | None:
    """Entry minus reference; the board has each pair once."""
    if gap := board.gaps.get((entry.name, reference.name)):
        return gap
    gap = board.gaps.get((reference.name, entry.name))
    return gap.turned() if gap else None


def _seeds(axes: Axes, entry: BoardEntry, row: int) -> None:
    values = [*entry.values(METRIC).values()]
    mean = sum(values) / len(values)
    axes.plot(mean, row, "|", color=colour(0), markersize=12, markeredgewidth=2.4)
    axes.plot(values, [row] * len(values), "o", color=INK, alpha=0.55, markeredgewidth=0)
    beside(axes, row, f"{mean:.1f}")


def _difference(axes: Axes, gap: Gap, row: int) -> None:
    spread = ""
    if gap.low is not None and gap.high is not None and gap.tested:
        axes.plot([gap.low, gap.high], [row, row], color=colour(1), linewidth=3, solid_capstyle="butt")
        spread = f" ± {(gap.high - gap.low) / 2:.1f}"
    axes.plot(gap.mean, row, "o", color=colour(1), markersize=5.5)
    beside(axes, row, f"{gap.mean:+.1f}{spread}".replace("-", MINUS))
