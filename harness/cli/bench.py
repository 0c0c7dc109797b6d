"""``harness bench``: what assigners cost in time and memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from assigners.registry import AssignerSpec
from harness.cli.bench_e2e import e2e_command
from harness.cli.console.bench import (
    Setting,
    boxes_option,
    classes_option,
    images_option,
    record,
    setting_options,
    size_option,
)
from harness.cli.console.options import option, results_option, set_option
from harness.cli.console.output import console, emit, new_table, say
from harness.cli.console.requests import chosen_assigner, chosen_assigners
from harness.cli.console.tables import show
from harness.core.errors import UserError
from harness.core.text import counted
from harness.protocol.protocol import load_protocol

if TYPE_CHECKING:
    from harness.bench.batches import Bench, Cell, Measurement
    from harness.bench.step import Share

QUICK = ((7, 100), (2,), (80,))  # boxes, images, classes
QUICK_SECONDS, SECONDS = 0.3, 1.0
FILE, STEP_FILE = "assigners.csv", "step.csv"
_where = itemgetter("device", "threads", "size")  # what the rows of one picture have in common


def _numbers(ctx: click.Context, param: click.Parameter, value: str | None) -> tuple[int, ...] | None:
    """Whole numbers of ``7,30,100``."""
    if value is None:
        return None
    words = [word.strip() for word in value.split(",")]
    if not all(word.isascii() and word.isdigit() and int(word) > 0 for word in words):
        raise click.BadParameter(f"{value!r} is no list of whole numbers above 0, such as 7,30,100")
    return tuple(int(word) for word in words)


@click.group("bench")
def command() -> None:
    """Measure what assigners cost: by themselves, or as a share of a training step.

    Both go to files under bench/ among the results (--results DIR), and as JSON to standard output (--json).

    \b
    Examples:
      harness bench assigners --quick
      harness bench step -a iqdet --device cuda
      harness bench e2e
      harness bench summary
      harness bench picture
      harness bench benefit
    """


command.add_command(e2e_command)


@command.command("assigners", short_help="Time and memory over boxes, images and classes.")
@click.argument("names", nargs=-1, metavar="[NAME[K=V,...]]...")
@option("--boxes", callback=_numbers, metavar="N,...", help="In each image.")
@option("--images", callback=_numbers, metavar="N,...", help="In the batch.")
@option("--classes", callback=_numbers, metavar="N,...", help="Of the detector.")
@option("--quick", is_flag=True, help="7 and 100 boxes in 2 images of 80 classes, with fewer repeats.")
@option("--dense/--no-dense", default=True, help="Time dense textbook versions in turns.")
@option(
    "--dense-memory", type=click.IntRange(min=1), default=6144, metavar="MIB",
    help="A dense version that would need more is not run.",
)  # fmt: skip
@option(
    "--dense-seconds", type=click.FloatRange(min=0), default=120.0, metavar="S",
    help="One that would take longer for a call is not run.",
)  # fmt: skip
@option("--picture/--no-picture", default=True, help="Draw all rows of this machine.")
@setting_options("800x1344")
def assigners_command(
    names: tuple[str, ...],
    boxes: tuple[int, ...] | None,
    images: tuple[int, ...] | None,
    classes: tuple[int, ...] | None,
    quick: bool,
    dense: bool,
    dense_memory: int,
    dense_seconds: float,
    picture: bool,
    setting: Setting,
) -> None:
    """Time assigners on synthetic batches, beside dense, per-image, textbook versions of the same rules.

    Both are called in turns in one process, so that their ratio holds on any machine; what is shown are medians of
    forward (with backward, where an assigner has losses of its own) and the peak of one call's memory. On one CPU
    thread a time is that of computing, without waiting for other processes.

    Boxes, images and classes vary one at a time, around 30 boxes an image, 2 images and 80 classes; 5000 boxes come
    in one image. Where any of the three is given, all combinations of those are measured.

    Rows go to bench/assigners.csv among the results, each in the place of an older one of the same machine, and the
    picture beside it; `harness bench picture` draws it again.

    \b
    Examples:
      harness bench assigners
      harness bench assigners --quick center atss 'paa[topk=15]'
      harness bench assigners sim_ota --boxes 7,100,500 --images 1,2
      harness bench assigners --device cuda --json
    """
    specs = chosen_assigners(names)
    screen, progress = console(setting.as_json, files=True), console(as_json=True)

    from harness.bench.batches import Bench, Limits, choose_cells, size_text
    from harness.bench.dense.rules import RULES
    from harness.drawing.charts import need_matplotlib
    from harness.training.build import resolve_assigner

    if picture:
        need_matplotlib("the picture", ", or measure without it: --no-picture")
    if quick:
        boxes, images, classes = boxes or QUICK[0], images or QUICK[1], classes or QUICK[2]
    cells = choose_cells(boxes, images, classes)
    rules = RULES if dense else {}
    limits = Limits(QUICK_SECONDS if quick else SECONDS, dense_memory, dense_seconds)
    subjects = [resolve_assigner(*spec) for spec in specs]
    path = setting.results / "bench" / FILE
    with setting.computing() as (where, machine):
        rows = _measure(Bench(rules, where, limits, setting.size), cells, subjects, path, machine, progress)
    show(screen, _assigners_table(rows), ("note", "passes", "dense MiB", "dense ms"))
    if picture:
        for drawing in _draw(path, (machine["device"], str(machine["threads"]), size_text(setting.size))):
            say(screen, f"picture {drawing}")
    say(screen, f"rows in {path}")
    if setting.as_json:
        emit({"environment": machine, "rows": [asdict(row) for row in rows]})


@command.command("step", short_help="Its share of a training step.")
@option("-a", "--assigner", required=True, metavar="NAME[K=V,...]", help="Which one, with options in brackets.")
@option("--backbone", metavar="NAME", help="Any timm model.  [default: the protocol's]")
@option(
    "--protocol", "protocol_name", default="paper", metavar="NAME|FILE.toml",
    help="Detector, optimiser and precision.",
)  # fmt: skip
@set_option("model.channels=64")
@images_option
@boxes_option
@classes_option
@option("--seconds", type=click.FloatRange(min=0), default=20.0, help="Of timed steps.")
@setting_options("800x1344")
def step_command(
    assigner: str,
    backbone: str | None,
    protocol_name: str,
    overrides: tuple[str, ...],
    images: int,
    boxes: int,
    classes: int,
    seconds: float,
    setting: Setting,
) -> None:
    """Time training steps with an assigner, and with its assignment lying ready: what it adds is its share.

    share = (step - step with a precomputed assignment) / step, both forward, losses, backward and optimiser; what the
    assigner itself trains is in the first alone. For an assigner that replaces the losses an assignment would feed,
    that of `center` lies ready. Weights are random and stay as they are. The row goes to bench/step.csv among the
    results.

    \b
    Examples:
      harness bench step -a iqdet --device cuda
      harness bench step -a paa --backbone resnet18 --size 256x256 --boxes 30
    """
    name, options = chosen_assigner(assigner)
    changes = (*overrides, *((f"model.backbone={backbone}",) if backbone is not None else ()))
    protocol = load_protocol(protocol_name, changes)
    screen, path = console(setting.as_json, files=True), setting.results / "bench" / STEP_FILE

    from harness.bench.step import StepRequest, measure_share
    from harness.training.build import resolve_assigner

    subject = resolve_assigner(name, options)
    request = StepRequest(subject, protocol, images, boxes, classes, setting.size, seconds)
    with setting.computing() as (where, machine):
        share = measure_share(request, where)
    record(path, share, machine)
    show(screen, _share_table(share))
    say(screen, f"row in {path}")
    if setting.as_json:
        emit({"environment": machine, **asdict(share)})


@command.command("summary", short_help="What was measured, as Markdown.")
@results_option
def summary_command(results: Path) -> None:
    """Print what is known of each assigner's cost as a Markdown table.

    Times of `harness bench assigners` at 7, 100 and 500 boxes an image, how many times faster that is than dense,
    per-image, textbook code, peak memory, and what an image costs alone and in a batch.
    """
    from harness.bench.markdown import summary
    from harness.bench.measurements import read_lines

    lines = read_lines(results / "bench" / FILE)
    if not lines:
        raise UserError(f"{results / 'bench' / FILE} holds no measurement; `harness bench assigners` makes them")
    click.echo(summary(lines), nl=False)


@command.command("picture", short_help="What was measured, as a picture.")
@size_option("800x1344")
@results_option
def picture_command(size: tuple[int, int], results: Path) -> None:
    """Draw bench/assigners.svg and .png among the results from bench/assigners.csv, and measure nothing.

    They show the rows of one machine: the one that most are of.
    """
    from harness.bench.batches import size_text
    from harness.bench.measurements import read_lines
    from harness.drawing.charts import need_matplotlib

    need_matplotlib("`harness bench picture`")
    path = results / "bench" / FILE
    places = [_where(line) for line in read_lines(path) if line["size"] == size_text(size)]
    if not places:
        raise UserError(
            f"{path} holds no measurement of {size_text(size)} px; `harness bench assigners` makes them, or name "
            "another --size"
        )
    for drawing in _draw(path, max(places, key=places.count)):
        say(console(False), f"picture {drawing}")


@command.command("benefit", short_help="AP against time and memory, as a picture.")
@option("--protocol", metavar="NAME|HASH", help="Of which board.  [default: the one with the most assigners]")
@option("--data", metavar="TITLE|HASH", help="Of which data.")
@size_option("800x1344")
@results_option
def benefit_command(protocol: str | None, data: str | None, size: tuple[int, int], results: Path) -> None:
    """Draw what assigners add to AP against what they cost, as bench/benefit.svg and .png among the results.

    AP is the mean over seeds of finished runs, with options at their defaults; time and memory are those of
    `harness bench assigners` at 100 boxes an image. Assigners that change more than the assignment are left out.
    """
    from harness.bench.batches import size_text
    from harness.bench.measurements import read_lines
    from harness.comparison.board import boards
    from harness.comparison.cost_benefit import benefits, draw
    from harness.drawing.charts import need_matplotlib, save
    from harness.records.store import ResultsStore

    need_matplotlib("`harness bench benefit`")
    lines = [line for line in read_lines(results / "bench" / FILE) if line["size"] == size_text(size)]
    machine_of = itemgetter("device", "threads", "torch")
    candidates = [
        (points, board, machine)
        for board in boards(ResultsStore(results).load_all()[0], {})
        if board.kind == "fair" and board.question.goes_by(protocol, data)
        for machine in sorted({*map(machine_of, lines)})
        if (points := benefits(board, (line for line in lines if machine_of(line) == machine)))
    ]
    if not candidates:
        raise UserError(
            f"no assigner has both runs and costs under {results}; `harness sweep` makes the ones, `harness bench "
            "assigners` the others; or name another --protocol, --data or --size"
        )
    points, board, (device, threads, torch) = max(candidates, key=lambda candidate: len(candidate[0]))
    seeds = sorted({len(entry.seeds) for entry in board.entries if entry.name in {p.name for p in points}})
    many = f"{'-'.join(map(str, dict.fromkeys((seeds[0], seeds[-1]))))} seeds"
    title = f"AP on {board.question.data} under {board.question.protocol}, {many}, against what an assigner costs"
    below = f"costs: {size_text(size)} px, {device}, {counted(int(threads), 'thread')}, torch {torch}"
    for path in save(draw(points, title, below), results / "bench" / "benefit"):
        say(console(False), f"picture {path}")


def _measure(
    bench: Bench,
    cells: Sequence[Cell],
    subjects: Sequence[AssignerSpec],
    path: Path,
    machine: dict[str, Any],
    screen: Console,
) -> list[Measurement]:
    """Every subject on every cell; a row is written as soon as it is known."""
    rows: list[Measurement] = []
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=screen, transient=True, disable=not screen.is_terminal) as bar:
        task = bar.add_task("", total=len(cells) * len(subjects))
        for cell in cells:
            where = f"{cell.images} x {cell.boxes} boxes, {cell.classes} classes"
            scene = bench.scene(cell)
            for subject in subjects:
                bar.update(task, description=f"{where}: {subject.name}")
                rows.append(bench.row(cell, scene, subject))
                record(path, rows[-1], machine)
                bar.advance(task)
            if not screen.is_terminal:
                say(screen, f"measured {len(subjects)} on {where}")
    return rows


def _draw(path: Path, where: tuple[str, str, str]) -> list[Path]:
    """The picture of all rows of one machine and image size."""
    from harness.bench.chart import draw
    from harness.bench.measurements import read_lines
    from harness.drawing.charts import save

    device, threads, size = where
    lines = [line for line in read_lines(path) if _where(line) == where]
    torch = ", ".join(sorted({line["torch"] for line in lines}))
    title = f"cost of an assigner: {size} px, {device}, {counted(int(threads), 'thread')}, torch {torch}"
    return save(draw(lines, title), path.with_suffix(""))


def _assigners_table(rows: Sequence[Measurement]) -> Table:
    from harness.bench.measurements import short

    numbers_of = ("images", "boxes", "classes", "ms", "dense ms", "ratio", "MiB", "dense MiB")
    columns, words = ("assigner", *numbers_of, "passes", "note"), ("assigner", "passes", "note")
    table = new_table("medians of calls; peak memory of one call", columns, words=words, folded=("note",))
    for row in rows:
        numbers = (row.ms, row.dense_ms, row.ratio, row.mib, row.dense_mib)
        counts = (str(row.images), str(row.boxes), str(row.classes))
        table.add_row(Text(row.assigner), *counts, *map(short, numbers), row.passes, Text(row.note))
    return table


def _share_table(share: Share) -> Table:
    from harness.bench.measurements import short

    title = f"a training step of {share.images} images of {share.size} px, {share.boxes} boxes each, {share.backbone}"
    columns = ("assigner", "step ms", "with an assignment ready ms", "share %", "ready")
    numbers = (short(share.step_ms), short(share.ready_ms), f"{100 * share.share:.1f}")
    row = (Text(share.assigner), *numbers, Text(share.stand_in))
    return new_table(title, columns, [row], words=("assigner", "ready"))
