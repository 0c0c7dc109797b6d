"""``harness inspect``: what an assigner makes of one image, drawn; and why a box has no positive."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from harness.cli.console.options import FILE, device_option, json_option, option, results_option, set_option
from harness.cli.console.output import console, emit, new_table, say
from harness.cli.console.requests import choose_protocol, chosen_assigner, parse_pairs
from harness.cli.console.tables import show
from harness.core.errors import UserError
from harness.data.sources import EMBEDDED, SPECS
from harness.records.store import ResultsStore

if TYPE_CHECKING:
    from harness.analysis.one_image import Answer


@click.command("inspect")
@option("-a", "--assigner", metavar="NAME[K=V,...]", help="Which one; may be left out with --run.")
@option("--option", "options", multiple=True, metavar="K=V", help="An option of the assigner; may be repeated.")
@option("--data", metavar="SPEC", help=f"{SPECS}.  [default: shapes]")
@option("--split", metavar="NAME", help="Split of the data; the one trained on by default.")
@option("--image", default="0", metavar="NAME|INDEX", help="Which image of the split.")
@option("--box", type=click.IntRange(min=0), metavar="K", help="Explain this box, numbered as in the picture.")
@option("--run", "run_id", metavar="ID", help="Use the weights of this run, and what its assigner learnt.")
@option("--protocol", "protocol_name", metavar="NAME|FILE.toml", help="As for `harness run`; a run has its own.")
@set_option("data.short_edge=256")
@option("--seed", type=click.IntRange(min=0), default=0, help="Of weights and draws.")
@device_option
@option("--output", type=FILE, metavar="FILE.png", help="[default: ./inspect.png]")
@results_option
@json_option
def command(
    assigner: str | None,
    options: tuple[str, ...],
    data: str | None,
    split: str | None,
    image: str,
    box: int | None,
    run_id: str | None,
    protocol_name: str | None,
    overrides: tuple[str, ...],
    seed: int,
    device: str,
    output: Path | None,
    results: Path,
    as_json: bool,
) -> None:
    """Draw the samples that an assigner takes from one image, with their soft labels, and tabulate them by box.

    Without --run the detector is freshly initialised, as at the first step of training. With --run its weights are
    those of the run; another assigner than the run's own can be asked about them. --box K asks the assigner again with
    the box alone, without its rivals and enlarged, and says what decides.

    \b
    Examples:
      harness inspect --assigner atss
      harness inspect -a iqdet --image 7 --seed 1 --output iqdet.png
      harness inspect --run iqdet-shapes-cpu-s0 --box 2
      harness inspect -a paa --run center-small-s0 --data voc:VOCdevkit/VOC2007 --image 000005
    """
    screen = console(as_json, files=True)
    target = output or Path("inspect.png")
    if assigner is None and run_id is None:
        raise UserError("name an assigner with --assigner, or a run with --run; `harness ls` lists both")
    if run_id is not None and (protocol_name or overrides):
        raise UserError("--run brings its own protocol; leave out --protocol and --set")
    if target.suffix.lower() != ".png":
        raise UserError(f"--output {target} must end in .png")
    name, chosen = chosen_assigner(assigner, options) if assigner else (None, parse_pairs(options))

    from harness.analysis.one_image import ask, of_run, untrained
    from harness.core.device import pick_device

    where = pick_device(device)
    if run_id is not None:
        source = of_run(ResultsStore(results), run_id, name, chosen, data, seed, where)
    else:
        assert name is not None
        protocol, _ = choose_protocol(data or EMBEDDED, protocol_name, overrides, None, None)
        source = untrained(protocol, data or EMBEDDED, name, chosen)
    answer = ask(source, split, image, box, seed, where)
    _show(screen, answer, target)
    if as_json:
        emit(_as_json(answer, seed, target))


def _show(screen: Console, answer: Answer, target: Path) -> None:
    """The picture as a file, the boxes as a table."""
    from harness.data.splits import say_warnings
    from harness.drawing.images import save_png
    from harness.inspection.one_image import box_rows
    from harness.inspection.one_image_sheet import draw

    say_warnings(screen, answer.images)
    view, drawn, explanation = answer.view, answer.drawn, answer.explanation
    save_png(target, draw(view, drawn, answer.mixture, explanation, answer.title))
    say(screen, answer.title)
    show(screen, _table(box_rows(view, drawn)), ("as input px", "size px"))
    if answer.replaced:
        terms = f"its own losses stand for the shared {' and '.join(answer.replaced)} loss"
        say(screen, f"{terms}: shown are the locations that it names, and not all that these teach")
    if explanation is not None:
        say(screen, explanation.text)
    say(screen, f"picture {target}")


def _as_json(answer: Answer, seed: int, target: Path) -> dict[str, Any]:
    """What was asked and what the picture shows, as numbers."""
    from harness.inspection.one_image import box_rows, mixture_rows, sample_rows

    source, view, explanation = answer.source, answer.view, answer.explanation
    return {
        "assigner": source.assigner, "options": source.options, "run_id": source.run_id, "detector": source.detector,
        "data": source.data, "split": answer.images.split, "seed": seed, "picture": str(target),
        "boxes": box_rows(view, answer.drawn), "explanation": explanation.as_json() if explanation else None,
        "image": view.name, "height": view.original[0], "width": view.original[1], "input_height": view.size[0],
        "input_width": view.size[1], "strides": list(view.grid.strides), "samples": sample_rows(view, answer.drawn),
        "mixture": mixture_rows(view, *answer.mixture) if answer.mixture else None,
    }  # fmt: skip


def _table(rows: list[dict[str, Any]]) -> Table:
    from harness.inspection.counterfactuals import by_level

    columns = ("box", "class", "size px", "as input px", "positives", "on levels", "label", "IoU of predictions")
    title = "label and IoU: min, mean, max over the positives"
    table = new_table(title, columns, words=("class", "on levels"))
    for row in rows:
        sizes = [f"{width:.4g} x {height:.4g}" for width, height in (row["size"], row["input_size"])]
        counts = row.get("positives")
        cells = [str(sum(counts)), by_level(tuple(counts))] if counts is not None else ["-", row["fate"]]
        spreads = [_spread(row.get(name)) for name in ("label", "iou")]
        table.add_row(str(row["box"]), Text(row["class"]), *sizes, *cells, *spreads)
    return table


def _spread(values: Mapping[str, float] | None) -> str:
    return "-" if values is None else " ".join(f"{values[name]:.2f}" for name in ("min", "mean", "max"))
