"""Plans of many runs at the console: what `harness sweep` and `harness table` have in common."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource
from rich.console import Console

from harness.cli.console.output import Stopped, points, say
from harness.cli.console.requests import command_line, portable, portable_protocol
from harness.cli.views import sweep as tables
from harness.core.again import DEFAULT_RESULTS
from harness.core.errors import Interrupted, UserError, shorten
from harness.protocol.protocol import portable_override
from harness.records.store import ResultsStore
from harness.sweeps.cost import Costs
from harness.sweeps.execute import Result, carry_out
from harness.sweeps.plan import Choice, Plan, PlannedRun, Tuning

if TYPE_CHECKING:
    from harness.records.schema import RunRecord
    from harness.runs.run import RunRequest


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
        return command_line(choice.assigner, choice.typed, [*words, *map(portable_override, self._words(tuning, seed))])

    def request(self, run: PlannedRun) -> RunRequest:
        """What the engine is asked for."""
        from harness.runs.run import RunRequest

        choice, tuning, seed = run.choice, run.tuning, run.spec.seed
        elsewhere = ["--results", str(self.results)] if self.results != DEFAULT_RESULTS else []
        words = ["--data", self.data, "--protocol", self.origin, *self._words(tuning, seed), *elsewhere, "--resume"]
        return RunRequest(
            assigner=choice.assigner,
            options=dict(choice.typed),
            data=self.data,
            protocol=tuning.protocol,
            seed=seed,
            device=self.device,
            threads=self.threads,
            workers=self.workers,
            resume=True,
            results=self.results,
            command=run.command,
            again=command_line(choice.assigner, choice.typed, words),
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


def parsed_seeds(text: str) -> int | list[int]:
    """``--seeds``: a count, or a list.

    Raises:
        UserError: if it is neither.
    """
    numbers = [part.strip() for part in text.split(",") if part.strip()]
    if not numbers or not all(part.isdecimal() and len(part) < 10 for part in numbers):
        raise UserError(f"--seeds {shorten(text)!r} is neither a count such as 3 nor a list of seeds such as 0,1,2")
    return [int(part) for part in numbers] if "," in text else int(numbers[0])


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
