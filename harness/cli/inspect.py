"""``harness inspect``: what an assigner makes of one image, drawn; and why a box has no positive."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.table import Table
from rich.text import Text

from assigners import registry
from harness.cli.console.options import device_option, json_option, results_option, set_option
from harness.cli.console.output import console, emit, say
from harness.cli.console.tables import show
from harness.cli.run import choose_protocol, parse_pair
from harness.core.errors import UserError
from harness.data.sources import EMBEDDED
from harness.records.inputs import data_spec
from harness.records.store import ResultsStore

if TYPE_CHECKING:
    from collections.abc import Mapping

    import torch

    from assigners.rules.iqdet.encoder import Mixture
    from detector import FCOS
    from harness.data.base import ImageSet
    from harness.inspection.one_image import Drawn, View
    from harness.protocol.protocol import Protocol

Rows = list[dict[str, Any]]


@click.command("inspect", short_help="Draw an assigner's samples; tell why a box has no positive.")
@click.option("-a", "--assigner", metavar="NAME[K=V,...]", help="Which one; may be left out with --run.")
@click.option("--option", "options", multiple=True, metavar="K=V", help="An option of the assigner; may be repeated.")
@click.option("--data", metavar="SPEC", help="shapes, coco:DIR, voc:DIR or wider:DIR.  [default: shapes]")
@click.option("--split", metavar="NAME", help="Split of the data; the one trained on by default.")
@click.option("--image", default="0", show_default=True, metavar="NAME|INDEX", help="Which image of the split.")
@click.option("--box", type=click.IntRange(min=0), metavar="K", help="Explain this box, numbered as in the picture.")
@click.option("--run", "run_id", metavar="ID", help="Use the weights of this run, and what its assigner learnt.")
@click.option("--protocol", "protocol_name", metavar="NAME|FILE.toml", help="As for `harness run`; a run has its own.")
@set_option("data.short_edge=256")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of weights and draws.")
@device_option
@click.option(
    "--output", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE.png", help="[default: ./inspect.png]"
)
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
    _check_words(assigner, run_id, bool(protocol_name or overrides), target)
    name, chosen = registry.parse_spec(assigner) if assigner else (None, {})
    chosen |= dict(parse_pair(text) for text in options)
    if name is not None:
        registry.find(name)  # a wrong name is told before torch is loaded

    from harness.core.device import computing, pick_device
    from harness.data import open_data
    from harness.data.splits import say_warnings
    from harness.drawing.images import save_png
    from harness.inspection.counterfactuals import explain
    from harness.inspection.one_image import assign, box_rows, find_image, look, mixtures
    from harness.inspection.one_image_sheet import draw

    where = pick_device(device)
    if run_id is not None:
        model, protocol, data, state = _trained(ResultsStore(results), run_id, name, chosen, data, seed, where)
    else:
        data = data or EMBEDDED
        protocol, _ = choose_protocol(data, protocol_name, overrides, None, None)
    if split:
        protocol = protocol.model_copy(update={"data": protocol.data.model_copy(update={"train_split": split})})
    images = open_data(data, protocol.data, role="train")
    say_warnings(screen, images)
    index = find_image(images, image)
    if box is not None and box >= len(images.annotations(index)):
        raise UserError(_no_such_box(images, index, box))
    if run_id is None:
        assert name is not None
        model, state = _fresh(protocol, images, name, chosen, seed, where)
    elif model.head_info.num_classes != len(images.classes):
        raise UserError(
            f"{data} has {len(images.classes)} classes, run {state['run_id']} was trained on "
            f"{model.head_info.num_classes}; give data of the same classes"
        )
    step = _step(seed, protocol, trained=run_id is not None)
    with computing(where, None):
        view = look(model, images, index, protocol)
        drawn = assign(model, view, step, range(view.targets.num_boxes))
        mixture = mixtures(model, view)
        explanation = explain(model, view, step, drawn, box) if box is not None else None
    assert model.assigner is not None
    title = f"{state['assigner']} on {view.name}, {state['detector']}"
    save_png(target, draw(view, drawn, mixture, explanation, title))
    rows = box_rows(view, drawn)
    say(screen, title)
    show(screen, _table(rows, view), ("as input px", "size px"))
    if replaced := sorted(model.assigner.declares.replaces):
        terms = f"its own losses stand for the shared {' and '.join(replaced)} loss"
        say(screen, f"{terms}: shown are the locations that it names, and not all that these teach")
    if explanation is not None:
        say(screen, explanation.text)
    say(screen, f"picture {target}")
    if as_json:
        asked = {"data": data, "split": images.split, "seed": seed, "picture": str(target)}
        told = {"boxes": rows, "explanation": explanation.as_json() if explanation else None}
        emit({**state, **asked, **told, **_drawn_json(view, drawn, mixture)})


def _check_words(assigner: str | None, run_id: str | None, protocol_given: bool, target: Path) -> None:
    """Refuse words that do not go together."""
    if assigner is None and run_id is None:
        raise UserError("name an assigner with --assigner, or a run with --run; `harness ls` lists both")
    if run_id is not None and protocol_given:
        raise UserError("--run brings its own protocol; leave out --protocol and --set")
    if target.suffix.lower() != ".png":
        raise UserError(f"--output {target} must end in .png")


def _drawn_json(view: View, drawn: Drawn, mixture: tuple[Mixture, torch.Tensor] | None) -> dict[str, Any]:
    """What the picture shows, as numbers."""
    from harness.inspection.one_image import mixture_rows, sample_rows

    return {
        "image": view.name, "height": view.original[0], "width": view.original[1], "input_height": view.size[0],
        "input_width": view.size[1], "strides": list(view.grid.strides), "samples": sample_rows(view, drawn),
        "mixture": mixture_rows(view, *mixture) if mixture else None,
    }  # fmt: skip


def _step(seed: int, protocol: Protocol, *, trained: bool) -> Any:
    """The first step of training, or the one after the last: schedules and draws depend on it."""
    from assigners.contract import Step

    return Step(seed, protocol.schedule.steps, 1.0) if trained else Step(seed)


def _fresh(
    protocol: Protocol, images: ImageSet, name: str, options: Mapping[str, object], seed: int, device: torch.device
) -> tuple[FCOS, dict[str, Any]]:
    """A detector that has not learnt anything, and what to call it."""
    from harness.training.build import attach_assigner, build_detector, resolve_assigner

    resolved, _ = resolve_assigner(name, dict(options))
    model = build_detector(protocol, len(images.classes), seed)
    attach_assigner(model, name, resolved, seed)
    state = {"assigner": name, "options": resolved, "run_id": None, "detector": "an untrained detector"}
    return model.to(device).eval(), state


def _trained(
    store: ResultsStore,
    run_id: str,
    name: str | None,
    options: Mapping[str, object],
    data: str | None,
    seed: int,
    device: torch.device,
) -> tuple[FCOS, Protocol, str, dict[str, Any]]:
    """A run's detector with its own assigner or another one, its protocol, the data, and what to call it."""
    from harness.runs.trained import load_trained
    from harness.training.build import attach_assigner, resolve_assigner

    record = store.find(run_id)
    data = data_spec(record, data)
    name = name or record.assigner
    own = name == record.assigner
    resolved, _ = resolve_assigner(name, {**(record.options if own else {}), **options})
    own = own and resolved == record.options
    trained = load_trained(store, record.run_id, device, with_assigner=own)
    detector = f"the detector of run {trained.run_id}"
    if not own:
        assigner = attach_assigner(trained.model, name, resolved, seed).to(device)
        if any(True for _ in assigner.parameters()):
            detector += ", the assigner's own parameters untrained"
    state = {"assigner": name, "options": resolved, "run_id": trained.run_id, "detector": detector}
    return trained.model.eval(), trained.protocol, data, state


def _no_such_box(images: ImageSet, index: int, box: int) -> str:
    count = len(images.annotations(index))
    known = f"its boxes are 0 to {count - 1}" if count else "it has none"
    return f"image {images.name(index)} has no box {box}; {known}"


def _table(rows: Rows, view: View) -> Table:
    from harness.inspection.counterfactuals import by_level

    table = Table(title="label and IoU: min, mean, max over the positives", title_justify="left", title_style="dim")
    for name in ("box", "class", "size px", "as input px", "positives", "on levels", "label", "IoU of predictions"):
        table.add_column(name, justify="left" if name in ("class", "on levels") else "right")
    for row in rows:
        sizes = [f"{width:.4g} x {height:.4g}" for width, height in (row["size"], row["input_size"])]
        counts = row.get("positives")
        cells = [str(sum(counts)), by_level(tuple(counts))] if counts is not None else ["-", row["fate"]]
        spreads = [_spread(row.get(name)) for name in ("label", "iou")]
        table.add_row(str(row["box"]), Text(row["class"]), *sizes, *cells, *spreads)
    return table


def _spread(values: Mapping[str, float] | None) -> str:
    return "-" if values is None else " ".join(f"{values[name]:.2f}" for name in ("min", "mean", "max"))
