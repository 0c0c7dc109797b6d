"""``harness sweep``: several assigners, several seeds, one protocol or an equal search around it."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import click

from harness.cli.console.options import json_option, machine_options, option, results_option, set_option
from harness.cli.console.output import console, emit, say, say_left_out
from harness.cli.console.plans import carry_out_aloud, parsed_seeds, repeating
from harness.cli.console.requests import Place, again
from harness.cli.views import sweep as tables
from harness.core.errors import UserError, shorten
from harness.data.sources import SPECS, default_protocol
from harness.protocol.protocol import load_protocol
from harness.records.store import ResultsStore
from harness.sweeps.cost import Costs, needed_seeds, rows
from harness.sweeps.execute import sensitivity
from harness.sweeps.plan import make_plan
from harness.sweeps.request import read_sweep, sweep_request


@click.command("sweep")
@click.argument("file", required=False, metavar="[FILE.toml]", type=click.Path(path_type=Path))
@option("-a", "--assigners", multiple=True, metavar="LIST", help="atss,iqdet[positives=8,12]; may be repeated.")
@option("--seeds", metavar="N|S,S,...", help="How many, or which.  [default: 3]")
@option("-p", "--protocol", metavar="NAME|FILE.toml", help="[default: shapes-cpu for shapes, small otherwise]")
@option("--data", metavar="SPEC", help=f"{SPECS}.  [default: shapes]")
@set_option("schedule.steps=100")
@option("--tune", multiple=True, metavar="KEY=F,F,...", help="Multiply a number: lr=0.5,1,2; may be repeated.")
@option("--rerun", metavar="never|failed|always", help="Which runs that ended are run again.  [default: never]")
@option("--gap", type=click.FloatRange(0, min_open=True), default=1.0, help="AP to resolve (--dry-run).")
@option("--dry-run", is_flag=True, help="Show what there is, what is missing and what it takes; run nothing.")
@machine_options
@results_option
@json_option
@click.pass_context
def command(
    ctx: click.Context,
    /,
    file: Path | None,
    gap: float,
    dry_run: bool,
    device: str,
    threads: int | None,
    workers: int | None,
    results: Path,
    as_json: bool,
    **question: Any,
) -> None:
    """Run every assigner with every seed under one protocol; what has a record is not run again.

    A sweep may be stopped at any time: the same command goes on. A run that fails is noted in results/failed and the
    sweep goes on; the exit code is 1 as long as one is failed. --tune gives every assigner the same search.

    Any number of processes may share a sweep, one for each GPU say: start the same command several times with the same
    --results, each with its CUDA_VISIBLE_DEVICES. Each takes the runs that no other has.

    \b
    Examples:
      harness sweep -a atss,paa,iqdet --seeds 3 --dry-run
      harness sweep -a atss,paa,'iqdet[positives=8,12]' --seeds 3 -p shapes-cpu
      harness sweep -a atss,iqdet --seeds 0,1 --tune lr=0.5,1,2
      harness sweep -a center -a atss --data voc:VOCdevkit/VOC2007 --rerun failed
      harness sweep my_sweep.toml --json

    \b
    The same as TOML (flags replace what it says):
      assigners = ["atss", "iqdet[positives=8,12]"]
      seeds = 3                              # or a list
      protocol = "shapes-cpu"
      set = { schedule.steps = 400 }
      tune = { lr = [0.5, 1, 2] }
    """
    screen = console(as_json, files=not dry_run)
    if os.environ.get("WORLD_SIZE", "1") != "1":
        raise UserError(
            "harness sweep runs in one process; start it once for each GPU on one --results directory, "
            "or a single run on all of them with harness run --devices"
        )
    request = sweep_request(_asked(file, question), f"sweep {file}" if file else "sweep")
    origin = request.protocol or default_protocol(request.data)
    place = Place(request.data, origin, results, device, threads, workers, screen)
    store = ResultsStore(results)
    plan = make_plan(request, store, origin, partial(repeating, place))
    say_left_out(plan.problems)
    base = load_protocol(origin, request.overrides)
    search = f" and {len(plan.tunings)} tunings of it" if len(plan.tunings) > 1 else ""
    say(screen, f"{len(plan.runs)} runs on {request.data}, protocol {base.name} ({base.digest}){search}")

    from harness.core.device import pick_device
    from harness.core.environment import environment

    records, _ = store.load_all()
    costs = Costs(records, environment(pick_device(device))["device"])
    if dry_run:
        table, need = rows(plan, costs), needed_seeds(records, plan, gap)
        tables.show_preview(screen, plan, table, need, gap, again(ctx, rerun="failed", dry_run=False))
        if as_json:
            emit(tables.preview_json(plan, table, need))
        return
    ended = carry_out_aloud(plan, store, place, costs, again(ctx))
    records, _ = store.load_all()
    aps = {record.run_id: record.metrics.AP for record in records}
    planned = {run_id for run in plan.runs for run_id in (run.run_id, run.answer)}
    of_plan = [record for record in records if record.run_id in planned]
    searches = sensitivity(of_plan, [*plan.tunings[0].factors]) if len(plan.tunings) > 1 else []
    tables.show_report(screen, plan, ended, aps, searches, again(ctx, rerun="failed"))
    if as_json:
        emit(tables.report_json(ended, aps, searches))
    ctx.exit(1 if any(result.failed for result in ended) else 0)


def _asked(file: Path | None, flags: Mapping[str, Any]) -> dict[str, Any]:
    """The values of a sweep file with those of the flags in their place."""
    values = read_sweep(file) if file is not None else {}
    typed = {"set" if key == "overrides" else key: value for key, value in flags.items()}
    if typed["seeds"] is not None:
        typed["seeds"] = parsed_seeds(typed["seeds"])
    typed["tune"] = _factors(typed["tune"])
    return values | {key: value for key, value in typed.items() if value not in (None, (), {})}


def _factors(texts: Sequence[str]) -> dict[str, list[float]]:
    """``lr=0.5,1,2`` of each ``--tune``."""
    factors: dict[str, list[float]] = {}
    for text in texts:
        key, equals, listed = text.partition("=")
        try:
            numbers = [float(part) for part in listed.split(",") if part.strip()]
        except ValueError:
            numbers = []
        if not equals or not numbers:
            raise UserError(f"--tune {shorten(text)!r} is not of the form key=factor,factor, such as lr=0.5,1,2")
        factors.setdefault(key.strip(), []).extend(numbers)
    return factors
