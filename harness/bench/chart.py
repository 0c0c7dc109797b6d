"""The picture of measurements: time and memory over boxes, images and classes, and the ratio to dense code."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from harness.bench.batches import CROWD, USUAL_BOXES, USUAL_CLASSES, USUAL_IMAGES
from harness.bench.measurements import Line, number_of
from harness.drawing.charts import line, log_scale, new_figure, styled

if TYPE_CHECKING:
    from matplotlib.figure import Figure

USUAL = {"boxes": USUAL_BOXES, "images": USUAL_IMAGES, "classes": USUAL_CLASSES}
MEASURES = {"ms": "ms per image", "mib": "MiB per image", "ratio": "times faster than dense code"}
PANELS = (
    ("ms", "boxes"), ("ms", "images"), ("ms", "classes"), ("mib", "boxes"), ("mib", "images"), ("mib", "classes"),
    ("ratio", "boxes"),
)  # fmt: skip

Points = list[tuple[float, float]]


@styled
def draw(lines: Sequence[Line], title: str) -> Figure:
    """All panels that have something to show, names from dear to cheap; `lines` are of one machine."""
    # By the time where it had most boxes, at which an assigner's line ends in the first panel.
    times = {each["assigner"]: series(lines, each["assigner"], "ms", "boxes") for each in lines}
    names = sorted(times, key=lambda name: (-max(times[name], default=(0.0, 0.0))[1], name))
    figure = new_figure(12.5, 10.5, title)
    grid = figure.add_gridspec(3, 3)
    for index, (measure, axis) in enumerate(PANELS):
        curves = [(number, series(lines, name, measure, axis)) for number, name in enumerate(names)]
        known = [point for _, points in curves for point in points if point[1] > 0]
        if not known:
            continue
        axes = figure.add_subplot(grid[divmod(index, 3)])
        axes.set(title=MEASURES[measure], xlabel="boxes an image" if axis == "boxes" else axis)
        xs, ys = zip(*known, strict=True)
        log_scale(axes, "x", xs, sorted({*xs}))
        log_scale(axes, "y", ys)
        for number, points in curves:
            axes.plot(*zip(*((x, y) for x, y in points if y > 0), strict=True), **line(number))
    key = figure.add_subplot(grid[2, 1:])
    key.axis("off")
    for number, name in enumerate(names):
        key.plot([], label=name, **line(number))
    key.legend(loc="upper left", ncols=3, fontsize=10, labelspacing=0.8)
    return figure


def series(lines: Sequence[Line], name: str, measure: str, axis: str) -> Points:
    """An assigner's points along an axis, the others at their usual values; per image where that is what counts."""
    points = []
    for each in lines:
        usual = USUAL | ({"images": 1} if int(each["boxes"]) >= CROWD else {})  # a crowd comes in one image
        value = number_of(each, measure)
        if each["assigner"] != name or value is None or any(int(each[o]) != usual[o] for o in usual if o != axis):
            continue
        points.append((float(each[axis]), value if measure == "ratio" else value / float(each["images"])))
    return sorted(points)
