"""Tables of dots with whiskers: results by size, shape and kind of mistake, and over a search of protocols."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from harness.comparison.board import Board, BoardEntry
from harness.core.text import counted
from harness.drawing.svg import DASH, TIMES, number
from harness.report import charts
from harness.report.cells import Cell, Column, Series, Table, estimate, missing, row, spoken
from harness.report.words import listing
from harness.sweeps.execute import Search

SIZES = {"APs": "small, below 32² px", "APm": "medium, 32² to 96² px", "APl": "large, above 96² px"}
MEANINGS = {
    "eccentricity": "How far the centroid of an object lies from the middle of its box, in half boxes.",
    "centre_fill": "Which share of the middle quarter of its box an object covers.",
}
FIELDS = (("AP", "AP, points", 1), ("recall", "Recall, points", 1), ("mean_iou", "Mean IoU", 3))
WIDTH = 84.0  # px of a chart

Values = Mapping[tuple[str, str], Iterable[float | None]]


@dataclass(frozen=True)
class Group:
    """Columns on one scale."""

    words: str  # what they have in common, in a line above; may be empty
    heads: Sequence[tuple[str, str]]  # name and note of each column
    values: Values  # (assigner, column) -> one value per seed, None where there is none
    digits: int = 1  # after the point
    zero: bool = False  # the scale holds nought


def forest(caption: str, names: Sequence[str], groups: Sequence[Group], series: Series, note: str = "") -> Table | None:
    """A row per assigner, a dot with its whisker in each column. Columns without any value are left out.

    Returns:
        None where there is no value at all.
    """
    columns: list[Column] = []
    cells: dict[str, list[Cell]] = {name: [] for name in names}
    for group in groups:
        known = {key: estimate(v for v in values if v is not None) for key, values in group.values.items()}
        heads = [pair for pair in group.heads if any(known.get((name, pair[0])) for name in names)]
        scale = charts.cell_scale(filter(None, known.values()), zero=group.zero, width=WIDTH)
        for head, small in heads:
            columns.append(Column(head, axis=charts.axis(scale, WIDTH), note=small, group=group.words))
            for name in names:
                result = known.get((name, head))
                if result is None:
                    cells[name].append(missing("no run measured it"))
                    continue
                words = f"{name}, {group.words + ' ' if group.words else ''}{head}: {spoken(result, group.digits)}"
                chart = charts.interval(result, scale, series[name], words, WIDTH)
                shown = number(result.mean, group.digits)
                cells[name].append(Cell(shown, words, result.mean, chart=chart, kind="number plot"))
    rows = tuple(row(name, series, cells[name]) for name in names)
    return Table(caption, tuple(columns), rows, note) if columns else None


def size_tables(board: Board, series: Series) -> list[Table]:
    """AP by size, and AP, recall and IoU by every attribute that the objects carry."""
    names = [entry.name for entry in board.entries]
    values: Values = {(e.name, size): list(e.values(size).values()) for e in board.entries for size in SIZES}
    tables = [forest("AP by size", names, [Group("", list(SIZES.items()), values)], series)]
    counts: dict[str, dict[str, int]] = {}
    for entry in board.entries:
        for record in entry.records:
            for attribute, bins in (record.metrics.bins or {}).items():
                counts.setdefault(attribute, {}).update({name: part.count for name, part in bins.items()})
    for attribute, count_of in sorted(counts.items()):
        heads = [(name, counted(count, "object")) for name, count in count_of.items()]
        groups = []
        for field, words, digits in FIELDS:
            values = {(e.name, name): _binned(e, attribute, name, field) for e in board.entries for name in count_of}
            groups.append(Group(words, heads, values, digits))
        tables.append(forest(f"By {attribute.replace('_', ' ')}", names, groups, series, MEANINGS.get(attribute, "")))
    return [table for table in tables if table is not None]


def _binned(entry: BoardEntry, attribute: str, name: str, field: str) -> list[float | None]:
    parts = [(record.metrics.bins or {}).get(attribute, {}).get(name) for record in entry.records]
    return [getattr(part, field) for part in parts if part is not None]


def error_table(board: Board, series: Series) -> Table | None:
    """AP50 gained if all mistakes of one kind were repaired. None where no run has its details."""
    mistakes = {e.name: [details.errors for details in e.details if details is not None] for e in board.entries}
    names = [name for name, errors in mistakes.items() if errors]
    every = [errors for name in names for errors in mistakes[name]]
    kinds = list(dict.fromkeys(kind for errors in every for kind in errors.gain))
    values: Values = {(name, kind): [e.gain.get(kind) for e in mistakes[name]] for name in names for kind in kinds}
    heads = [(kind, _least_to_most(errors.counts.get(kind) for errors in every)) for kind in kinds]
    scores = sorted({errors.score for errors in every})
    note = (
        "Points of AP50 gained if all mistakes of one kind, and no others, were repaired, after TIDE (Bolya et al., "
        f"ECCV 2020). Below the heads: how many there are at scores from {listing(map(str, scores))} on, over the runs."
    )
    return forest(
        "AP50 gained by repairing one kind of mistake", names, [Group("", heads, values, zero=True)], series, note
    )


def _least_to_most(counts: Iterable[int | None]) -> str:
    known = [count for count in counts if count is not None]
    if not known:
        return ""
    return f"{min(known)}{DASH}{max(known)}" if min(known) < max(known) else str(min(known))


def search_tables(searches: Iterable[Search], series: Series) -> list[Table]:
    """Mean AP at each point of a search over numbers of the protocol, for each assigner."""
    tables = []
    for search in searches:
        keys = ", ".join(search.keys)
        heads = {point: f" {TIMES} ".join(f"{value:g}" for value in point) for point in search.points}
        values: Values = {
            (curve.name, heads[point]): list(aps.values())
            for curve in search.curves
            for point, aps in curve.aps.items()
        }
        spreads = [f"{c.name} {number(c.spread, 1)} (best at {heads[c.best]})" for c in search.curves]
        note = f"Highest mean minus lowest, points: {', '.join(spreads)}."
        edge = [curve.name for curve in search.curves if search.at_edge(curve)]
        if edge:
            note += f" Best at the edge of the search, so perhaps better beyond it: {listing(edge)}."
        caption = f"AP by {keys}: {search.data}, protocol {search.protocol}"
        names = [curve.name for curve in search.curves]
        tables.append(
            forest(caption, names, [Group(keys, [(head, "") for head in heads.values()], values)], series, note)
        )
    return [table for table in tables if table is not None]
