"""``harness predict``: detect objects in images with the weights of a run, and draw them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.table import Table
from rich.text import Text

from harness.cli.console.options import FOLDER, device_option, json_option, option, results_option
from harness.cli.console.output import console, emit, new_table, points, say
from harness.core.errors import UserError, shorten
from harness.core.files import dump, write_atomically
from harness.core.text import counted
from harness.records.store import ResultsStore

if TYPE_CHECKING:
    from harness.data.readers.unannotated import Picture, PictureList, PictureSet
    from harness.evaluation.inference import Detections
    from harness.runs.trained import TrainedRun

JSON_FILE = "predictions.json"


@click.command("predict")
@click.argument("images", nargs=-1, required=True, metavar="IMAGE...")
@option("--run", "run_id", metavar="ID", help="A run, or the beginning of its id.  [default: the newest]")
@option(
    "--output", type=FOLDER, default=Path("predictions"), show_default="./predictions",
    help="Folder of the pictures and predictions.json.",
)  # fmt: skip
@option("--threshold", type=click.FloatRange(0, 1), default=0.5, help="Least score that is shown.")
@device_option
@results_option
@json_option
def command(
    images: tuple[str, ...],
    run_id: str | None,
    output: Path,
    threshold: float,
    device: str,
    results: Path,
    as_json: bool,
) -> None:
    """Detect objects in images with the weights of a run.

    IMAGE is a file, a folder (all images in it), or shapes:INDEX, an image of the embedded data. Boxes are in pixels
    of the image as viewers show it, turned by its EXIF orientation. Hidden files of a folder are left out, and so are
    unreadable ones, which are named here and in predictions.json; nothing is written where an image that you name
    cannot be read, or none of a folder.

    \b
    Examples:
      harness predict shapes:3
      harness predict photo.jpg scans/ --run iqdet-small-s0 --threshold 0.2
      harness predict photo.jpg --output found --json
    """
    screen = console(as_json, files=True)

    from harness.core.device import computing, pick_device
    from harness.core.distributed import Processes
    from harness.data.readers.unannotated import PictureSet, find_pictures
    from harness.evaluation.inference import detect
    from harness.runs.trained import load_trained, newest_trained

    store = ResultsStore(results)
    chosen = pick_device(device)
    trained = load_trained(store, run_id or newest_trained(store), chosen)
    say(screen, f"run {trained.run_id}{'' if run_id else ', the newest with weights'}")
    # One image at a time: padding to a common shape would let an image's neighbours move its scores.
    evaluation = trained.protocol.evaluation.model_copy(update={"batch_size": 1})
    protocol = trained.protocol.model_copy(update={"evaluation": evaluation})
    listed = find_pictures(images, protocol.data.short_edge)
    pictures = listed.pictures
    if listed.skipped:
        say(console(as_json=True), _left_out(listed))
    _spare_the_originals(pictures, output)
    shown = PictureSet(pictures, trained.classes, protocol.data.short_edge)
    with computing(chosen, None):
        detections, _ = detect(trained.model, shown, protocol, chosen, 0, Processes(), screen)
    report = _report(trained, listed, detections, threshold)
    _write(output, report, shown)
    screen.print(_table(report["images"]))
    best = max((float(each["scores"].max()) for each in detections if len(each["scores"])), default=None)
    if best is None:
        least = protocol.evaluation.score_threshold
        say(screen, f"no detection: no class probability is above {least:g} (evaluation.score_threshold of the run)")
    elif best < threshold:
        say(screen, f"no detection scores {threshold:g}; the best is {best:.3f}, lower --threshold to see it")
    say(screen, f"pictures and {JSON_FILE} are in {output}")
    if as_json:
        emit(report)


def _spare_the_originals(pictures: Sequence[Picture], output: Path) -> None:
    written = {(output / f"{picture.stem}.png").resolve() for picture in pictures}
    for picture in pictures:
        if isinstance(picture.source, Path) and picture.source.resolve() in written:
            raise UserError(f"image {picture.name} would be overwritten by a drawing; choose another --output")


def _left_out(listed: PictureList) -> str:
    names = ", ".join(name for name, _ in listed.skipped)
    hidden = f", besides {counted(listed.hidden, 'hidden file')}" if listed.hidden else ""
    unreadable = counted(len(listed.skipped), "unreadable image")
    return f"warning: {unreadable} left out{hidden}: {shorten(names)}; {JSON_FILE} says why"


def _report(
    trained: TrainedRun, asked: PictureList, detections: Sequence[Detections], threshold: float
) -> dict[str, Any]:
    """What predictions.json holds: the run, the images, their detections."""
    images = []
    for picture, found in zip(asked.pictures, detections, strict=True):
        rows = [row for row, score in enumerate(found["scores"]) if score >= threshold]
        images.append({
            "image": picture.name,
            "picture": f"{picture.stem}.png",
            "height": picture.size[0],
            "width": picture.size[1],
            "boxes": [[round(float(value), 3) for value in found["boxes"][row]] for row in rows],
            "scores": [round(float(found["scores"][row]), 6) for row in rows],
            "labels": [int(found["labels"][row]) for row in rows],
            "names": [trained.classes[found["labels"][row]] for row in rows],
        })  # fmt: skip
    return {
        "run_id": trained.run_id, "assigner": trained.record.assigner, "classes": list(trained.classes),
        "threshold": threshold, "images": images, "hidden": asked.hidden,
        "skipped": [{"image": name, "reason": why} for name, why in asked.skipped],
    }  # fmt: skip


def _write(output: Path, report: dict[str, Any], shown: PictureSet) -> None:
    """A picture per image, then the file that names them all."""
    from harness.drawing.images import Panel, colour_of, save_png, sheet

    for index, row in enumerate(report["images"]):
        panel = Panel(shown.load(index))
        # The best last, so that its outline lies on top of the others'.
        for box, score, label, name in reversed(
            list(zip(row["boxes"], row["scores"], row["labels"], row["names"], strict=True))
        ):
            panel.box(box, f"{name} {score:.2f}", colour_of(label))
        title = f"{Path(row['image']).name}   {report['run_id']}   score >= {report['threshold']:g}"
        save_png(output / row["picture"], sheet([[panel]], title, []))
    write_atomically(output / JSON_FILE, dump(report))


def _table(images: Sequence[dict[str, Any]]) -> Table:
    table = new_table(None, ("image", "detections", "best", "picture"), words=("image", "picture"))
    for row in images:
        best = points(max(row["scores"], default=None), 2)
        table.add_row(Text(row["image"]), str(len(row["boxes"])), best, Text(row["picture"]))
    return table
