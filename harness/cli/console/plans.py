"""Plans of many runs at the console: what `harness sweep` and `harness table` have in common."""

from __future__ import annotations

from collections.abc import Sequence

import click

from harness.cli.console.output import Stopped, points, say
from harness.cli.console.requests import Place
from harness.cli.views import sweep as tables
from harness.core.errors import Interrupted, UserError, shorten
from harness.core.stopping import exit_code
from harness.records.schema import RunRecord
from harness.records.store import ResultsStore
from harness.sweeps.cost import Costs
from harness.sweeps.execute import Result, carry_out
from harness.sweeps.plan import Choice, Plan, PlannedRun, Tuning


def repeating(place: Place, choice: Choice, tuning: Tuning, seed: int) -> str:
    """The line that repeats one run of a plan alone, for anyone."""
    return place.command(choice.assigner, choice.typed, tuning.overrides, seed)


def carry_out_aloud(plan: Plan, store: ResultsStore, place: Place, costs: Costs, go_on: str) -> list[Result]:
    """Run the plan and tell of each run as it begins and ends."""
    screen = place.screen

    def train(run: PlannedRun) -> RunRecord:
        from harness.runs.run import run as run_engine

        choice, tuning, seed = run.choice, run.tuning, run.spec.seed
        request = place.request(choice.assigner, choice.typed, tuning.protocol, tuning.overrides, seed)
        outcome = run_engine(request)
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
        raise Interrupted(stop.path, go_on, stop.code) from stop
    except KeyboardInterrupt as stop:
        raise Stopped(f"interrupted\ngo on with: {go_on}", exit_code(stop)) from stop


def parsed_seeds(text: str) -> int | list[int]:
    """``--seeds``: a count, or a list.

    Raises:
        UserError: if it is neither.
    """
    numbers = [part.strip() for part in text.split(",") if part.strip()]
    if not numbers or not all(part.isdecimal() and len(part) < 10 for part in numbers):
        raise UserError(f"--seeds {shorten(text)!r} is neither a count such as 3 nor a list of seeds such as 0,1,2")
    return [int(part) for part in numbers] if "," in text else int(numbers[0])
