"""Tables on a narrow terminal: numbers are never cut, and what matters least is left out by name."""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy

from rich.console import Console, RenderableType
from rich.measure import Measurement
from rich.table import Column, Table
from rich.text import Text

from harness.cli.console.output import new_table, points, say
from harness.records.schema import METRICS, CostPart, MetricsPart

TEXT_LEAST = 14  # characters to which a column of words may be folded
PADDING = 3  # characters of a column beside its cells


def show(screen: Console, table: Table, spare: Sequence[str] = (), whole: str = "--json") -> None:
    """Print a table; where it does not fit, without as many of its `spare` columns as needed, and say without which.

    Where it still is too wide, headers wrap and words fold, but numbers (what is set to the right) stay whole.

    Args:
        table: with headers as plain text, in the default style of edges and padding.
        spare: headers, the one to leave out first coming first.
        whole: what has all columns, to be named.
    """
    left_out: list[str] = []
    if not fits(screen, table):
        for name in spare:
            if 1 + sum(_least_of(screen, column) + PADDING for column in table.columns) <= screen.width:
                break
            table = copy(table)
            table.columns = [column for column in table.columns if str(column.header) != name]
            left_out.append(name)
        for column in table.columns:
            if column.justify == "right":
                column.width = _least_of(screen, column)
            else:
                column.overflow = "fold"
    screen.print(table)
    if left_out:
        line = f"{screen.width} columns are too few for {', '.join(left_out)}; {whole} has them"
        say(screen, Text(line, style="dim"))


def show_metrics(screen: Console, metrics: MetricsPart, cost: CostPart | None = None) -> None:
    """AP by threshold and size, with what it cost, and a row for each bin of the objects' attributes."""
    cells = {name: points(metrics[name]) for name in METRICS}
    if cost is not None:
        cells |= {"images/s": points(cost.images_per_s), "memory MB": points(cost.peak_memory_mb, 0)}
    show(screen, new_table("points, 0-100", cells, [cells.values()]))
    for attribute, bins in (metrics.bins or {}).items():
        columns = (attribute, "objects", "AP", "recall", "mean IoU")
        rows = [
            (Text(interval), str(row.count), points(row.AP), points(row.recall), points(row.mean_iou, 3))
            for interval, row in bins.items()
        ]
        screen.print(new_table(f"objects by {attribute.replace('_', ' ')}", columns, rows, words=(attribute,)))


def fits(screen: Console, table: Table) -> bool:
    """Whether the table can be shown as it is."""
    return _widest(screen, table) <= screen.width


def _widest(screen: Console, shown: RenderableType) -> int:
    """Characters that it takes where there is room."""
    return Measurement.get(screen, screen.options.update(width=10_000), shown).maximum


def _least_of(screen: Console, column: Column) -> int:
    """The fewest characters that show it: whole numbers under a wrapped header, or folded words."""
    cells = [_widest(screen, cell) for cell in column.cells]
    if column.justify != "right":
        return min(TEXT_LEAST, max([len(str(column.header)), *cells]))
    return max([*(len(word) for word in str(column.header).split()), *cells])
