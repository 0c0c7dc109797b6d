"""``harness run``: train one assigner under one protocol, evaluate it, record it."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.console import Console

from harness.cli.console.devices import check_devices, together
from harness.cli.console.options import json_option, machine_options, option, results_option, set_option
from harness.cli.console.output import console, emit, say
from harness.cli.console.requests import Place, again, choose_protocol, chosen_assigner
from harness.cli.console.tables import show_metrics
from harness.core.errors import Interrupted, UserError
from harness.data.sources import EMBEDDED, SPECS

if TYPE_CHECKING:
    from harness.runs.run import RunOutcome


@click.command("run")
@option("-a", "--assigner", required=True, metavar="NAME[K=V,...]", help="Which one, with options in brackets.")
@option("--option", "options", multiple=True, metavar="K=V", help="An option of the assigner; may be repeated.")
@option("--data", default=EMBEDDED, metavar="SPEC", help=f"{SPECS}.")
@option("--train-split", metavar="NAME", help="Split to train on; the data set's own by default.")
@option("--val-split", metavar="NAME", help="Split to evaluate on; the data set's own by default.")
@option(
    "--protocol", "protocol_name", metavar="NAME|FILE.toml", help="[default: shapes-cpu for shapes, small otherwise]"
)
@set_option("schedule.steps=100")
@option("--seed", type=click.IntRange(min=0), default=0, help="Of everything random.")
@option("--devices", type=click.IntRange(min=1), metavar="N", help="Processes that share a batch, a GPU each.")
@machine_options
@option("--resume", is_flag=True, help="Go on from the last checkpoint of this very run, if there is one.")
@option("--restart", is_flag=True, help="Train from the first step, whatever lies here.")
@results_option
@json_option
@click.pass_context
def command(
    ctx: click.Context,
    /,
    assigner: str,
    options: tuple[str, ...],
    data: str,
    train_split: str | None,
    val_split: str | None,
    protocol_name: str | None,
    overrides: tuple[str, ...],
    seed: int,
    devices: int | None,
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
      harness run -a atss --data coco:data/coco --devices 8
    """
    screen = console(as_json, files=True)
    if resume and restart:
        raise UserError("--resume goes on and --restart begins anew; give one of them")
    name, chosen = chosen_assigner(assigner, options)
    protocol, origin = choose_protocol(data, protocol_name, overrides, train_split, val_split)
    if devices is not None:
        check_devices(devices, device, protocol)
        if devices > 1:
            ctx.exit(together(again(ctx, devices=None), devices))
    why = "" if protocol_name else f", the default for {data.partition(':')[0]}"
    say(screen, f"protocol {protocol.name} ({protocol.digest}{why})")

    from harness.runs.run import run as run_engine

    # The record's command must mean something to anyone, the commands on the screen must work in this very place.
    place = Place(data, origin, results, device, threads, workers, screen, train_split, val_split)
    request = place.request(name, chosen, protocol, overrides, seed, resume=resume, restart=restart)
    try:
        outcome = run_engine(request)
    except Interrupted as stop:
        raise Interrupted(stop.path, request.again, stop.code) from stop
    if outcome is None:  # another process shows it
        return
    following = place.command_here("center" if name != "center" else "atss", {}, overrides, seed)
    _report(screen, outcome, following, shlex.join(["harness", "leaderboard", *place.elsewhere]))
    if as_json:
        paths = {key: str(getattr(outcome, key)) for key in ("path", "work_dir", "leaderboard")}
        emit({"record": outcome.record.as_json(), **paths})


def _report(screen: Console, outcome: RunOutcome, *commands: str) -> None:
    """The small table, where things lie, what to type next."""
    record = outcome.record
    show_metrics(screen, record.metrics, record.cost)
    say(screen, f"record       {outcome.path}")
    say(screen, f"weights, log {outcome.work_dir}")
    say(screen, f"leaderboard  {outcome.leaderboard}")
    for word, command_text in zip(("next", "then"), commands, strict=True):
        say(screen, f"{word:<12} {command_text}")
