"""``harness bench e2e``: the whole detector beside torchvision's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING

import click
from rich.table import Table

from harness.cli.console.bench import Setting, boxes_option, classes_option, images_option, record, setting_options
from harness.cli.console.options import option
from harness.cli.console.output import console, emit, new_table, say
from harness.cli.console.requests import chosen_assigner
from harness.cli.console.tables import show

if TYPE_CHECKING:
    from harness.bench.end_to_end import Beside

FILE = "e2e.csv"


@click.command("e2e", short_help="The whole detector beside torchvision's FCOS.")
@option("-a", "--assigner", default="center", metavar="NAME[K=V,...]", help="Of ours.")
@images_option
@boxes_option
@classes_option
@option("--precision", type=click.Choice(["float32", "bfloat16"]), default="float32", help="Of both.")
@option("--seconds", type=click.FloatRange(min=0), default=60.0, help="Of each part's turns.")
@setting_options("512x512")
def e2e_command(
    assigner: str, images: int, boxes: int, classes: int, precision: str, seconds: float, setting: Setting
) -> None:
    """Time a training step, inference and post-processing beside torchvision's FCOS.

    Both have the same ResNet-50, pyramid and head with random weights, the same images and boxes, and are called in
    turns in one process; the ratio is that of neighbouring calls. The floor is what our convolutions would take at the
    rate of a product of large matrices on this device: no detector with this network can be much faster. Below stands
    where our step spends its time. Rows go to bench/e2e.csv among the results.

    \b
    Examples:
      harness bench e2e
      harness bench e2e --device cuda --images 16 --size 800x1344 --precision bfloat16
    """
    name, options = chosen_assigner(assigner)
    screen, path = console(setting.as_json, files=True), setting.results / "bench" / FILE

    from harness.bench.end_to_end import Batch, Duel
    from harness.training.build import resolve_assigner

    with setting.computing() as (where, machine):
        duel = Duel(resolve_assigner(name, options), Batch(images, boxes, classes, setting.size, precision), where)
        rows = []
        for row in duel.measure(seconds):
            rows.append(row)
            record(path, row, machine)
            say(screen, f"measured: {row.part}")
        parts = duel.profile()
    show(screen, _beside_table(rows))
    show(screen, _parts_table(parts))
    say(screen, f"rows in {path}")
    if setting.as_json:
        emit({"environment": machine, "rows": [asdict(row) for row in rows], "step_ms": parts})


def _beside_table(rows: list[Beside]) -> Table:
    from harness.bench.measurements import short

    first = rows[0]
    title = f"{first.images} images of {first.size} px, {first.boxes} boxes each, {first.precision}, ResNet-50"
    columns = ("part", "ours ms", "torchvision ms", "ours / theirs", "quartiles", "floor ms", "turns")
    table = new_table(title, columns, words=("part",))
    for row in rows:
        numbers = (short(row.ours_ms), short(row.theirs_ms), f"{row.times:.2f}", f"{row.low:.2f}-{row.high:.2f}")
        table.add_row(row.part, *numbers, short(row.floor_ms), str(row.turns))
    return table


def _parts_table(parts: Mapping[str, float]) -> Table:
    total = sum(parts.values())
    table = new_table("our training step", ("part", "ms", "%"), words=("part",))
    for part, milliseconds in parts.items():
        table.add_row(part, f"{milliseconds:.1f}", f"{100 * milliseconds / total:.1f}")
    return table
