"""``harness ls``: what there is to run, what each assigner is, and what has run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from assigners.registry import catalogue, find
from assigners.registry.bibliography import cited, papers
from assigners.registry.description import describe
from harness.cli.console.options import json_option, option, results_option
from harness.cli.console.output import console, emit, new_table, points, say, say_left_out
from harness.core.errors import UserError, did_you_mean
from harness.data.sources import sources
from harness.protocol.protocol import builtin_protocols, load_protocol
from harness.records.store import ResultsStore

Rows = list[dict[str, Any]]


@click.command("ls")
@click.argument("what", nargs=-1, metavar="[assigners|protocols|data|runs|NAME]...")
@option("--bibtex", is_flag=True, help="The papers of the assigners called NAME, or of all, as BibTeX.")
@results_option
@json_option
def command(what: tuple[str, ...], bibtex: bool, results: Path, as_json: bool) -> None:
    """List assigners, protocols, data sets and runs; all of them without an argument.

    NAME is an assigner: its rule, its options with their defaults and symbols, what it needs and declares, and where
    it departs from its authors' code.

    \b
    Examples:
      harness ls
      harness ls assigners
      harness ls iqdet
      harness ls --bibtex atss paa > papers.bib
      harness ls runs --results elsewhere --json
    """
    screen = console(as_json)
    if bibtex:
        entries = cited(what)
        if as_json:
            emit(entries)
        else:
            say(screen, "\n\n".join(entries.values()))
        return
    names = [entry.name for entry in catalogue()]
    for word in what:
        if word not in _LISTS and word not in names:
            lists = ", ".join(_LISTS)
            raise UserError(
                f"cannot list {word!r}{did_you_mean(word, [*_LISTS, *names])}; known: {lists}, or an assigner's name"
            )
    listed: dict[str, Any] = {
        word: _LISTS[word](results) if word in _LISTS else _assigner(word) for word in what or _LISTS
    }
    if as_json:
        emit(listed[what[0]] if len(what) == 1 else listed)
        return
    for word, content in listed.items():
        if word not in _LISTS:
            _print_assigner(screen, content)
        else:
            screen.print(_table(word, content) if content else Text(f"{word}: none yet", style="dim"))


def _runs(results: Path) -> Rows:
    records, problems = ResultsStore(results).load_all()
    say_left_out(problems)
    return [
        {"run_id": r.run_id, "data": r.data.title, "AP": r.metrics.AP, "AP50": r.metrics.AP50, "created": r.created}
        for r in records
    ]


_LISTS: dict[str, Callable[[Path], Rows]] = {
    "assigners": lambda _: [{"name": e.name, "title": e.title, "paper": e.paper, "year": e.year} for e in catalogue()],
    "protocols": lambda _: [
        {"name": name, "hash": load_protocol(name).digest, "note": note} for name, note in builtin_protocols().items()
    ],
    "data": lambda _: [{"spec": source.spec, "what": source.what} for source in sources()],
    "runs": _runs,
}


def _assigner(name: str) -> dict[str, Any]:
    entry = find(name)
    about = asdict(entry) | asdict(describe(entry)) | {"bibtex": papers().get(entry.cite)}
    return {key: value for key, value in about.items() if key != "cite"}


def _print_assigner(screen: Console, about: dict[str, Any]) -> None:
    heading = ", ".join(str(part) for part in (about["paper"], about["year"]) if part)
    screen.print(Text.assemble((about["name"], "bold"), f": {about['title']}"))
    say(screen, " - ".join(part for part in (heading, about["target"]) if part))
    for paragraph in about["rule"]:
        screen.print(Padding(Text(paragraph), (1, 0, 0, 0)))
    declares = "; ".join(f"{key}={value}" for key, value in about["declares"].items())
    screen.print()
    say(screen, f"needs: {', '.join(about['needs']) or 'nothing but the boxes'}")
    say(screen, f"declares: {declares or 'nothing besides the assignment'}")
    screen.print(_table("options", about["options"]) if about["options"] else Text("no options", style="dim"))
    say(screen, "besides, as every assigner: negatives=all|random|ohem, negative_ratio=3.0, negative_count=16")
    if about["departures"]:
        screen.print("departures from the authors' code:")
    for item in about["departures"]:
        screen.print(Padding(Text(f"* {item}"), (0, 0, 0, 2)))
    screen.print()


def _table(name: str, rows: Rows) -> Table:
    words = [column for column in rows[0] if not column.startswith("AP")]
    cells = [
        [Text(points(v) if k.startswith("AP") else "" if v is None else str(v)) for k, v in row.items()] for row in rows
    ]
    return new_table(name, rows[0], cells, words=words, folded=[*rows[0]], style="bold")
