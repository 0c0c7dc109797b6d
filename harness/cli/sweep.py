"""``harness sweep``: several assigners, several seeds, one protocol or an equal search around it."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource
from rich.console import Console

from harness.cli.console.options import json_option, machine_options, results_option, set_option
from harness.cli.console.output import Stopped, console, emit, points, say
from harness.cli.run import command_line, portable, portable_protocol
from harness.cli.views import sweep as tables
from harness.core.again import DEFAULT_RESULTS
from harness.core.errors import Interrupted, UserError, shorten
from harness.data.sources import default_protocol
from harness.protocol.protocol import load_protocol, portable_override
from harness.records.store import ResultsStore
from harness.sweeps.cost import Costs, needed_seeds, rows
from harness.sweeps.execute import Result, Search, carry_out, sensitivity
from harness.sweeps.plan import Choice, Plan, PlannedRun, Tuning, make_plan
from harness.sweeps.request import read_sweep, sweep_request

if TYPE_CHECKING:
    from harness.records.schema import RunRecord
    from harness.runs.run import RunRequest


@click.command("sweep", short_help="Several assigners and seeds under one protocol.")
@click.argument("file", required=False, metavar="[FILE.toml]", type=click.Path(path_type=Path))
@click.option("-a", "--assigners", multiple=True, metavar="LIST", help="atss,iqdet[positives=8,12]; may be repeated.")
@click.option("--seeds", metavar="N|S,S,...", help="How many, or which.  [default: 3]")
@click.option("-p", "--protocol", metavar="NAME|FILE.toml", help="[default: shapes-cpu for shapes, small otherwise]")
@click.option("--data", metavar="SPEC", help="shapes, coco:DIR, voc:DIR or wider:DIR.  [default: shapes]")
@set_option("schedule.steps=100")
@click.option("--tune", multiple=True, metavar="KEY=F,F,...", help="Multiply a number: lr=0.5,1,2; may be repeated.")
@click.option("--rerun", metavar="never|failed|always", help="Which runs that ended are run again.  [default: never]")
@click.option(
    "--gap", type=click.FloatRange(0, min_open=True), default=1.0, show_default=True, help="AP to resolve (--dry-run)."
)
@click.option("--dry-run", is_flag=True, help="Show what there is, what is missing and what it takes; run nothing.")
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
            "or a single run on all of them with torchrun"
        )
    request = sweep_request(_asked(file, question), f"sweep {file}" if file else "sweep")
    origin = request.protocol or default_protocol(request.data)
    place = Place(request.data, origin, results, device, threads, workers, screen)
    store = ResultsStore(results)
    plan = make_plan(request, store, origin, place.command)
    for problem in plan.problems:
        say(console(as_json=True), f"left out: {problem}")
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
    searches = _searches(plan, records)
    tables.show_report(screen, plan, ended, aps, searches, again(ctx, rerun="failed"))
    if as_json:
        emit(tables.report_json(ended, aps, searches))
    ctx.exit(1 if any(result.failed for result in ended) else 0)


@dataclass(frozen=True)
class Place:
    """What all runs of a plan share besides it: where and on what they are run."""

    data: str
    origin: str  # name or file of the protocol
    results: Path
    device: str
    threads: int | None
    workers: int | None
    screen: Console

    def command(self, choice: Choice, tuning: Tuning, seed: int) -> str:
        """The line that repeats one run alone, for anyone."""
        words = ["--data", portable(self.data), "--protocol", portable_protocol(self.origin)]
        return command_line(choice.assigner, choice.given, [*words, *map(portable_override, self._words(tuning, seed))])

    def request(self, run: PlannedRun) -> RunRequest:
        """What the engine is asked for."""
        from harness.runs.run import RunRequest

        choice, tuning, seed = run.choice, run.tuning, run.spec.seed
        elsewhere = ["--results", str(self.results)] if self.results != DEFAULT_RESULTS else []
        words = ["--data", self.data, "--protocol", self.origin, *self._words(tuning, seed), *elsewhere, "--resume"]
        return RunRequest(
            assigner=choice.assigner,
            options=dict(choice.given),
            data=self.data,
            protocol=tuning.protocol,
            seed=seed,
            device=self.device,
            threads=self.threads,
            workers=self.workers,
            resume=True,
            results=self.results,
            command=run.command,
            again=command_line(choice.assigner, choice.given, words),
            console=self.screen,
        )

    def _words(self, tuning: Tuning, seed: int) -> list[str]:
        words = ["--seed", str(seed), *(word for override in tuning.overrides for word in ("--set", override))]
        words += ["--threads", str(self.threads)] if self.threads is not None else []
        return words + (["--device", self.device] if self.device != "auto" else [])


def carry_out_aloud(plan: Plan, store: ResultsStore, place: Place, costs: Costs, go_on: str) -> list[Result]:
    """Run the plan and tell of each run as it begins and ends."""
    screen = place.screen

    def train(run: PlannedRun) -> RunRecord:
        from harness.runs.run import run as run_engine

        outcome = run_engine(place.request(run))
        assert outcome is not None  # a sweep is one process, which is the main one
        return outcome.record

    def before(position: int, runs: Sequence[PlannedRun]) -> None:
        left = costs.seconds(runs[position:])
        time = f" ({tables.duration(left)} left)" if left is not None else ""
        say(screen, f"[{position + 1}/{len(runs)}] {runs[position].title}{time}")

    def after(result: Result) -> None:
        if result.record:
            costs.add(result.record)
            say(screen, f"AP {points(result.record.metrics.AP)}")
        else:
            say(screen, ": ".join(filter(None, (result.outcome, result.error))))

    try:
        return carry_out(plan, store, train, before, after)
    except Interrupted as stop:
        click.echo(f"this run alone: {stop.command}", err=True)
        raise Interrupted(stop.path, go_on) from stop
    except KeyboardInterrupt as stop:
        raise Stopped(f"interrupted\ngo on with: {go_on}", 130) from stop


def _searches(plan: Plan, records: Iterable[RunRecord]) -> list[Search]:
    """What the plan's own runs say of the numbers that it tuned."""
    if len(plan.tunings) == 1:
        return []
    own = {run_id for run in plan.runs for run_id in (run.run_id, run.answer)}
    return sensitivity([record for record in records if record.run_id in own], [*plan.tunings[0].factors])


