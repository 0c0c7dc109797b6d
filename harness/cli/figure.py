"""``harness figure``: the paper's Figures 4 and 5 from runs of one's own."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from harness.cli.console.options import FOLDER, device_option, json_option, option, results_option
from harness.cli.console.output import console, emit, say
from harness.core.errors import UserError
from harness.core.files import write_atomically
from harness.records.inputs import data_spec
from harness.records.schema import RunRecord
from harness.records.store import ResultsStore

if TYPE_CHECKING:
    from PIL import Image

    from harness.data.base import ImageSet
    from harness.records.details import Trace
    from harness.runs.trained import TrainedRun

LEARNING = ("iqdet", "qd", "uniform")  # assigners with an encoder
IMAGES = 4  # of figure 5


@click.command("figure")
@click.argument("number", metavar="4|5")
@option("--run", "run_ids", multiple=True, metavar="ID", help="Which runs; may be repeated.  [default: see below]")
@option("--data", metavar="SPEC", help="Data of the runs, as for `harness run`; not needed for shapes.")
@option("--eccentric", is_flag=True, help="Figure 5: of the images with the most eccentric objects.")
@option("--output", type=FOLDER, metavar="DIR", help="[default: figures beside the records]")
@device_option
@results_option
@json_option
def command(
    number: str,
    run_ids: tuple[str, ...],
    data: str | None,
    eccentric: bool,
    output: Path | None,
    device: str,
    results: Path,
    as_json: bool,
) -> None:
    """Draw a figure of the paper from finished runs, as PNG and SVG.

    \b
    4  (a) means and (b) widths of the quality distributions that a run learnt, over its validation images;
       (c) the mean IoU of positives over training: of the runs named, or of every run under the first one's
       protocol and data whose assigner has its defaults
    5  sampling locations over the first validation images with boxes, or those with the most eccentric objects: a
       row for each run, and below it the quality distributions that it learnt

    Without --run it is the newest run of iqdet (figure 4: or qd, uniform) whose weights are at hand.

    \b
    Examples:
      harness figure 4
      harness figure 4 --run iqdet-shapes-cpu-s0 --run atss-shapes-cpu-s0
      harness figure 5 --eccentric
      harness figure 5 --run iqdet-small-s0 --run atss-small-s0 --data voc:VOCdevkit/VOC2007
    """
    if eccentric and number != "5":
        raise UserError("--eccentric chooses the images of figure 5; figure 4 is of all of them")
    if number not in ("4", "5"):
        raise UserError(f"no figure {number!r}; figures 4 and 5 are made from runs, the others are drawings")
    screen = console(as_json, files=True)
    store = ResultsStore(results)

    from harness.core.device import computing, pick_device
    from harness.drawing.charts import need_matplotlib
    from harness.runs.trained import newest_trained

    asked = run_ids or (newest_trained(store, LEARNING if number == "4" else LEARNING[:1]),)
    if number == "4":
        need_matplotlib("figure 4")
    where = pick_device(device)
    with computing(where, None):
        images = _images(store, asked[0], data)
        folder = output or results / "figures"
        if number == "4":
            paths, numbers = _figure_4(store, asked, images, where, folder)
        else:
            paths, numbers = _figure_5(store, asked, images, where, folder, eccentric=eccentric)
    for path in paths:
        say(screen, f"picture {path}")
    if as_json:
        emit({"figure": int(number), "pictures": [str(path) for path in paths], **numbers})


def _images(store: ResultsStore, run_id: str, data: str | None) -> ImageSet:
    """The validation images of a run."""
    from harness.data import open_data
    from harness.records.inputs import recorded_protocol

    record = store.find(run_id)
    source = data_spec(record, data)
    images = open_data(source, recorded_protocol(record, store.root).data, role="val")
    if tuple(images.classes) != tuple(record.data.classes):
        raise UserError(
            f"{source} has other classes than run {record.run_id} was trained on; give data of the same classes"
        )
    return images


def _load(store: ResultsStore, run_id: str, images: ImageSet, device: Any) -> TrainedRun:
    from harness.runs.trained import load_trained

    trained = load_trained(store, run_id, device, with_assigner=True)
    if trained.classes != tuple(images.classes):
        raise UserError(f"run {trained.run_id} was trained on other classes than the first one; draw it alone")
    return trained


def _figure_4(
    store: ResultsStore, asked: Sequence[str], images: ImageSet, device: Any, folder: Path
) -> tuple[list[Path], dict[str, Any]]:
    from harness.drawing.charts import save
    from harness.paper.figures import components, curves, figure_4

    trained = _load(store, asked[0], images, device)
    learnt = components(trained, images)
    lines = curves(_traces(store, trained.record, asked))
    paths = save(figure_4(learnt, lines, f"{trained.run_id} on {images.title}, {images.split}"), folder / "figure-4")
    return paths, {
        "run": trained.run_id,
        "boxes": learnt.boxes,
        "components": [
            {"level": int(level), "mu": mu.tolist(), "sigma": sigma.tolist(), "share": float(share)}
            for level, mu, sigma, share in zip(learnt.level, learnt.mu, learnt.sigma, learnt.share, strict=True)
        ],
        "curves": [{"name": c.name, "seeds": c.seeds, "step": c.step, "iou_of_positives": c.value} for c in lines],
    }


def _traces(store: ResultsStore, first: RunRecord, asked: Sequence[str]) -> dict[str, list[Trace]]:
    """Learning curves by assigner: of several runs asked for, or of all at their defaults under the question of one."""
    from assigners.registry import row_name
    from harness.records.details import learning_curves, load_details
    from harness.records.identity import question_of
    from harness.records.names import changed_options, known_defaults, newest_attempts

    records = newest_attempts(store.load_all()[0])
    defaults = known_defaults(records)
    if len(asked) > 1:
        chosen = [store.find(run_id) for run_id in asked]
    else:
        same = [record for record in records if question_of(record).key == question_of(first).key]
        chosen = [r for r in same if not changed_options(r, defaults) or r.run_id == first.run_id]
    details, _ = load_details(store, [record.run_id for record in chosen])
    traces: dict[str, list[Trace]] = {}
    for record in chosen:
        known = details.get(record.run_id)
        trace = known.trace if known else learning_curves(store.folder(record.run_id).trace)
        traces.setdefault(row_name(record.assigner, changed_options(record, defaults)), []).append(trace)
    return traces


def _figure_5(
    store: ResultsStore, asked: Sequence[str], images: ImageSet, device: Any, folder: Path, *, eccentric: bool
) -> tuple[list[Path], dict[str, Any]]:
    from harness.drawing.images import save_png
    from harness.paper.figures import embedded, figure_5, most_eccentric

    if eccentric:
        chosen = most_eccentric(images, IMAGES)
    else:
        chosen = [index for index in range(len(images)) if len(images.annotations(index))][:IMAGES]
    if not chosen:
        raise UserError(f"no image of split {images.split!r} of {images.title} has a box; give other data")
    runs = [_load(store, run_id, images, device) for run_id in asked]
    title = f"sampling locations: {', '.join(trained.run_id for trained in runs)}"
    picture: Image.Image = figure_5(runs, images, chosen, title)
    name = "figure-5-eccentric" if eccentric else "figure-5"
    paths = [folder / f"{name}.svg", folder / f"{name}.png"]
    write_atomically(paths[0], embedded(picture, title))
    save_png(paths[1], picture)
    return paths, {"runs": [t.run_id for t in runs], "images": [images.name(index) for index in chosen]}
