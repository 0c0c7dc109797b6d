"""The board and the gaps between its assigners, as tables."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from harness.comparison.board import Board, BoardEntry
from harness.core.text import counted
from harness.drawing.svg import DASH, Scale, number, signed
from harness.report import charts
from harness.report.cells import Cell, Column, Series, Table, estimate, missing, row, spoken
from harness.report.charts import Estimate
from harness.report.forests import SIZES
from harness.report.words import ranks


def main_table(board: Board, series: Series, anchor: str) -> Table:
    """The board: one row per assigner, best mean AP first.

    Args:
        anchor: beginning of the anchors that the provenance of each assigner has.
    """
    results = [estimate(entry.values("AP").values()) for entry in board.entries]
    scale = charts.cell_scale(filter(None, results))
    extended = board.kind == "extended"
    declared = Column("declared extras", "what it changes besides the assignment", kind="name", first="ascending")
    columns = (
        Column("rank", "the ranks that the assigner may hold, given which pairs are told apart", first="ascending"),
        *([declared] if extended else []),
        Column(
            "AP, 95 % interval", "mean over seeds of COCO's AP (IoU 0.50 to 0.95), in points", axis=charts.axis(scale)
        ),
        Column("group", "assigners that share a letter are not told apart", kind="letters", first="ascending"),
        Column("seeds", "runs that differ in their seed alone; leads to where they come from"),
        *(Column(name, words) for name, words in (("AP50", "AP at IoU 0.50"), ("AP75", "AP at IoU 0.75"))),
        *(Column(name, f"AP of {words}") for name, words in SIZES.items()),
        Column("step ms", "training step of the fastest run; the range in the tooltip", first="ascending"),
        Column("images/s", "in training, of the fastest run"),
        Column("memory MB", "peak, of the run that took least", first="ascending"),
        Column("own weights", "parameters of the assigner, used in training alone", first="ascending"),
    )
    groups = sorted(set("".join(board.letters)))
    rows = []
    for entry, rank, letters, result in zip(board.entries, ranks(board), board.letters, results, strict=True):
        cells = [
            _rank(*rank) if result is not None else missing("no AP"),
            *([Cell(extras(entry), kind="name", sort=extras(entry))] if extended else []),
            _result(entry, result, scale, series),
            Cell(_aligned(letters, groups), kind="letters", sort=letters) if result is not None else missing("no AP"),
            _seeds(entry, f"{anchor}-{series[entry.name]}"),
            *(_metric(entry, name) for name in ("AP50", "AP75", *SIZES)),
            _cost(entry, "step_ms", 0), _cost(entry, "images_per_s", 1), _cost(entry, "peak_memory_mb", 0),
            _cost(entry, "assigner_parameters", 0),
        ]  # fmt: skip
        rows.append(row(entry.name, series, cells))
    return Table(f"{board.kind} board", columns, tuple(rows))


def extras(entry: BoardEntry) -> str:
    """What the runs of an entry declare besides the assignment."""
    declared = entry.records[-1].declares.changes
    return ", ".join(f"{name.replace('_', ' ')}: {_plain(value)}" for name, value in sorted(declared.items()))


def gap_table(board: Board, series: Series) -> Table | None:
    """Every pair: row minus column, in points of AP. None where no pair shares a seed."""
    if not board.gaps:
        return None
    heads, rows = board.ranked[1:], []
    for at, entry in enumerate(board.ranked[:-1]):
        empty = [Cell("", kind="empty")] * at
        cells = [*empty, *(_gap(board, entry.name, other.name) for other in heads[at:])]
        rows.append(row(entry.name, series, cells))
    columns = tuple(Column(entry.name, kind="name") for entry in heads)
    return Table("gaps in AP between pairs of assigners", columns, tuple(rows))


def _gap(board: Board, a: str, b: str) -> Cell:
    gap = board.gaps.get((a, b))
    if gap is None:
        return missing(f"{a} and {b} share no seed")
    words = signed(gap.mean)
    about = f"{a} minus {b}: {words} on {counted(gap.seeds, 'shared seed')}"
    if gap.low is None or gap.high is None or gap.p is None:
        return Cell(words, f"{about}; no interval: one shared seed and no details", kind="number tie")
    apart = (a, b) in board.told_apart
    sources = [
        f"{name} {number(se, 2)}" for name, se in (("seeds", gap.se_seed), ("images", gap.se_image)) if se is not None
    ]
    title = f"{about}, p = {number(gap.p, 4)} before correction; standard error from {', '.join(sources)}"
    kind = "number apart" if apart else "number tie"
    return Cell(words + (" *" if apart else ""), title, small=f"{signed(gap.low)} to {signed(gap.high)}", kind=kind)


def _result(entry: BoardEntry, result: Estimate | None, scale: Scale, series: Series) -> Cell:
    if result is None:
        return missing("no object defines AP")
    small = "one seed"
    if result.low is not None and result.high is not None:
        small = f"{number(result.low, 1)}{DASH}{number(result.high, 1)}"
    words = f"{entry.name}: {spoken(result)}"
    chart = charts.interval(result, scale, series[entry.name], words)
    return Cell(number(result.mean, 1), words, result.mean, small, chart, kind="number plot")


def _aligned(letters: str, groups: Sequence[str]) -> str:
    """Each letter in a place of its own, so that a group runs down the column in a line."""
    return "".join(letter if letter in letters else " " for letter in groups).rstrip()


def _rank(first: int, last: int) -> Cell:
    return Cell(str(first) if first == last else f"{first}{DASH}{last}", sort=float(first))


def _seeds(entry: BoardEntry, anchor: str) -> Cell:
    words = f"{counted(len(entry.seeds), 'run')}: seeds {', '.join(map(str, entry.seeds))}"
    return Cell(str(len(entry.seeds)), words, float(len(entry.seeds)), anchor=anchor)


def _metric(entry: BoardEntry, name: str) -> Cell:
    result = estimate(entry.values(name).values())
    if result is None:
        return missing(f"no object of the validation images defines {name}")
    return Cell(number(result.mean, 1), f"{name}: {spoken(result)}", result.mean)


def _cost(entry: BoardEntry, name: str, digits: int) -> Cell:
    value = entry.cost(name)
    if value is None:
        return missing("not measured on this device")
    known = [cost for record in entry.records if (cost := record.cost[name]) is not None]
    low, high = number(min(known), digits), number(max(known), digits)
    title = f"{low} to {high} over {counted(len(known), 'run')}" if low != high else ""
    words = f"{value:,.0f}".replace(",", " ") if digits == 0 else number(value, digits)
    return Cell(words, title, value)


def _plain(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