def _asked(file: Path | None, flags: Mapping[str, Any]) -> dict[str, Any]:
    """The values of a sweep file with those of the flags in their place."""
    asked = read_sweep(file) if file is not None else {}
    given = {**flags, "set": flags["overrides"]}
    del given["overrides"]
    if given["seeds"] is not None:
        given["seeds"] = parsed_seeds(given["seeds"])
    given["tune"] = _factors(given["tune"])
    return asked | {key: value for key, value in given.items() if value not in (None, (), {})}


def parsed_seeds(text: str) -> int | list[int]:
    """``--seeds``: a count, or a list.

    Raises:
        UserError: if it is neither.
    """
    numbers = [part.strip() for part in text.split(",") if part.strip()]
    if not numbers or not all(part.isdecimal() and len(part) < 10 for part in numbers):
        raise UserError(f"--seeds {shorten(text)!r} is neither a count such as 3 nor a list of seeds such as 0,1,2")
    return [int(part) for part in numbers] if "," in text else int(numbers[0])


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


def again(ctx: click.Context, **changes: Any) -> str:
    """The command line as it was typed, with some flags changed."""
    words = ["harness", ctx.info_name or ""]
    for parameter in ctx.command.params:
        name = parameter.name or ""
        typed = ctx.get_parameter_source(name) is ParameterSource.COMMANDLINE
        value = changes[name] if name in changes else ctx.params[name] if typed else None
        if value is None or value is False:
            continue
        for entry in value if parameter.multiple else (value,):
            if isinstance(parameter, click.Argument):
                words.append(str(entry))
            else:
                words += [parameter.opts[-1]] if value is True else [parameter.opts[-1], str(entry)]
    return shlex.join(words)
