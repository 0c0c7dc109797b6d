"""``harness leaderboard``: rebuild the table from the records, show it, or hold it against them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.table import Table
from rich.text import Text

from harness.cli.console.options import json_option, results_option
from harness.cli.console.output import METRICS, console, emit, first_process, points, say
from harness.cli.console.tables import show
from harness.core.errors import Unwritable, UserError, did_you_mean
from harness.records.store import ResultsStore

if TYPE_CHECKING:
    import pandas as pd
    from rich.console import Console

    from harness.comparison.board import Board
    from harness.records.schema import RunRecord

# The columns that a narrow terminal does without, the first of them first. What a run declares tells boards apart.
SPARE = ("date", "memory MB", "step ms", "images/s", "APl", "APm", "APs", "declares")


@click.command("leaderboard")
@click.option("--check", is_flag=True, help="Write nothing; fail where leaderboard.csv differs from the records.")
@click.option("--summary", is_flag=True, help="Show means, intervals and rank groups, as Markdown; write nothing.")
@click.option("--variants", is_flag=True, help="In the summary, assigners with other options than their defaults too.")
@click.option("--picture", is_flag=True, help="Draw the boards of the summary, as SVG and PNG under boards/.")
@click.option("--protocol", metavar="NAME|HASH", help="Show the rows of one protocol.")
@results_option
@json_option
def command(
    check: bool, summary: bool, variants: bool, picture: bool, protocol: str | None, results: Path, as_json: bool
) -> None:
    """Rebuild leaderboard.csv from the records and show it, best AP first; where it cannot be written, it is shown.

    \b
    Examples:
      harness leaderboard
      harness leaderboard --protocol shapes-cpu --json
      harness leaderboard --summary > table.md
      harness leaderboard --picture --protocol shapes-board
      harness leaderboard --check
    """
    if (summary or picture) and (check or as_json):
        raise UserError("--summary and --picture go alone: --check and --json answer something else")
    if variants and not (summary or picture):
        raise UserError("--variants belongs to --summary or --picture; without them every run has its row")
    screen = console(as_json)
    store = ResultsStore(results)
    records, problems = store.load_all()
    for problem in problems:
        say(console(as_json=True), f"left out: {problem}")
    if not store.runs_dir.is_dir():
        raise UserError(
            f"no runs under {store.runs_dir}; `harness run --assigner iqdet` makes one, --results DIR looks elsewhere"
        )

    from harness.records.leaderboard import check_leaderboard, leaderboard

    table = _choose(leaderboard(records), protocol)
    if summary or picture:
        shown = {*table["run_id"]}
        _boards(store, [run for run in records if run.run_id in shown], summary, variants, picture)
        return
    if check:
        check_leaderboard(store)
        say(screen, f"{store.root / 'leaderboard.csv'} agrees with {len(records)} records")
    elif first_process():
        _write(screen, store)
    plain = table.astype(object).where(table.notna(), None)
    rows = [{str(key): value for key, value in row.items()} for row in plain.to_dict("records")]
    if as_json:
        emit(rows)
    elif not check:
        for shown_table in _tables(rows):
            show(screen, shown_table, SPARE, "leaderboard.csv")


def _boards(store: ResultsStore, records: list[RunRecord], summary: bool, variants: bool, picture: bool) -> None:
    """Boards drawn into files, or as Markdown on standard output."""
    from harness.comparison.markdown import shown_parts, summary_of
    from harness.drawing.charts import need_matplotlib

    if picture:
        need_matplotlib("--picture")
    chosen = shown_parts(_boards_of(store, records), variants=variants)
    for board in chosen if picture else ():
        _draw(store, board)
    if summary:
        click.echo(summary_of(chosen), nl=False)


def _boards_of(store: ResultsStore, records: list[RunRecord]) -> list[Board]:
    """With the details at hand; those that cannot be read are named."""
    from harness.comparison.board import boards
    from harness.records.details import load_details

    details, broken = load_details(store, [record.run_id for record in records])
    for problem in broken:
        say(console(as_json=True), f"left out: {problem}")
    return boards(records, details)


def _draw(store: ResultsStore, board: Board) -> None:
    from harness.comparison.board_picture import draw, file_name
    from harness.drawing.charts import save

    if not any(board.letters):
        return  # no entry has an AP
    place = store.root / "boards" / file_name(board)
    save(draw(board), place)
    say(console(as_json=True), f"picture {place}.svg and .png")


def _write(screen: Console, store: ResultsStore) -> None:
    """Write the table where that is possible; of a folder that is only to be read it is shown all the same."""
    from harness.records.leaderboard import write_leaderboard

    try:
        say(screen, f"wrote {write_leaderboard(store)}")
    except Unwritable as error:
        say(console(as_json=True), f"shown but not written: {error}")


def _choose(table: pd.DataFrame, protocol: str | None) -> pd.DataFrame:
    if protocol is None:
        return table
    chosen = table[(table["protocol"] == protocol) | (table["protocol_hash"] == protocol)]
    if chosen.empty:
        known = sorted({*table["protocol"]})
        raise UserError(
            f"no run under protocol {protocol!r}{did_you_mean(protocol, known)}; known: {', '.join(known) or 'none'}"
        )
    return chosen


def _tables(rows: list[dict[str, Any]]) -> list[Table]:
    """One table for each protocol and data set: only rows of the same one may be compared."""
    boards: dict[tuple[str, ...], Table] = {}
    for row in rows:
        key = tuple(row[name] for name in ("protocol", "protocol_hash", "data", "data_hash"))
        if key not in boards:
            boards[key] = _board(*key)
        cost = (points(row["images_per_s"]), points(row["step_ms"]), points(row["peak_memory_mb"], 0))
        who = (Text(row["assigner"]), Text(row["parameters"]), Text(row["declares"]), str(row["seed"]))
        boards[key].add_row(*who, *(points(row[name]) for name in METRICS), *cost, row["date"])
    return list(boards.values())


def _board(protocol: str, protocol_hash: str, data: str, data_hash: str) -> Table:
    title = Text(f"protocol {protocol} ({protocol_hash}), data {data} ({data_hash})")
    table = Table(title=title, title_justify="left", title_style="bold")
    table.add_column("assigner")
    table.add_column("parameters", overflow="fold")
    table.add_column("declares", overflow="fold")
    for name in ("seed", *METRICS, "images/s", "step ms", "memory MB", "date"):
        table.add_column(name, justify="right")
    return table
