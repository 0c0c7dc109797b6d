"""``harness run``: train one assigner under one protocol, evaluate it, record it."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from assigners import registry
from harness.cli.console.options import json_option, machine_options, results_option, set_option
from harness.cli.console.output import bins_table, console, emit, metrics_table, say
from harness.cli.console.tables import show
from harness.core.again import DEFAULT_RESULTS
from harness.core.errors import Interrupted, UserError
from harness.data.sources import EMBEDDED, default_protocol
from harness.protocol.protocol import Protocol, load_protocol, portable_override

if TYPE_CHECKING:
    from rich.console import Console

    from harness.runs.run import RunOutcome


@click.command("run", short_help="Train, evaluate and record one assigner.")
@click.option("-a", "--assigner", required=True, metavar="NAME[K=V,...]", help="Which one, with options in brackets.")
@click.option("--option", "options", multiple=True, metavar="K=V", help="An option of the assigner; may be repeated.")
@click.option(
    "--data", default=EMBEDDED, show_default=True, metavar="SPEC", help="shapes, coco:DIR, voc:DIR or wider:DIR."
)
@click.option("--train-split", metavar="NAME", help="Split to train on; the data set's own by default.")
@click.option("--val-split", metavar="NAME", help="Split to evaluate on; the data set's own by default.")
@click.option(
    "--protocol", "protocol_name", metavar="NAME|FILE.toml", help="[default: shapes-cpu for shapes, small otherwise]"
)
@set_option("schedule.steps=100")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of everything random.")
@machine_options
@click.option("--resume", is_flag=True, help="Go on from the last checkpoint of this very run, if there is one.")
@click.option("--restart", is_flag=True, help="Train from the first step, whatever lies here.")
@results_option
@json_option
def command(
    assigner: str,
    options: tuple[str, ...],
    data: str,
    train_split: str | None,
    val_split: str | None,
    protocol_name: str | None,
    overrides: tuple[str, ...],
    seed: int,
    device: str,
    threads: int | None,
    workers: int | None,
    resume: bool,
    restart: bool,
    results: Path,
    as_json: bool,
) -> None:
    """Train one assigner under one protocol, evaluate it and record it.

    \b
    Examples:
      harness run --assigner iqdet
      harness run -a 'center[radius=0]' --seed 1
      harness run -a iqdet --option positives=8 --protocol tiny
      harness run -a atss --data voc:VOCdevkit/VOC2007 --set schedule.steps=4000
      harness run -a atss --data coco:data/coco --protocol my.toml --device cuda --resume
    """
    screen = console(as_json, files=True)
    if resume and restart:
        raise UserError("--resume goes on and --restart begins anew; give one of them")
    name, chosen = registry.parse_spec(assigner)
    chosen |= dict(parse_pair(text) for text in options)
    registry.find(name)  # a wrong name is told before torch is loaded
    protocol, origin = choose_protocol(data, protocol_name, overrides, train_split, val_split)
    why = "" if protocol_name else f", the default for {data.partition(':')[0]}"
    say(screen, f"protocol {protocol.name} ({protocol.digest}{why})")

    words = ["--seed", str(seed), *(word for override in overrides for word in ("--set", override))]
    for flag, value in (("--train-split", train_split), ("--val-split", val_split), ("--threads", threads)):
        words += [flag, str(value)] if value is not None else []
    words += ["--device", device] if device != "auto" else []
    # The record's command must mean something to anyone, the commands on the screen must work in this very place.
    recorded = ["--data", portable(data), "--protocol", portable_protocol(origin), *map(portable_override, words)]
    elsewhere = ["--results", str(results)] if results != DEFAULT_RESULTS else []
    here = ["--data", data, "--protocol", origin, *words, *elsewhere]

    from harness.runs.run import RunRequest
    from harness.runs.run import run as run_engine

    request = RunRequest(
        assigner=name,
        options=dict(chosen),
        data=data,
        protocol=protocol,
        seed=seed,
        device=device,
        threads=threads,
        workers=workers,
        resume=resume,
        restart=restart,
        results=results,
        command=command_line(name, chosen, recorded),
        again=command_line(name, chosen, [*here, "--resume"]),
        console=screen,
    )
    try:
        outcome = run_engine(request)
    except Interrupted as stop:
        raise Interrupted(stop.path, command_line(name, chosen, [*here, "--resume"])) from stop
    if outcome is None:  # another process shows it
        return
    following = command_line("center" if name != "center" else "atss", {}, here)
    _report(screen, outcome, following, shlex.join(["harness", "leaderboard", *elsewhere]))
    if as_json:
        paths = {key: str(getattr(outcome, key)) for key in ("path", "work_dir", "leaderboard")}
        emit({"record": outcome.record.as_json(), **paths})


def command_line(assigner: str, options: Mapping[str, object], words: Sequence[str]) -> str:
    """A command that repeats the run, quoted for a shell."""
    chosen = [word for key, value in sorted(options.items()) for word in ("--option", f"{key}={value}")]
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    start = ["harness"] if processes == 1 else ["torchrun", f"--nproc-per-node={processes}", "-m", "harness.cli"]
    return shlex.join([*start, "run", "--assigner", assigner, *chosen, *words])


def portable(spec: str) -> str:
    """`spec` without anything of this machine: a path below the working directory, else the folder's own name."""
    kind, colon, where = spec.partition(":")
    return f"{kind}:{_portable_path(where)}" if colon else spec


def _portable_path(where: str) -> str:
    path = Path(os.path.abspath(where))  # symbolic links stay: what the user sees is what the command names
    return path.relative_to(Path.cwd()).as_posix() if path.is_relative_to(Path.cwd()) else path.name


def portable_protocol(origin: str) -> str:
    """The name or file of a protocol, likewise."""
    return _portable_path(origin) if origin.endswith(".toml") else origin


def choose_protocol(
    data: str, name: str | None, overrides: tuple[str, ...], train_split: str | None, val_split: str | None
) -> tuple[Protocol, str]:
    """The protocol (that of the kind of data where none is named), and the name or file it came from."""
    origin = name or default_protocol(data)
    protocol = load_protocol(origin, overrides)
    splits = {key: value for key, value in (("train_split", train_split), ("val_split", val_split)) if value}
    section = protocol.data.model_copy(update=splits)
    return protocol.model_copy(update={"data": section}), origin


def parse_pair(text: str) -> tuple[str, str]:
    """Key and value of an option ``key=value``."""
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise UserError(f"--option {text!r} is not of the form key=value, such as positives=8")
    return key.strip(), value.strip()


def _report(screen: Console, outcome: RunOutcome, *commands: str) -> None:
    """The small table, where things lie, what to type next."""
    record = outcome.record
    metrics = record.metrics
    show(screen, metrics_table(metrics, record.cost))
    for attribute, bins in (metrics.bins or {}).items():
        screen.print(bins_table(attribute, bins))
    say(screen, f"record       {outcome.path}")
    say(screen, f"weights, log {outcome.work_dir}")
    say(screen, f"leaderboard  {outcome.leaderboard}")
    for word, command_text in zip(("next", "then"), commands, strict=True):
        say(screen, f"{word:<12} {command_text}")
