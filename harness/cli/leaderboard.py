"""``harness leaderboard``: rebuild the table from the records, show it, or hold it against them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.table import Table
from rich.text import Text

from harness.cli.console.options import json_option, option, results_option
from harness.cli.console.output import console, emit, first_process, new_table, points, say, say_left_out
from harness.cli.console.tables import show
from harness.core.errors import Unwritable, UserError, did_you_mean
from harness.records.schema import METRICS, RunRecord
from harness.records.store import ResultsStore

if TYPE_CHECKING:
    import pandas as pd


# The columns that a narrow terminal does without, the first of them first. What a run declares tells boards apart.
SPARE = ("date", "memory MB", "step ms", "images/s", "APl", "APm", "APs", "declares")


@click.command("leaderboard")
@option("--check", is_flag=True, help="Write nothing; fail where leaderboard.csv differs from the records.")
@option("--summary", is_flag=True, help="Show means, intervals and rank groups, as Markdown; write nothing.")
@option("--variants", is_flag=True, help="In the summary, assigners with other options than their defaults too.")
@option("--picture", is_flag=True, help="Draw the boards of the summary, as SVG and PNG under boards/.")
@option("--protocol", metavar="NAME|HASH", help="Show the rows of one protocol.")
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
    say_left_out(problems)
    if not store.runs_dir.is_dir():
        raise UserError(
            f"no runs under {store.runs_dir}; `harness run --assigner iqdet` makes one, --results DIR looks elsewhere"
        )

    from harness.records.leaderboard import check_leaderboard, leaderboard, write_leaderboard

    table = _choose(leaderboard(records), protocol)
    if summary or picture:
        shown = {*table["run_id"]}
        _boards(store, [run for run in records if run.run_id in shown], summary, variants, picture)
        return
    if check:
        check_leaderboard(store)
        say(screen, f"{store.root / 'leaderboard.csv'} agrees with {len(records)} records")
    elif first_process():
        try:
            say(screen, f"wrote {write_leaderboard(store)}")
        except Unwritable as error:  # of a folder that is only to be read the table is shown all the same
            say(console(as_json=True), f"shown but not written: {error}")
    plain = table.astype(object).where(table.notna(), None)
    rows = [{str(key): value for key, value in row.items()} for row in plain.to_dict("records")]
    if as_json:
        emit(rows)
    elif not check:
        for shown_table in _tables(rows):
            show(screen, shown_table, SPARE, "leaderboard.csv")


def _boards(store: ResultsStore, records: list[RunRecord], summary: bool, variants: bool, picture: bool) -> None:
    """Boards drawn into files, or as Markdown on standard output."""
    from harness.comparison.board import boards
    from harness.comparison.board_picture import draw, file_name
    from harness.comparison.markdown import shown_parts, summary_of
    from harness.drawing.charts import need_matplotlib, save
    from harness.records.details import load_details

    if picture:
        need_matplotlib("--picture")
    details, broken = load_details(store, [record.run_id for record in records])
    say_left_out(broken)
    chosen = shown_parts(boards(records, details), variants=variants)
    for board in chosen if picture else ():
        if any(board.letters):  # else no entry has an AP
            place = store.root / "boards" / file_name(board)
            save(draw(board), place)
            say(console(as_json=True), f"picture {place}.svg and .png")
    if summary:
        click.echo(summary_of(chosen), nl=False)


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
    words, folded = ("assigner", "parameters", "declares"), ("parameters", "declares")
    columns = (*words, "seed", *METRICS, "images/s", "step ms", "memory MB", "date")
    boards: dict[str, list[tuple[str | Text, ...]]] = {}
    for row in rows:
        title = "protocol {protocol} ({protocol_hash}), data {data} ({data_hash})".format_map(row)
        cost = (points(row["images_per_s"]), points(row["step_ms"]), points(row["peak_memory_mb"], 0))
        metrics = (points(row[name]) for name in METRICS)
        cells = (*(Text(row[name]) for name in words), str(row["seed"]), *metrics, *cost, row["date"])
        boards.setdefault(title, []).append(cells)
    return [
        new_table(Text(title), columns, board, words=words, folded=folded, style="bold")
        for title, board in boards.items()
    ]
