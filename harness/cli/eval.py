"""``harness eval``: evaluate the saved weights of a run again, on its own data or on other data."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console

from harness.cli.console.options import FILE, device_option, json_option, option, results_option, workers_option
from harness.cli.console.output import console, emit, say
from harness.cli.console.tables import show_metrics
from harness.records.inputs import data_spec
from harness.records.pending import Pending, completing, find_pending, load_pending
from harness.records.schema import MetricsPart
from harness.records.store import ResultsStore

if TYPE_CHECKING:
    from harness.runs.run import RunOutcome


@click.command("eval")
@click.argument("run", metavar="RUN")
@option("--data", metavar="SPEC", help="As for run; may be left out for a run on shapes.")
@option("--val-split", metavar="NAME", help="Split to evaluate on; that of the run by default.")
@device_option
@workers_option("load images")
@option("--details", is_flag=True, help="Also write results/details/RUN.json, which comparisons read, again.")
@option(
    "--results-json", type=FILE, metavar="FILE",
    help="Also write the detections as COCO results; images without annotations will do.",
)  # fmt: skip
@results_option
@json_option
def command(
    run: str,
    data: str | None,
    val_split: str | None,
    device: str,
    workers: int | None,
    details: bool,
    results_json: Path | None,
    results: Path,
    as_json: bool,
) -> None:
    """Evaluate the saved weights of RUN, a run id or its beginning. Records stay as they are.

    A run that was trained but could not be evaluated gets its record, as the run itself would have written it.

    \b
    Examples:
      harness eval iqdet-shapes-cpu-s0
      harness eval atss-small-s0 --data voc:VOCdevkit/VOC2007 --json
      harness eval atss-shapes-cpu-s1 --details
      harness eval iqdet-paper-s0 --data coco:data/coco --val-split test-dev2017 --results-json detections.json
    """
    screen = console(as_json)
    store = ResultsStore(results)
    how: dict[str, Any] = {"device": device, "workers": workers, "console": screen, "results_json": results_json}
    written = {"results_json": str(results_json)} if results_json is not None else {}
    waiting = find_pending(store, run)
    pending = load_pending(store, waiting) if waiting is not None else None
    if pending is not None:
        data = data or pending.data
        outcome = _complete(screen, store, pending, data, val_split, how)
        if outcome is not None:
            record = outcome.record
            show_metrics(screen, record.metrics)
            say(screen, f"record       {outcome.path}")
            say(screen, f"leaderboard  {outcome.leaderboard}")
            if as_json:
                written["record"] = str(outcome.path)
                emit(_values(record.run_id, data, record.metrics) | written)
            return
    record = pending.record if pending is not None else store.find(run)
    run_id, data = record.run_id, data_spec(record, data)

    from harness.runs.run import evaluate_run

    metrics = evaluate_run(store, run_id, data=data, details=details, val_split=val_split, **how)
    say(screen, f"run {run_id} on {data}" + (f", split {val_split}" if val_split else ""))
    if metrics is None:
        say(screen, "no metrics: there are no annotations of these images; a server that has them can score the file")
    else:
        show_metrics(screen, metrics)
    if as_json:
        emit(_values(run_id, data, metrics) | written)


def _values(run_id: str, data: str, metrics: MetricsPart | None) -> dict[str, Any]:
    return {"run_id": run_id, "data": data, "metrics": metrics and metrics.model_dump(exclude_unset=True)}


def _complete(
    screen: Console, store: ResultsStore, pending: Pending, data: str, val_split: str | None, how: dict[str, Any]
) -> RunOutcome | None:
    """Complete the record of a run that waits for it; None where it is to be evaluated on something else."""
    from harness.runs.completion import complete_run, own_images

    run_id = pending.run_id
    images = own_images(store, pending, data, val_split)
    if images is None:
        known = pending.record.data
        say(
            screen,
            f"{run_id} waits for its record, which this does not complete: that is of {known.kind} {known.title}, "
            f"split {known.val.split}; complete it with: {completing(run_id, pending.data, store.root)}",
        )
        return None
    return complete_run(store, run_id, images, data=data, **how)
