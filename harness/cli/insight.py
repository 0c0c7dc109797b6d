"""``harness insight``: what all assigners make of the same frozen predictions, and how far they agree."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from harness.cli.console.options import FILE, device_option, json_option, option, results_option
from harness.cli.console.output import console, emit, new_table, points, say
from harness.cli.console.requests import chosen_assigners, portable
from harness.cli.console.tables import fits, show
from harness.core.errors import UserError
from harness.core.files import dump, write_atomically
from harness.core.text import counted
from harness.data.sources import SPECS
from harness.records.inputs import data_spec
from harness.records.store import ResultsStore

if TYPE_CHECKING:
    from harness.analysis.agreement import Insight, Subject
    from harness.data.base import ImageSet
    from harness.runs.trained import TrainedRun


@click.command("insight")
@option("--run", "run_id", metavar="ID", help="Whose detector.  [default: the newest run with weights]")
@option("-a", "--assigners", metavar="NAME[K=V,...],...", help="Which ones.  [default: all]")
@option("--data", metavar="SPEC", help=f"{SPECS}; may be left out for a run on shapes.")
@option("--images", "count", type=click.IntRange(min=1), default=32, help="How many, at once.")
@device_option
@option(
    "--output", type=FILE, metavar="FILE.json",
    help="[default: insight/PROTOCOL-DATA.json among the results, where the report finds it]",
)  # fmt: skip
@option("--png", type=FILE, metavar="FILE.png", help="Draw the agreement.")
@results_option
@json_option
def command(
    run_id: str | None,
    assigners: str | None,
    data: str | None,
    count: int,
    device: str,
    output: Path | None,
    png: Path | None,
    results: Path,
    as_json: bool,
) -> None:
    """Ask all assigners about the same frozen predictions of a run's detector, and compare what they choose.

    The first validation images go through the detector once, in one batch. How many positives each box gets, where they
    lie, how good the predictions there are, and how far any two assigners agree then depends on the rules alone. The
    run's own assigner keeps what it learnt, and lends it to those of its family; others with parameters are untrained.

    \b
    Examples:
      harness insight
      harness insight --run iqdet-shapes-cpu-s0 --png agreement.png
      harness insight -a 'center,atss[topk=15],paa' --images 100
      harness insight --run atss-small-s0 --data voc:VOCdevkit/VOC2007 --json
    """
    screen = console(as_json, files=True)
    if png is not None and png.suffix.lower() != ".png":
        raise UserError(f"--png {png} must end in .png")
    asked = chosen_assigners(split_specs(assigners) if assigners is not None else ())

    from harness.analysis.agreement import choose_subjects, compare
    from harness.core.device import computing, pick_device
    from harness.data import open_data
    from harness.data.splits import say_warnings
    from harness.drawing.charts import encoded, need_matplotlib
    from harness.runs.trained import load_trained, newest_trained

    if png is not None:
        need_matplotlib("--png")
    store = ResultsStore(results)
    where = pick_device(device)
    trained = load_trained(store, run_id or newest_trained(store), where, with_assigner=True)
    data = data_spec(trained.record, data)
    images = open_data(data, trained.protocol.data, role="val")
    say_warnings(screen, images)
    subjects = choose_subjects(trained.record, asked)
    with computing(where, None):
        insight = compare(trained, images, count, subjects)
    report = insight.to_json(_provenance(trained, images, data, count, subjects))
    target = output or store.root / "insight" / f"{report['protocol_hash']}-{report['data']['hash']}.json"
    write_atomically(target, dump(report))
    boxes = counted(insight.boxes, "box", "es")
    title = f"{boxes}, images: {len(insight.image_ids)}, the detector of run {trained.run_id}"
    say(screen, title)
    _print(screen, insight)
    say(screen, f"wrote {target}")
    if png is not None:
        from harness.analysis.agreement_sheet import draw

        write_atomically(png, encoded(draw(insight, title), "png"))
        say(screen, f"picture {png}")
    if as_json:
        emit(report)


def split_specs(text: str) -> list[str]:
    """The parts of ``name,name[key=value,key=value],...``.

    Raises:
        UserError: for a list without a name in one of its places.
    """
    parts = [part.strip() for part in re.split(r",(?![^\[]*\])", text)]
    if not all(parts):
        raise UserError(f"--assigners {text!r} has an empty place; write names with commas between, such as atss,paa")
    return parts


def _provenance(
    trained: TrainedRun, images: ImageSet, data: str, count: int, subjects: Sequence[Subject]
) -> dict[str, Any]:
    """Where the numbers come from; the data are told by both splits, as a board is."""
    from harness.records.identity import data_hash

    record = trained.record
    asked = record.data.model_copy(update={"val": record.data.val.model_copy(update={"checksum": images.checksum()})})
    names = ",".join(subject.name for subject in subjects)
    words = ["--run", trained.run_id, "--assigners", names, "--data", portable(data), "--images", str(count)]
    return {
        "run_id": trained.run_id, "assigner": record.assigner, "protocol": record.protocol.name,
        "protocol_hash": record.protocol.hash, "command": shlex.join(["harness", "insight", *words]),
        "data": {"title": images.title, "split": images.split, "hash": data_hash(asked)},
    }  # fmt: skip


def _print(screen: Console, insight: Insight) -> None:
    levels = [f"/{stride} %" for stride in insight.strides]
    show(screen, _overview(insight), (*levels, "rank corr.", "label", "centre %"))
    for table in filter(None, (_by_bin(insight, attribute) for attribute in insight.assigners[0]["by"])):
        show(screen, table)
    say(screen, "agreement is the Jaccard index of the positives' bilinear mass, scaled to 1 per box")
    maps = [_agreement(insight, size) for size, part in insight.agreement.items() if part["boxes"]]
    if all(fits(screen, table) for table in maps):
        for table in maps:
            screen.print(table)
    else:
        narrow = f"{screen.width} columns are too few for a map of {len(insight.assigners)} assigners"
        say(screen, Text(f"{narrow}; --png draws it, -a asks fewer", style="dim"))
    untrained = [row["name"] for row in insight.assigners if row["parameters"] == "untrained"]
    if untrained:
        say(screen, f"untrained parameters of their own: {', '.join(untrained)}; judge their choices accordingly")
    likely = [row["name"] for row in insight.assigners if row["replaces"]]
    if likely:
        caution = "their positives are the locations that they name, and not all that their losses teach"
        say(screen, f"losses of their own in place of shared ones: {', '.join(likely)}; {caution}")


def _overview(insight: Insight) -> Table:
    title = (
        "positives; outside = of their box, of its centre half; contested = of the cells read, those for several boxes"
    )
    words = ("assigner", "parameters")
    columns = ("per box", "boxes without %", "outside box %", "centre %", "contested %", "IoU", "label", "rank corr.")
    table = new_table(title, (*words, *columns, *(f"/{stride} %" for stride in insight.strides)), words=words)
    for row in insight.assigners:
        shares = (row["per_box"]["without"], row["outside"]["box"], row["outside"]["centre"], row["ambiguous"]["share"])
        quality = (row["quality"][name] for name in ("iou", "label", "rank_correlation"))
        levels = row["levels"] or [None] * len(insight.strides)
        table.add_row(
            Text(row["name"]), row["parameters"], points(row["per_box"]["positives"]), *map(_percent, shares),
            *(points(value, 2) for value in quality), *map(_percent, levels),
        )  # fmt: skip
    return table


def _by_bin(insight: Insight, attribute: str) -> Table | None:
    """Positives per box, and the share of boxes without one; ``None`` where all boxes are in one bin."""
    sizes = {name: part["boxes"] for name, part in insight.assigners[0]["by"][attribute].items() if part["boxes"]}
    if len(sizes) < 2:
        return None
    units = {"size": "size, as COCO", "side": "side, input px", "aspect": "aspect, long : short"}
    title = f"positives (% without) by {units.get(attribute, attribute.replace('_', ' '))}"
    table = new_table(title, ("assigner", *(Text(f"{name}\n{counted(n, 'box', 'es')}") for name, n in sizes.items())))
    for row in insight.assigners:
        parts = [row["by"][attribute][name] for name in sizes]
        cells = [f"{points(part['positives'])} ({_percent(part['without'])})" for part in parts]
        table.add_row(Text(row["name"]), *cells)
    return table


def _agreement(insight: Insight, size: str) -> Table:
    """A heat map, in hundredths."""
    from harness.drawing.images import heat_colour, ink_on

    part = insight.agreement[size]
    boxes = counted(part["boxes"], "box" if size == "all" else f"{size} box", "es")
    table = Table(title=f"agreement x 100, {boxes}", title_justify="left", title_style="dim", padding=0)
    table.add_column("assigner")
    for number in range(1, len(insight.assigners) + 1):
        table.add_column(f" {number} ", justify="center")
    for number, (row, values) in enumerate(zip(insight.assigners, part["mass"], strict=True), start=1):
        cells = []
        for value in values:
            ground = heat_colour(value or 0.0)
            style = "rgb({},{},{}) on rgb({},{},{})".format(*ink_on(ground), *ground) if value is not None else ""
            cells.append(Text(f"{_percent(value):>4} ", style=style))
        table.add_row(Text(f"{number} {row['name']} "), *cells)
    return table


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.0f}"
