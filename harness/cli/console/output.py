"""What every verb prints with: one console, plain JSON, tables of metrics, options that verbs share."""

from __future__ import annotations

import codecs
import json
import os
import re
import sys
from collections.abc import Mapping
from typing import IO, TYPE_CHECKING, Any

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from harness.cli.console.streams import Stream
from harness.core.errors import is_text
from harness.core.files import dump

if TYPE_CHECKING:
    from harness.records.schema import BinPart, CostPart, MetricsPart

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
    made = Console(file=file, quiet=not first_process(), **plain)
    if made.is_dumb_terminal:  # no line can move there, so progress comes line by line, as in a log
        return Console(file=file, quiet=made.quiet, force_terminal=False, **plain)
    if not made.is_terminal:
        made.width = PIPED_WIDTH
    return made


def say(to: Console, text: str | Text) -> None:
    """One line as it is: no markup, no wrapping, so that commands and paths can be copied."""
    to.print(text if isinstance(text, Text) else Text(text), soft_wrap=True)


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


def metrics_table(metrics: MetricsPart, cost: CostPart | None = None) -> Table:
    """AP by threshold and size, and what it cost."""
    table = Table(title="points, 0-100", title_justify="left", title_style="dim")
    cells = [(name, points(metrics[name])) for name in METRICS]
    if cost is not None:
        cells += [("images/s", points(cost.images_per_s)), ("memory MB", points(cost.peak_memory_mb, 0))]
    for name, _ in cells:
        table.add_column(name, justify="right")
    table.add_row(*(value for _, value in cells))
    return table


def bins_table(attribute: str, bins: Mapping[str, BinPart]) -> Table:
    """AP, recall and IoU of the objects of one attribute, a row per bin."""
    table = Table(title=f"objects by {attribute.replace('_', ' ')}", title_justify="left", title_style="dim")
    table.add_column(attribute)
    for name in ("objects", "AP", "recall", "mean IoU"):
        table.add_column(name, justify="right")
    for interval, row in bins.items():
        numbers = (points(row.AP), points(row.recall), points(row.mean_iou, 3))
        table.add_row(Text(interval), str(row.count), *numbers)
    return table
