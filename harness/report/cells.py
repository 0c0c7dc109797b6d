"""The parts of the report's tables: cells with their words, a reason or more in a tooltip, and a key to sort by."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import groupby

from markupsafe import Markup

from harness.comparison.intervals import mean_interval
from harness.drawing.svg import DASH, key, number
from harness.report.charts import Estimate

Series = Mapping[str, int]  # the mark of each entry, by name; the same throughout a report


@dataclass(frozen=True)
class Cell:
    """One cell."""

    words: str  # the text; a dash where there is no value
    title: str = ""  # the tooltip: the reason for a dash, or the numbers behind the words
    sort: float | str | None = None  # what a column is ordered by; None where there is no value
    small: str = ""  # further text, set small
    chart: Markup | None = None  # drawn before the words
    kind: str = "number"  # class of the cell
    share: float | None = None  # depth of the tint, 0 to 1, where the cell is tinted
    anchor: str = ""  # what the words lead to, on this page


@dataclass(frozen=True)
class Column:
    """A column's head."""

    words: str  # the name
    title: str = ""  # what it is
    kind: str = "number"  # or ``name``, ``letters``
    axis: Markup | None = None  # the scale of the charts in it
    note: str = ""  # set small below the name
    first: str = "descending"  # the order that the first click gives
    group: str = ""  # what this column and its neighbours have in common, in a line above


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
    interval = mean_interval(list(known))
    return Estimate(math.fsum(known) / len(known), interval.low, interval.high, known)


def spoken(result: Estimate, digits: int = 1) -> str:
    """An estimate in words."""
    if result.low is None or result.high is None:
        return f"{number(result.mean, digits)} (one seed)"
    seeds = ", ".join(number(value, digits) for value in result.values)
    interval = f"95 % interval {number(result.low, digits)} to {number(result.high, digits)}"
    return f"{number(result.mean, digits)}, {interval}; seeds {seeds}"


def row(name: str, series: Series, cells: Iterable[Cell]) -> TableRow:
    """A row with the mark of its assigner; one that is on no board has none."""
    return TableRow(name, key(series[name]) if name in series else Markup(""), tuple(cells))
