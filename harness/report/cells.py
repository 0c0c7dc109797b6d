"""The parts of the report's tables: cells with their words, a reason or more in a tooltip, and a key to sort by."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import groupby

from markupsafe import Markup

from harness.comparison.intervals import mean_interval
from harness.drawing.svg import DASH, MINUS, key, number
from harness.report.charts import Estimate

Series = Mapping[str, int]  # the mark of each entry, by name; the same throughout a report


@dataclass(frozen=True)
class Cell:
    """One cell.

    Attributes:
        words: the text; a dash where there is no value.
        title: the tooltip: the reason for a dash, or the numbers behind the words.
        sort: what a column is ordered by, None where there is no value.
        small: further text, set small.
        chart: drawn before the words.
        kind: class of the cell.
        share: depth of the tint, 0 to 1, where the cell is tinted.
        anchor: what the words lead to, on this page.
    """

    words: str
    title: str = ""
    sort: float | str | None = None
    small: str = ""
    chart: Markup | None = None
    kind: str = "number"
    share: float | None = None
    anchor: str = ""


@dataclass(frozen=True)
class Column:
    """A column's head.

    Attributes:
        words: the name.
        title: what it is.
        kind: ``number`` or ``name``.
        axis: the scale of the charts in it.
        note: set small below the name.
        first: the order that the first click gives.
        group: what this column and its neighbours have in common, in a line above.
    """

    words: str
    title: str = ""
    kind: str = "number"
    axis: Markup | None = None
    note: str = ""
    first: str = "descending"
    group: str = ""


@dataclass(frozen=True)
class TableRow:
    """A row's head, its mark and its cells."""

    name: str
    key: Markup
    cells: tuple[Cell, ...]


@dataclass(frozen=True)
class Table:
    """A table; `caption` names it for those who cannot see what surrounds it, `corner` the column of the row heads."""

    caption: str
    columns: tuple[Column, ...]
    rows: tuple[TableRow, ...]
    note: str = ""
    corner: str = "assigner"

    @property
    def groups(self) -> list[tuple[str, int]]:
        """Runs of columns of one group, each with its length; empty where no column has a group."""
        runs = [(name, len(list(columns))) for name, columns in groupby(self.columns, key=lambda column: column.group)]
        return runs if any(name for name, _ in runs) else []


def missing(reason: str) -> Cell:
    """A dash that tells why."""
    return Cell(DASH, reason, kind="number none")


def estimate(values: Iterable[float]) -> Estimate | None:
    """A mean over seeds with its interval, or None for no value."""
    known = tuple(value for value in values if math.isfinite(value))
    if not known:
        return None
    made = mean_interval(list(known))
    return Estimate(math.fsum(known) / len(known), made.low, made.high, known)


def spoken(one: Estimate, digits: int = 1) -> str:
    """An estimate in words."""
    if one.low is None or one.high is None:
        return f"{number(one.mean, digits)} (one seed)"
    seeds = ", ".join(number(value, digits) for value in one.values)
    interval = f"95 % interval {number(one.low, digits)} to {number(one.high, digits)}"
    return f"{number(one.mean, digits)}, {interval}; seeds {seeds}"


def signed(value: float, digits: int = 1) -> str:
    """A difference with its sign."""
    words = number(value, digits)
    return words if words.startswith(MINUS) or not words.strip("0.") else f"+{words}"


def row(name: str, series: Series, cells: Iterable[Cell]) -> TableRow:
    """A row with the mark of its assigner; one that is on no board has none."""
    return TableRow(name, key(series[name]) if name in series else Markup(""), tuple(cells))
