"""What every verb prints with: one console, plain JSON, tables."""

from __future__ import annotations

import codecs
import json
import os
import re
import sys
from collections.abc import Collection, Iterable
from typing import IO, TYPE_CHECKING, Any

import click
from rich.console import Console, JustifyMethod
from rich.table import Table
from rich.text import Text

from harness.cli.console.streams import Stream
from harness.core.errors import is_text
from harness.core.files import dump

if TYPE_CHECKING:
    from harness.records.schema import CostPart, MetricsPart

PIPED_WIDTH = 200  # columns; a table in a file or a pipe must not be cut to 80

METRICS = ("AP", "AP50", "AP75", "APs", "APm", "APl")


class Stopped(click.ClickException):
    """A message for standard error as it is, and an exit code."""

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.exit_code = code  # type: ignore[misc]

    def show(self, file: IO[Any] | None = None) -> None:
        """Print the message, once under torchrun."""
        if first_process():
            click.echo(self.message, file=file, err=True)


def first_process() -> bool:
    """Whether this process speaks and writes: the only one, or rank 0 under torchrun."""
    return os.environ.get("RANK", "0") == "0"


def console(as_json: bool, *, files: bool = False) -> Console:
    """The console for people: standard output, or standard error where that belongs to JSON; silent off rank 0.

    Args:
        files: whether what the verb makes lies in files, so that little is lost where output cannot be written.
    """
    if files and isinstance(sys.stdout, Stream):
        sys.stdout.needed = False
    file = sys.stderr if as_json else sys.stdout
    plain: dict[str, Any] = {"highlight": False, "markup": False, "emoji": False}  # names may hold brackets and colons
    screen = Console(file=file, quiet=not first_process(), **plain)
    if screen.is_dumb_terminal:  # no line can move there, so progress comes line by line, as in a log
        return Console(file=file, quiet=screen.quiet, force_terminal=False, **plain)
    if not screen.is_terminal:
        screen.width = PIPED_WIDTH
    return screen


def say(to: Console, text: str | Text) -> None:
    """One line as it is: no markup, no wrapping, so that commands and paths can be copied."""
    to.print(text if isinstance(text, Text) else Text(text), soft_wrap=True)


def say_left_out(problems: Iterable[str]) -> None:
    """What was not taken into account, on standard error: one line for each file that cannot be read."""
    for problem in problems:
        say(console(as_json=True), f"left out: {problem}")


def emit(value: object) -> None:
    """JSON on standard output, in ASCII where that is not UTF-8."""
    if not first_process():
        return
    text = dump(value)
    if isinstance(sys.stdout, Stream):
        sys.stdout.needed = True
    if codecs.lookup(getattr(sys.stdout, "encoding", None) or "utf-8").name != "utf-8" or not is_text(text):
        text = re.sub(r"[^\x00-\x7f]", lambda match: json.dumps(match[0])[1:-1], text)  # only strings hold any
    click.echo(text, nl=False)


def points(value: float | None, digits: int = 1) -> str:
    """A number for a table; a dash where it is undefined."""
    return "-" if value is None else f"{value:.{digits}f}"


def new_table(
    title: str | Text | None,
    columns: Iterable[str | Text],
    *,
    words: Collection[str] = ("assigner",),
    folded: Collection[str] = (),
    style: str | None = "dim",
) -> Table:
    """An empty table.

    Args:
        title: above it, to the left.
        columns: their headers. Numbers are set to the right.
        words: headers of columns that hold words, set to the left.
        folded: those whose cells may go on in a second line.
        style: of the title.
    """
    table = Table(title=title, title_justify="left", title_style=style)
    for name in columns:
        justify: JustifyMethod = "left" if name in words else "right"
        table.add_column(name, justify=justify, overflow="fold" if name in folded else "ellipsis")
    return table


def metrics_table(metrics: MetricsPart, cost: CostPart | None = None) -> Table:
    """AP by threshold and size, and what it cost."""
    cells = {name: points(metrics[name]) for name in METRICS}
    if cost is not None:
        cells |= {"images/s": points(cost.images_per_s), "memory MB": points(cost.peak_memory_mb, 0)}
    table = new_table("points, 0-100", cells)
    table.add_row(*cells.values())
    return table


def print_bins(to: Console, metrics: MetricsPart) -> None:
    """AP, recall and IoU of the objects by each of their attributes, a row per bin."""
    for attribute, bins in (metrics.bins or {}).items():
        columns = (attribute, "objects", "AP", "recall", "mean IoU")
        table = new_table(f"objects by {attribute.replace('_', ' ')}", columns, words=(attribute,))
        for interval, row in bins.items():
            numbers = (points(row.AP), points(row.recall), points(row.mean_iou, 3))
            table.add_row(Text(interval), str(row.count), *numbers)
        to.print(table)
