"""``harness data``: read a whole data set, say all that is odd about it, and draw its boxes as they will be learnt."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console
from rich.text import Text

from harness.cli.console.options import FOLDER, json_option, option, results_option, set_option, workers_option
from harness.cli.console.output import Stopped, console, emit, new_table, say
from harness.cli.console.requests import choose_protocol
from harness.cli.console.tables import show
from harness.core.text import counted

if TYPE_CHECKING:
    from harness.data.survey import Survey

MOST_CLASSES = 40  # rows of the table; the rest is in --json


@click.command("data")
@click.argument("source", metavar="SPEC")
@option("--train-split", metavar="NAME", help="Split to open as for training; the data set's own by default.")
@option("--val-split", metavar="NAME", help="Split to open as for evaluation; the data set's own by default.")
@option("--protocol", "protocol_name", metavar="NAME|FILE.toml", help="Whose sizes; as for `harness run`.")
@set_option("data.short_edge=512")
@option(
    "--output", type=FOLDER, default=Path("data-sheets"), show_default="./data-sheets",
    help="Folder of the contact sheets.",
)  # fmt: skip
@option("--images", type=click.IntRange(min=0), default=24, help="On each sheet; 0 for none.")
@workers_option("decode images")
@results_option
@json_option
def command(
    source: str,
    train_split: str | None,
    val_split: str | None,
    protocol_name: str | None,
    overrides: tuple[str, ...],
    output: Path,
    images: int,
    workers: int | None,
    results: Path,
    as_json: bool,
) -> None:
    """Read all of a data set, as `harness run` reads it, before anybody trains on it.

    Every image is decoded, once: what was found is remembered under the results directory, if there is one. The sheets
    show images that are odd first, with their boxes as they will be learnt.

    Exit code 0 where a run could begin, 1 where it could not.

    \b
    Examples:
      harness data voc:VOCdevkit/VOC2007
      harness data coco:data/coco --protocol my.toml --images 60 --output sheets
      harness data coco:mine --set 'data.classes=["cat", "dog"]' --json
    """
    screen = console(as_json)
    protocol, _ = choose_protocol(source, protocol_name, overrides, train_split, val_split)

    from harness.analysis.data_sheet import draw
    from harness.core.device import default_workers
    from harness.data.check import CHECKED
    from harness.data.survey import survey, worth_a_look
    from harness.drawing.images import save_png

    remember = results / CHECKED if results.is_dir() else None
    surveyed = survey(source, protocol, remember, default_workers(workers), screen)
    _print(screen, surveyed)
    sheets = []
    for role, split in surveyed.splits.items():
        chosen = worth_a_look(split.images, images)
        if chosen:
            path = output / f"{split.images.title}-{role}.png"
            shown = f"{len(chosen)} of {counted(len(split.images), 'image')}"
            title = f"{split.images.title}, {split.images.split} ({role}): {shown}"
            save_png(path, draw(split.images, chosen, protocol.data, title))
            sheets.append(str(path))
            say(screen, f"sheet        {path}")
    for line in surveyed.problems:
        say(screen, Text(f"problem: {line}", style="bold red"))
    if as_json:
        splits: dict[str, Any] = {role: split.to_json() for role, split in surveyed.splits.items()}
        emit({"ok": not surveyed.problems, "problems": list(surveyed.problems), "splits": splits, "sheets": sheets})
    if surveyed.problems:
        raise Stopped(f"data: {counted(len(surveyed.problems), 'problem')}", 1)
    say(screen, "a run can begin")


def _print(screen: Console, surveyed: Survey) -> None:
    splits = {role: split.to_json() for role, split in surveyed.splits.items()}
    title = next(iter(surveyed.splits.values())).images.title
    table = new_table(title, ("", *(f"{role}: {part['split']}" for role, part in splits.items())), words=("",))
    for name, words in (
        ("images", "images"),
        ("images_without_object", "of them without an object"),
        ("objects", "objects that are learnt"),
        ("not_learnt", "regions and objects that are not"),
    ):
        table.add_row(words, *(str(part[name]) for part in splits.values()))
    for level in next(iter(splits.values()))["levels"]:
        table.add_row(f"objects by size: {level}", *(str(part["levels"][level]) for part in splits.values()))
    show(screen, table)
    _print_classes(screen, splits)
    for split in surveyed.splits.values():
        for line in split.images.warnings.lines(f" in split {split.images.split}"):
            say(screen, Text(f"warning: {line}", style="yellow"))


def _print_classes(screen: Console, splits: dict[Any, dict[str, Any]]) -> None:
    table = new_table("learnt objects by class", ("class", *splits), words=("class",))
    names = list(dict.fromkeys(name for part in splits.values() for name in part["classes"]))
    for name in names[:MOST_CLASSES]:
        table.add_row(Text(name), *(str(part["classes"].get(name, "-")) for part in splits.values()))
    show(screen, table)
    if len(names) > MOST_CLASSES:
        say(screen, f"and {len(names) - MOST_CLASSES} classes more; --json has them")
