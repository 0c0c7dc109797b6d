"""``harness doctor``: what is in the way of a run here, and what to do about it."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import click
from rich.text import Text

from harness.cli.console.options import json_option, option, results_option
from harness.cli.console.output import Stopped, console, emit, say
from harness.core.text import counted
from harness.doctor import Finding, all_checks, examine

COLOURS = {"ok": "green", "warning": "yellow", "problem": "bold red"}


@click.command("doctor")
@option("--data", multiple=True, metavar="SPEC", help="Data to open too, as for `harness run`; may be repeated.")
@option("--train-split", metavar="NAME", help="Split to open as for training; the data set's own by default.")
@option("--val-split", metavar="NAME", help="Split to open as for evaluation; the data set's own by default.")
@results_option
@json_option
def command(
    data: tuple[str, ...], train_split: str | None, val_split: str | None, results: Path, as_json: bool
) -> None:
    """Examine this environment: packages, processor, devices, data, disk, records, unfinished runs.

    Data is opened as `harness run` opens it, and every image decoded; `harness data` says more of it. Nothing is
    written that stays, but what was decoded is remembered under the results directory, if there is one.

    Exit code 0 where nothing is a problem, 1 otherwise; warnings do not count.

    \b
    Examples:
      harness doctor
      harness doctor --data voc:VOCdevkit/VOC2007 --data coco:data/coco
      harness doctor --results elsewhere --json
    """
    from harness.cli.console.requests import choose_protocol

    protocols = {spec: choose_protocol(spec, None, (), train_split, val_split)[0] for spec in data}
    screen = console(as_json)
    with console(as_json=True).status("", spinner="line") as progress:  # seen on a terminal alone
        rows = examine(all_checks(results, protocols), lambda what: progress.update(Text(f"looking at {what}")))
    problems = sum(row.state == "problem" for row in rows)
    width = max(len(row.what) for row in rows)
    for row in rows:
        say(screen, _line(row, width))
    if as_json:
        emit({"ok": problems == 0, "rows": [asdict(row) for row in rows]})
    if problems:
        raise Stopped(f"doctor: {counted(problems, 'problem')}", 1)
    say(screen, "nothing is in the way")


def _line(row: Finding, width: int) -> Text:
    """A finding on one line, and what to do on a line of its own, from which it can be copied."""
    line = Text(f"{row.state:<7}", style=COLOURS[row.state])
    line.append(f"  {row.what:<{width}}  {row.detail}", style="default")
    return line.append(f"\n{'':{width + 11}}-> {row.advice}", style="default") if row.advice else line
