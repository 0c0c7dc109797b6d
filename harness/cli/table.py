"""``harness table``: a table of the paper, its runs and both side by side."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import click
from rich.console import Console

from harness.cli.console.options import json_option, machine_options, option, results_option
from harness.cli.console.output import console, emit, say, say_left_out
from harness.cli.console.plans import carry_out_aloud, parsed_seeds, repeating
from harness.cli.console.requests import Place as Runner
from harness.cli.console.requests import again
from harness.cli.console.tables import show
from harness.cli.views import table as views
from harness.core.errors import UserError
from harness.paper.planning import Place, TablePlan, plan_table
from harness.paper.probe import CHANGES, probe_store
from harness.paper.rows import table as find_table
from harness.paper.scales import SCALES
from harness.paper.scales import scale as find_scale
from harness.records.store import ResultsStore
from harness.sweeps.cost import Costs
from harness.sweeps.execute import Result
from harness.sweeps.plan import Choice, Tuning
from harness.sweeps.request import sweep_request


@click.command("table")
@click.argument("number", metavar="N")
@option("--scale", "scale_name", default="cpu", metavar="|".join(SCALES), help="Its size.")
@option("--seeds", default="3", metavar="N|S,S,...", help="How many, or which.")
@option("--only", multiple=True, metavar="ROW,...", help="Run these rows alone; may be repeated.")
@option(
    "--data", "sources", multiple=True, metavar="SPEC",
    help="coco:DIR, voc:DIR or wider:DIR; once for each kind.  [default: shapes, but for paper and Table 8]",
)  # fmt: skip
@option("--weights", metavar="FILE", help="Where the weights lie that the scale's protocol starts from.")
@option("--rerun", metavar="never|failed|always", default="never", help="As for a sweep.")
@option("--dry-run", is_flag=True, help="Show what there is, what is missing and what it takes; run nothing.")
@option("--probe", is_flag=True, help="Two training steps and one evaluated image for each row.")
@machine_options
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
    weights: str | None,
    rerun: str,
    dry_run: bool,
    probe: bool,
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
      harness table 7 --scale paper --data coco:data/coco --probe
      harness table 1 --scale paper --data coco:data/coco --seeds 1
      harness table 8 --data voc:VOCdevkit --data wider:data/wider --json
      harness table 4 --scale real --data voc:DIR --weights lite0.safetensors
    """
    screen = console(as_json, files=not dry_run)
    table, scale = find_table(number), find_scale(scale_name)
    if os.environ.get("WORLD_SIZE", "1") != "1":
        raise UserError(
            "harness table runs in one process; train a single run with harness run --devices, and make the table after"
        )
    typed = {"assigners": ("",), "seeds": parsed_seeds("0," if probe else seeds), "rerun": rerun}
    asked = sweep_request(typed, "table")  # checked as those of a sweep
    store = probe_store(results) if probe else ResultsStore(results)

    def runner(place: Place) -> Runner:
        return Runner(place.data or "", place.origin, store.root, device, threads, workers, screen)

    def command_of(place: Place, choice: Choice, tuning: Tuning, seed: int) -> str:
        return repeating(runner(place), choice, tuning, seed)

    rows = [name.strip() for text in only for name in text.split(",") if name.strip()]
    plan = plan_table(
        table, scale, asked.seeds, store, command_of, sources=sources, only=rows, rerun=asked.rerun, dry=dry_run,
        changes=(*(CHANGES if probe else ()), *((f"model.weights={weights}",) if weights is not None else ())),
    )  # fmt: skip
    say_left_out(plan.problems)

    from harness.core.device import pick_device
    from harness.core.environment import environment

    records = [record for known in (ResultsStore(results), probe_store(results)) for record in known.load_all()[0]]
    costs = Costs(records, environment(pick_device(device))["device"])
    if dry_run:
        views.show_plan(screen, plan, costs)
        if as_json:
            emit({"rows": [views.row_json(planned, costs, plan) for planned in plan.rows]})
        return
    ended = [
        result
        for place, part in plan.parts.items()
        for result in carry_out_aloud(part, store, runner(place), costs, again(ctx))
    ]
    report = _report_probe if probe else _report
    ctx.exit(report(screen, plan, ended, store, as_json, again(ctx, rerun="failed")))


def _report(
    screen: Console, plan: TablePlan, ended: Sequence[Result], store: ResultsStore, as_json: bool, retry: str
) -> int:
    """Write and show the finished table; the exit code."""
    from harness.paper.outcome import answers, lines
    from harness.paper.written import as_json as as_values
    from harness.paper.written import missing_runs, write_table
    from harness.records.details import load_details

    records, _ = store.load_all()
    details, problems = load_details(store, [run_id for ids in answers(plan, records).values() for run_id in ids])
    say_left_out(problems)
    finished = lines(plan, records, details)
    paths = write_table(store, plan, finished)
    missing = missing_runs(finished)
    failed = [result for result in ended if result.failed]
    show(screen, views.finished(plan, finished), ("method",))
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
        emit({"rows": as_values(plan, finished), "missing": missing, "failed": errors, "files": files})
    return 1 if missing or failed else 0


def _report_probe(
    screen: Console, plan: TablePlan, ended: Sequence[Result], store: ResultsStore, as_json: bool, retry: str
) -> int:
    """Show what each row's probe cost; the exit code."""
    from harness.paper.outcome import answers

    records = store.load_all()[0]
    by_id = {record.run_id: record for record in records}
    probed = {name: by_id[ids[0]] for name, ids in answers(plan, records).items() if ids}
    lacking = [planned for planned in plan.rows if planned.wanted and planned.row.name not in probed]
    missing = [f"{planned.row.name} ({planned.obstacle or 'failed'})" for planned in lacking]
    show(screen, views.probes(plan, probed), ("parameters",))
    if missing:
        say(screen, f"missing  rows {', '.join(missing)}")
        say(screen, f"again    {retry}")
    if as_json:
        rows = {name: {"run_id": record.run_id, "cost": record.cost.model_dump()} for name, record in probed.items()}
        errors = [{"run": result.run.title, "error": result.error} for result in ended if result.failed]
        emit({"rows": rows, "missing": missing, "failed": errors})
    return 1 if missing else 0
