"""``harness ls``: what there is to run, and what has run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
from rich.table import Table
from rich.text import Text

from assigners.registry import catalogue
from harness.cli.output import console, emit, json_option, points, results_option, say
from harness.data import SOURCES
from harness.errors import UserError, did_you_mean
from harness.protocol import builtin_protocols, load_protocol
from harness.store import ResultsStore

Rows = list[dict[str, Any]]


@click.command("ls", short_help="Assigners, protocols, data sets, runs.")
@click.argument("what", required=False, metavar="[assigners|protocols|data|runs]")
@results_option
@json_option
def command(what: str | None, results: Path, as_json: bool) -> None:
    """List assigners, protocols, data sets and runs; all of them without an argument.

    \b
    Examples:
      harness ls
      harness ls assigners
      harness ls runs --results elsewhere --json
    """
    screen = console(as_json)
    if what is not None and what not in _LISTS:
        raise UserError(f"cannot list {what!r}{did_you_mean(what, _LISTS)}; known: {', '.join(_LISTS)}")
    listed = {name: _LISTS[name](results) for name in ([what] if what else _LISTS)}
    for problem in ResultsStore(results).load_all()[1] if "runs" in listed else ():
        say(console(as_json=True), f"left out: {problem}")
    if as_json:
        emit(listed[what] if what else listed)
        return
    for name, rows in listed.items():
        screen.print(_table(name, rows) if rows else Text(f"{name}: none yet", style="dim"))


def _assigners(_: Path) -> Rows:
    return [{"name": e.name, "title": e.title, "paper": e.paper, "year": e.year} for e in catalogue()]


def _protocols(_: Path) -> Rows:
    return [
        {"name": name, "hash": load_protocol(name).digest, "note": note} for name, note in builtin_protocols().items()
    ]


def _data(_: Path) -> Rows:
    return [{"spec": spec, "what": what} for spec, what in SOURCES.items()]


def _runs(results: Path) -> Rows:
    return [
        {
            "run_id": record["run_id"],
            "data": record["data"]["title"],
            "AP": record["metrics"]["AP"],
            "AP50": record["metrics"]["AP50"],
            "created": record["created"],
        }
        for record in ResultsStore(results).load_all()[0]
    ]


_LISTS: dict[str, Callable[[Path], Rows]] = {
    "assigners": _assigners,
    "protocols": _protocols,
    "data": _data,
    "runs": _runs,
}


def _table(name: str, rows: Rows) -> Table:
    table = Table(title=name, title_justify="left", title_style="bold")
    for column in rows[0]:
        table.add_column(column, justify="right" if column.startswith("AP") else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text(points(v) if k.startswith("AP") else "" if v is None else str(v)) for k, v in row.items()))
    return table
