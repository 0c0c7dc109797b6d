"""What every verb prints with: one console, plain JSON, tables."""

from __future__ import annotations

import codecs
import json
import os
import re
import sys
from collections.abc import Collection, Iterable
from typing import IO, Any

import click
from rich.console import Console, JustifyMethod
from rich.table import Table
from rich.text import Text

from harness.cli.console.streams import Stream
from harness.core.errors import is_text
from harness.core.files import dump
from harness.core.launch import leave_word

PIPED_WIDTH = 200  # columns; a table in a file or a pipe must not be cut to 80


class Stopped(click.ClickException):
    """A message for standard error as it is, and an exit code."""

    def __init__(self, message: str, code: int, speaks: bool | None = None) -> None:
        super().__init__(message)
        self.exit_code = code  # type: ignore[misc]
        self.speaks = first_process() if speaks is None else speaks

    def show(self, file: IO[Any] | None = None) -> None:
        """Print the message, once under torchrun; of a process that another started, that one does."""
        if not leave_word(self.message) and self.speaks:
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
    rows: Iterable[Iterable[str | Text]] = (),
    *,
    words: Collection[str] = ("assigner",),
    folded: Collection[str] = (),
    style: str | None = "dim",
) -> Table:
    """A table; more rows may be added.

    Args:
        title: above it, to the left.
        columns: their headers. Numbers are set to the right.
        rows: a cell for each column.
        words: headers of columns that hold words, set to the left.
        folded: those whose cells may go on in a second line.
        style: of the title.
    """
    table = Table(title=title, title_justify="left", title_style=style)
    for name in columns:
        justify: JustifyMethod = "left" if name in words else "right"
        table.add_column(name, justify=justify, overflow="fold" if name in folded else "ellipsis")
    for cells in rows:
        table.add_row(*cells)
    return table
