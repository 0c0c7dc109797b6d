"""The paper's Figures 4 and 5 from runs of one's own: what a quality distribution learnt, and where samples lie.

4(a) means and 4(b) widths of the Gaussian components, one point each; 4(c) the mean IoU of the positives over
training, for several assigners; 5 the sampling locations over images.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from statistics import fmean
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from PIL import Image

from assigners.contract import Step
from assigners.rules.iqdet.iqdet import IQDet
from assigners.samplers.negatives import unsampled
from harness.core.errors import UserError
from harness.data.base import ImageSet
from harness.drawing.charts import INK, LETTER, SERIES, SOFT, line, new_figure, styled
from harness.drawing.images import LegendEntry, Panel, Pen, png, sheet
from harness.drawing.svg import element, png_uri
from harness.inspection.one_image import FIRST_LEVEL, assign, look, mixtures
from harness.inspection.one_image_sheet import overview, quality_panel
from harness.records.details import Trace
from harness.runs.trained import TrainedRun

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Floats = npt.NDArray[np.float64]

REACH = 1.6  # half sides of the box that 4(a) shows at each side
MOST_POINTS = 4000  # that one chart can show; of more, every k-th is drawn
IMAGE_SIDE = 420  # px of an image of figure 5


@dataclass(frozen=True)
class Components:
    """Gaussian components of many boxes on their usable levels; n of them.

    Attributes:
        mu, sigma: ``[n, 2]`` in half sides of the box, mu from its centre.
        level: ``[n]`` 0 is the finest.
        share: ``[n]`` of the components of one box and level, in [0, 1].
        boxes: how many boxes they are of.
    """

    mu: Floats
    sigma: Floats
    level: npt.NDArray[np.int64]
    share: Floats
    boxes: int


@dataclass(frozen=True)
class IouCurve:
    """The mean IoU of positives of one assigner."""

    name: str  # as ``--assigner`` takes it
    seeds: int  # how many runs it is the mean of
    step: tuple[float, ...]
    value: tuple[float, ...]  # at each step


def components(trained: TrainedRun, images: ImageSet) -> Components:
    """The quality distributions of every box of a split, as the run's encoder predicts them.

    Raises:
        UserError: if the run's assigner learns none, or no box reaches it.
    """
    if not isinstance(unsampled(trained.model.assigner), IQDet):
        raise UserError(
            f"run {trained.run_id} is of {trained.record.assigner}, which learns no quality distribution; figure 4 "
            "needs a run of iqdet, qd or uniform"
        )
    parts: list[tuple[Floats, ...]] = []
    boxes = 0
    for index in range(len(images)):
        view = look(trained.model, images, index, trained.protocol)
        learnt = mixtures(trained.model, view)
        if learnt is None or not view.targets.num_boxes:
            continue
        mixture, usable = learnt
        box, level = usable.nonzero(as_tuple=True)
        boxes += usable.shape[0]
        chosen = mixture[box, level]
        share = chosen.log_pi.softmax(dim=-1)
        levels = level[:, None].expand(share.shape)
        arrays = (chosen.mu.flatten(0, 1), chosen.sigma.flatten(0, 1), levels.flatten(), share.flatten())
        parts.append(tuple(array.double().numpy() for array in arrays))
    if not parts:
        raise UserError(f"no box of split {images.split!r} of {images.title} reaches the assigner; give other data")
    mu, sigma, level_of, share_of = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    return Components(mu, sigma, level_of.astype(np.int64), share_of, boxes)


def curves(entries: Mapping[str, Sequence[Trace]]) -> list[IouCurve]:
    """Means over seeds of the mean IoU of positives.

    Args:
        entries: the traces (`harness.records.details`) of each assigner's runs, by name. Runs without that statistic
            are left out, and steps that not all of an assigner's runs have.
    """
    means = []
    for name, traces in entries.items():
        known = [
            {step: value for step, value in zip(trace.step, values, strict=True) if value is not None}
            for trace in traces
            if (values := trace.statistics.get("iou_of_positives"))
        ]
        steps = sorted(set.intersection(*map(set, known))) if known else []
        if steps:
            means.append(IouCurve(name, len(known), tuple(steps), tuple(fmean(k[s] for k in known) for s in steps)))
    return sorted(means, key=lambda curve: (-curve.value[-1], curve.name))


@styled
def figure_4(learnt: Components, lines: Sequence[IouCurve], title: str) -> Figure:
    """Three charts in a row: what one run learnt, and the lines, best first; none leaves (c) empty."""
    kept = np.arange(len(learnt.level))[:: max(1, len(learnt.level) // MOST_POINTS)]
    notes = f"{len(kept)} components of {learnt.boxes} boxes on their usable levels; darker: larger share"
    names = max((len(_label(curve)) for curve in lines), default=0)
    figure = new_figure(14 + LETTER * names, 5.4, f"Figure 4: {title}", notes)
    means, widths, training = figure.subplots(1, 3)
    # (a) in the box's own frame, y downwards as in the image; what lies outside is put on the rim.
    means.set(title="(a) means of the components", xlabel="x, half sides from the centre", ylabel="y")
    means.set(xlim=(-REACH, REACH), ylim=(REACH, -REACH))
    _points(means, learnt, np.clip(learnt.mu, -REACH, REACH), kept)
    means.plot([-1, 1, 1, -1, -1], [-1, -1, 1, 1, -1], color=INK)
    means.text(-0.97, -0.95, "box", va="top")
    # (b) along x and y.
    most = float(np.quantile(learnt.sigma, 0.995)) * 1.05
    widths.set(title="(b) standard deviations of the components", xlabel="along x, half sides", ylabel="along y")
    widths.set(xlim=(0, most), ylim=(0, most))
    _points(widths, learnt, np.minimum(learnt.sigma, most), kept)
    for level in sorted({*learnt.level.tolist()}):
        widths.scatter([], [], color=SERIES[level % len(SERIES)], label=f"P{FIRST_LEVEL + level}")
    widths.legend(loc="upper left", handlelength=1, frameon=True, edgecolor="none")
    _training(training, lines)
    for axes in (means, widths, training):
        axes.set_box_aspect(1)
    return figure


def _points(axes: Axes, learnt: Components, places: Floats, kept: npt.NDArray[np.int64]) -> None:
    """A disc for each component that is kept, the clearer the larger its share."""
    from matplotlib.colors import to_rgba_array

    ink = to_rgba_array(SERIES)[learnt.level[kept] % len(SERIES)]
    ink[:, 3] = 0.12 + 0.5 * learnt.share[kept]
    axes.locator_params(nbins=6)
    # Pixels in the SVG too: thousands of discs as shapes are a megabyte.
    axes.scatter(places[kept, 0], places[kept, 1], s=9, c=ink, linewidths=0, clip_on=False, rasterized=True)


def _training(axes: Axes, lines: Sequence[IouCurve]) -> None:
    """(c), the lines named in the order of their ends."""
    axes.set_title("(c) mean IoU of the positives")
    if not lines:
        axes.axis("off")
        axes.text(0, 0.5, "no learning curve at hand", color=SOFT)
        return
    axes.set(xlabel="training step", ylabel="IoU")
    for series, curve in enumerate(lines):
        axes.plot(curve.step, curve.value, **{**line(series), "marker": ""}, label=_label(curve))
    axes.set_xlim(left=0)
    axes.legend(loc="upper left", bbox_to_anchor=(1, 1))


def _label(curve: IouCurve) -> str:
    return curve.name + (f" ({curve.seeds} seeds)" if curve.seeds > 1 else "")


def figure_5(runs: Sequence[TrainedRun], images: ImageSet, chosen: Sequence[int], title: str) -> Image.Image:
    """Sampling locations: a row of images for each run, and one of the quality distributions where it learns them."""
    rows: list[list[Panel]] = []
    levels: set[int] = set()
    for trained in runs:
        places, learnt = [], []
        for index in chosen:
            view = look(trained.model, images, index, trained.protocol)
            step = Step(int(trained.record.seed), trained.protocol.schedule.steps, 1.0)
            drawn = assign(trained.model, view, step, range(view.targets.num_boxes))
            panel = overview(view, drawn, None, IMAGE_SIDE)
            panel.title = f"{trained.record.assigner}, {view.name}"
            levels |= set(drawn.level.tolist())
            places.append(panel)
            if (mixture := mixtures(trained.model, view)) is not None:
                learnt.append(quality_panel(view, drawn, *mixture, IMAGE_SIDE))
                learnt[-1].title = f"{trained.record.assigner}: learnt quality"
        rows += [places, learnt] if learnt else [places]
    legend = [
        LegendEntry(partial(Pen.dot, level=level, label=1.0), f"P{FIRST_LEVEL + level}") for level in sorted(levels)
    ]
    legend.append(LegendEntry(lambda pen, x, y: pen.dot(x, y, 0, 0.0), "dark: soft label 0"))
    return sheet(rows, title, legend)


def most_eccentric(images: ImageSet, count: int) -> list[int]:
    """The images whose objects have their mass farthest from the box centres, in the mean; `count` of them.

    Raises:
        UserError: for a set that does not know it.
    """
    means = {}
    for index in range(len(images)):
        objects = images.annotations(index)
        if len(objects) and "eccentricity" in objects.attributes:
            means[index] = float(objects.attributes["eccentricity"].mean())
    if not means:
        raise UserError(f"{images.title} does not say how eccentric its objects are; shapes does")
    return sorted(means, key=lambda index: (-means[index], index))[:count]


def embedded(image: Image.Image, title: str) -> str:
    """A picture as an SVG file."""
    size = {"width": image.width, "height": image.height}
    inside = element("image", href=png_uri(png(image)), **size)
    svg = element(
        "svg", element("title", title), inside, xmlns="http://www.w3.org/2000/svg",
        viewBox=f"0 0 {image.width} {image.height}", **size,
    )  # fmt: skip
    return f"{svg}\n"
