"""``harness table``: a table of the paper, its runs and both side by side."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console
from rich.table import Table as Grid
from rich.text import Text

from harness.cli.output import console, emit, json_option, points, results_option, say
from harness.cli.sweep import Place as SweepPlace
from harness.cli.sweep import again, carry_out_aloud, parsed_seeds
from harness.cli.sweep_tables import duration
from harness.errors import UserError
from harness.estimate import Costs
from harness.protocol import load_protocol
from harness.store import ResultsStore
from harness.sweep import Result
from harness.sweep_request import SweepRequest, sweep_request
from harness.tables.planning import Place, PlannedRow, TablePlan, plan_table
from harness.tables.rows import table as find_table
from harness.tables.scales import scale as find_scale

if TYPE_CHECKING:
    from harness.plan import Choice, Tuning
    from harness.tables.outcome import Line


@click.command("table", short_help="A table of the paper: plan it, run it, put it beside the paper's.")
@click.argument("number", metavar="N")
@click.option(
    "--scale", "scale_name", default="cpu", show_default=True, metavar="paper|gpu-30min|cpu", help="Its size."
)
@click.option("--seeds", default="3", show_default=True, metavar="N|S,S,...", help="How many, or which.")
@click.option("--only", multiple=True, metavar="ROW,...", help="Run these rows alone; may be repeated.")
@click.option(
    "--data", "sources", multiple=True, metavar="SPEC",
    help="coco:DIR, voc:DIR or wider:DIR; once for each kind.  [default: shapes, but for paper and Table 8]",
)  # fmt: skip
@click.option("--rerun", metavar="never|failed|always", default="never", show_default=True, help="As for a sweep.")
@click.option("--dry-run", is_flag=True, help="Show what there is, what is missing and what it takes; run nothing.")
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True)
@click.option("--threads", type=click.IntRange(min=1), help="CPU threads of torch; results depend on it.")
@click.option("--workers", type=click.IntRange(min=0), help="Processes that load images; results do not depend on it.")
@results_option
@json_option
@click.pass_context
def command(
    ctx: click.Context,
    /,
    number: str,
    scale_name: str,
    seeds: str,
    only: tuple[str, ...],
    sources: tuple[str, ...],
    rerun: str,
    dry_run: bool,
    device: str,
    threads: int | None,
    workers: int | None,
    results: Path,
    as_json: bool,
) -> None:
    """Make one of the paper's Tables 1-8: the paper's numbers, ours with their interval, the gains, a verdict.

    Runs that have a record are not run again, whichever table or sweep they were run for; an interrupted table goes on
    with the same command. It is written to results/tables as Markdown and CSV, with empty cells for what is missing;
    the exit code is 1 as long as a run of the rows asked for is missing or failed.

    \b
    Examples:
      harness table 4
      harness table 5 --seeds 5 --only 1,3
      harness table 7 --scale paper --dry-run
      harness table 1 --scale paper --data coco:data/coco --seeds 1
      harness table 8 --data voc:VOCdevkit --data wider:data/wider --json
    """
    screen = console(as_json)
    table, scale = find_table(number), find_scale(scale_name)
    if os.environ.get("WORLD_SIZE", "1") != "1":
        raise UserError("harness table runs in one process; train a single run with torchrun, and make the table after")
    asked = _asked(seeds, rerun)
    store = ResultsStore(results)

    def runner(place: Place) -> SweepPlace:
        return SweepPlace(place.data or "", place.origin, results, device, threads, workers, screen)

    def command_of(place: Place, choice: Choice, tuning: Tuning, seed: int) -> str:
        return runner(place).command(choice, tuning, seed)

    rows = [name.strip() for text in only for name in text.split(",") if name.strip()]
    plan = plan_table(
        table, scale, asked.seeds, store, command_of, sources=sources, only=rows, rerun=asked.rerun, dry=dry_run
    )
    for problem in plan.problems:
        say(console(as_json=True), f"left out: {problem}")

    from harness.device import pick_device
    from harness.environment import environment

    costs = Costs(store.load_all()[0], environment(pick_device(device))["device"])
    if dry_run:
        _show_plan(screen, plan, costs)
        if as_json:
            emit({"rows": [_row_json(planned, costs, plan) for planned in plan.rows]})
        return
    ended = [
        result
        for place, part in plan.parts.items()
        for result in carry_out_aloud(part, store, runner(place), costs, again(ctx))
    ]
    ctx.exit(_report(screen, plan, ended, store, as_json, again(ctx, rerun="failed")))


def _asked(seeds: str, rerun: str) -> SweepRequest:
    """Seeds and reruns, checked as those of a sweep."""
    return sweep_request({"assigners": ("",), "seeds": parsed_seeds(seeds), "rerun": rerun}, "table")


def _report(
    screen: Console, plan: TablePlan, ended: Sequence[Result], store: ResultsStore, as_json: bool, retry: str
) -> int:
    """Write and show the finished table.

    Returns:
        the exit code.
    """
    from harness.details import load_details
    from harness.tables.outcome import answers, lines
    from harness.tables.written import as_json as as_values
    from harness.tables.written import missing_runs, write_table

    records, _ = store.load_all()
    details, problems = load_details(store, answers(plan, records))
    for problem in problems:
        say(console(as_json=True), f"left out: {problem}")
    made = lines(plan, records, details)
    paths = write_table(store, plan, made)
    missing = missing_runs(made)
    failed = [result for result in ended if result.failed]
    screen.print(_grid(plan, made))
    for path in paths:
        say(screen, f"written  {path}")
    if missing:
        say(screen, f"missing  {'; '.join(missing)}")
    if failed:
        say(screen, f"failed   {', '.join(result.run.title for result in failed)}")
        say(screen, f"again    {retry}")
    if as_json:
        files = {"markdown": str(paths[0]), "csv": str(paths[1])}
        errors = [{"run": result.run.title, "error": result.error} for result in failed]
        emit({"rows": as_values(plan, made), "missing": missing, "failed": errors, "files": files})
    return 1 if missing or failed else 0


def _grid(plan: TablePlan, made: Sequence[Line]) -> Grid:
    """The table for a terminal: the columns that matter most."""
    grid = Grid(title=f"Table {plan.table.number} at scale {plan.scale.name}", title_justify="left", title_style="bold")
    for name, justify in (("row", "right"), ("method", "left"), ("run as", "left"), ("paper AP", "right"),
                          ("ours AP", "right"), ("seeds", "right"), ("paper's gain", "right"), ("our gain", "right"),
                          ("verdict", "left")):  # fmt: skip
        grid.add_column(name, justify=justify)  # type: ignore[arg-type]
    for line in made:
        done = len(plan.seeds) - len(line.missing)
        interval = line.interval
        half = interval.high - (interval.mean or 0.0) if interval is not None and interval.high is not None else None
        ours = points(interval.mean) if interval is not None else "-"
        grid.add_row(
            line.planned.row.name, Text(line.paper.method), Text(line.planned.row.assigner),
            points(line.paper.metrics.get("AP")), ours + (f" ± {half:.1f}" if half is not None else ""),
            "-" if line.planned.obstacle else f"{done}/{len(plan.seeds)}", points(line.paper_gain),
            points(line.gain.mean if line.gain else None), line.verdict,
        )  # fmt: skip
    return grid


def _show_plan(screen: Console, plan: TablePlan, costs: Costs) -> None:
    """A row per row: its runs by state and what they take."""
    grid = Grid(
        title=f"Table {plan.table.number} at scale {plan.scale.name}: {plan.table.title}", title_justify="left",
        title_style="bold",
    )  # fmt: skip
    for name in ("row", "run as", "done", "failed", "missing", "time", "memory MB", "remark"):
        grid.add_column(name, justify="left" if name in ("run as", "remark") else "right", overflow="fold")
    for planned in plan.rows:
        values = _row_json(planned, costs, plan)
        words = " ".join([planned.row.assigner, *planned.tuning.overrides])
        states = values["states"]
        left = states["missing"] + states["interrupted"]
        todo = values["to_run"]
        grid.add_row(
            planned.row.name, Text(words), str(states["done"]), str(states["failed"]), str(left),
            duration(values["seconds"]) if todo else "-",
            ("unknown" if values["memory_mb"] is None else points(values["memory_mb"], 0)) if todo else "-",
            Text(values["remark"]),
        )  # fmt: skip
    screen.print(grid)
    total = _total(plan, costs)
    say(
        screen,
        f"to run: {total['runs']} runs, rows that come to the same run counted once; {duration(total['seconds'])}",
    )
    for place in dict.fromkeys(planned.place for planned in plan.rows):
        base = load_protocol(place.origin)
        say(
            screen,
            f"protocol {base.name} ({base.digest}) on {place.data or 'data to be named'}, changed as each row says",
        )


def _total(plan: TablePlan, costs: Costs) -> dict[str, Any]:
    runs = {
        (run.choice.name, planned.protocol.digest, planned.row.kind, run.spec.seed): run
        for planned in plan.rows
        if planned.wanted
        for run in planned.runs
        if plan.wants(run)
    }
    return {"runs": len(runs), "seconds": costs.seconds(runs.values())}


def _row_json(planned: PlannedRow, costs: Costs, plan: TablePlan) -> dict[str, Any]:
    """A planned row for a program; times in seconds."""
    states = [run.state for run in planned.runs]
    todo = [run for run in planned.runs if planned.wanted and plan.wants(run)]
    estimates = [costs.of(run) for run in todo]
    known = [estimate for estimate in estimates if estimate is not None]
    memory = [estimate.memory_mb for estimate in known if estimate.memory_mb is not None]
    basis = "; ".join(dict.fromkeys(estimate.basis for estimate in known)) or ("no record" if todo else "")
    return {
        "row": planned.row.name,
        "assigner": planned.row.assigner,
        "overrides": list(planned.tuning.overrides),
        "protocol": {"name": planned.protocol.name, "hash": planned.protocol.digest},
        "data": planned.place.data,
        "states": {state: states.count(state) for state in ("done", "failed", "interrupted", "missing")},
        "wanted": planned.wanted,
        "to_run": len(todo),
        "seconds": sum(estimate.seconds for estimate in known) if todo and len(known) == len(todo) else None,
        "memory_mb": max(memory, default=None),
        "remark": planned.obstacle or basis,
    }
