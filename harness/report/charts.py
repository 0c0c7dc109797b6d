"""The report's drawings: pure functions from numbers to SVG.

Every drawing names itself for readers who cannot see it, and each mark tells its numbers in a tooltip.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup

from harness.drawing.svg import COLOURS, Scale, dash, element, length, line, mark, number, picture, shortened, text

CELL_WIDTH, CELL_HEIGHT, CELL_EDGE = 150.0, 22.0, 7.0  # px of an interval drawn in a table
CURVE_NAME, POINT_NAME = 21, 36  # letters of a name beside a curve and beside a point
TEXT_HEIGHT = 13.0  # px of a line of text in a chart
REACH = 0.75  # of the spread of the means, that whiskers may add to a scale at each side before they are cut


@dataclass(frozen=True)
class Estimate:
    """A mean over seeds."""

    mean: float
    low: float | None = None  # of the 95 % interval; None for a single seed
    high: float | None = None
    values: tuple[float, ...] = ()  # one per seed


def fitted(estimates: Iterable[Estimate], start: float, end: float, *, zero: bool = False) -> Scale:
    """A scale that holds every mean and every seed (and nought), and as much of the whiskers as leaves the means apart.

    Two seeds can give an interval fifty points wide; on a scale that held it, all dots would fall together.
    """
    known = list(estimates)
    inner = [value for estimate in known for value in (estimate.mean, *estimate.values)] + ([0.0] if zero else [])
    if not inner:
        return Scale(0.0, 1.0, start, end)
    low, high = min(inner), max(inner)
    reach = REACH * max(high - low, 1e-3 * abs(high), 1e-3)
    lows = [max(estimate.low, low - reach) for estimate in known if estimate.low is not None]
    highs = [min(estimate.high, high + reach) for estimate in known if estimate.high is not None]
    low, high = min([low, *lows]), max([high, *highs])
    pad = 0.03 * (high - low) or 0.5
    return Scale(low - (0 if zero and low == 0 else pad), high + pad, start, end)


def cell_scale(estimates: Iterable[Estimate], *, zero: bool = False, width: float = CELL_WIDTH) -> Scale:
    """The common scale of columns of `interval`."""
    return fitted(estimates, CELL_EDGE, width - CELL_EDGE, zero=zero)


def interval(estimate: Estimate, scale: Scale, series: int, words: str, width: float = CELL_WIDTH) -> Markup:
    """A dot for the mean, a whisker for its interval and a faint ring for each seed, to stand in a table's cell.

    A whisker that leaves the scale ends in an arrow head. A single seed is a hollow mark.
    """
    middle = CELL_HEIGHT / 2
    parts = [line(scale(tick), 0, scale(tick), CELL_HEIGHT, "grid") for tick in _ticks(scale)]
    if estimate.low is not None and estimate.high is not None:
        parts += _whisker(scale, estimate.low, estimate.high, middle)
    parts += [element("circle", cx=scale(value), cy=middle, r=2.2, class_="seed") for value in estimate.values]
    parts.append(mark(series, scale(estimate.mean), middle, hollow=estimate.low is None))
    return picture(width, CELL_HEIGHT, words, element("title", words), *parts, class_="cell")


def axis(scale: Scale, width: float = CELL_WIDTH) -> Markup:
    """The numbers above a column of `interval`."""
    ticks = _ticks(scale)
    parts = []
    for tick in ticks:
        parts += [text(scale(tick), 10, number(tick), "tick", "middle"), line(scale(tick), 13, scale(tick), 16, "grid")]
    shown = f"scale from {number(ticks[0])} to {number(ticks[-1])}" if ticks else "scale"
    return picture(width, 16, shown, *parts, class_="cell")


def _ticks(scale: Scale) -> list[float]:
    """As many round values as have room for their numbers."""
    options = (scale.ticks(wanted) for wanted in (5, 4, 3, 2))
    room = scale.end - scale.start
    fitting = (ticks for ticks in options if sum(length(number(tick)) + 6 for tick in ticks) <= room)
    return next(fitting, scale.ticks(1))


def _whisker(scale: Scale, low: float, high: float, y: float) -> list[Markup]:
    left, right = scale.clipped(low), scale.clipped(high)
    parts = [line(left, y, right, y, "whisker")]
    for value, x, sign in ((low, left, 1), (high, right, -1)):
        inside = scale.low <= value <= scale.high
        start = x if inside else x - 4 * sign
        end = f"V{y + 3:.2f}" if inside else f"L{x:.2f} {y:.2f}L{start:.2f} {y + 3:.2f}"
        parts.append(element("path", d=f"M{start:.2f} {y - 3:.2f}{end}", class_="whisker"))
    return parts


@dataclass(frozen=True)
class Point:
    """An assigner between its cost and its result."""

    name: str  # written beside the mark
    series: int  # of the mark
    x: float  # cost
    x_low: float  # the smallest over runs
    x_high: float  # the largest
    y: Estimate  # result


@dataclass(frozen=True)
class Area:
    """A rectangle in px."""

    left: float
    top: float
    right: float
    bottom: float

    def overlap(self, other: Area) -> float:
        """The common area in px²."""
        width = min(self.right, other.right) - max(self.left, other.left)
        height = min(self.bottom, other.bottom) - max(self.top, other.top)
        return max(width, 0.0) * max(height, 0.0)


def scatter(points: Sequence[Point], x_words: str, y_words: str, *, width: float = 760, height: float = 420) -> Markup:
    """Result against cost, both with their spread; a stepped line joins those that none is better and cheaper than."""
    plot = Area(52, 14, width - 16, height - 44)
    xs = [value for point in points for value in (point.x_low, point.x_high)]
    room = 0.06 * (max(xs) - min(xs)) or 0.1 * max(xs) or 1.0
    across = Scale(max(0.0, min(xs) - room), max(xs) + room, plot.left, plot.right)
    up = fitted([point.y for point in points], plot.bottom, plot.top)
    parts = [*_frame(plot, across, up, x_words, y_words)]
    frontier = _frontier(points)
    steps = f"M{across(frontier[0].x):.2f} {up(frontier[0].y.mean):.2f}" + "".join(
        f"H{across(point.x):.2f}V{up(point.y.mean):.2f}" for point in frontier[1:]
    )
    parts.append(element("path", d=f"{steps}H{plot.right:.2f}", class_="frontier"))
    marks = []
    places = [(across(point.x), up(point.y.mean)) for point in points]
    for point, (x, y) in zip(points, places, strict=True):
        bars = [line(across(point.x_low), y, across(point.x_high), y, "whisker faint")]
        if point.y.low is not None and point.y.high is not None:
            bars.append(line(x, up.clipped(point.y.low), x, up.clipped(point.y.high), "whisker faint"))
        cost = f"{number(point.x, 0)} ({number(point.x_low, 0)} to {number(point.x_high, 0)})"
        words = f"{point.name}: {_estimate_words(point.y)}; {cost}"
        symbol = mark(point.series, x, y, 5, hollow=point.y.low is None)
        marks.append(element("g", element("title", words), *bars, symbol, data_entry=point.name))
    names = [shortened(point.name, POINT_NAME) for point in points]
    for name, (x, y), label in zip(names, places, label_places(names, places, plot), strict=True):
        end = min(max(x, label.left), label.right), min(max(y, label.top), label.bottom)
        if math.dist((x, y), end) > 14:
            parts.append(line(x, y, *end, "leader"))
        marks.append(text(label.left + 1, label.bottom - 3, name, "label"))
    return picture(width, height, f"{y_words} against {x_words}", *parts, *marks)


def _frontier(points: Sequence[Point]) -> list[Point]:
    """The points that no other is both cheaper and better than, from cheap to dear."""
    kept: list[Point] = []
    for point in sorted(points, key=lambda p: (p.x, -p.y.mean)):
        if not kept or point.y.mean > kept[-1].y.mean:
            kept.append(point)
    return kept


def label_places(names: Sequence[str], places: Sequence[tuple[float, float]], plot: Area) -> list[Area]:
    """Where the names of points go: near their own, off every other mark and name, within the plot.

    Each name in turn takes the nearest free place on rings around its point, which is found as long as the plot has
    room at all; else the place that covers least.
    """
    marks = [Area(x - 7, y - 7, x + 7, y + 7) for x, y in places]
    taken: list[Area] = []
    for name, (x, y) in zip(names, places, strict=True):
        size = length(name) + 2
        options = []
        for ring in range(1, 40):
            for turn in range(16):
                angle = math.tau * turn / 16
                reach = 4.0 + 8.0 * ring
                # A ring of rectangles: the name's nearest edge, not its middle, keeps the distance.
                centre_x = x + math.cos(angle) * (reach + size / 2)
                centre_y = y + math.sin(angle) * (reach + TEXT_HEIGHT / 2 - 2)
                left = min(max(centre_x - size / 2, plot.left), plot.right - size)
                top = min(max(centre_y - TEXT_HEIGHT / 2, plot.top), plot.bottom - TEXT_HEIGHT)
                area = Area(left, top, left + size, top + TEXT_HEIGHT)
                options.append((sum(area.overlap(other) for other in (*marks, *taken)), ring, turn, area))
            if any(cover == 0 for cover, *_ in options):
                break
        taken.append(min(options, key=lambda option: option[:3])[-1])
    return taken


@dataclass(frozen=True)
class Curve:
    """One line of `curves`: a value for each step, None where there is none."""

    name: str
    series: int
    steps: Sequence[int]
    values: Sequence[float | None]


def curves(lines: Sequence[Curve], words: str, *, log: bool, width: float = 380, height: float = 320) -> Markup:
    """Values over training steps, each line named at its end."""
    margin = max(length(shortened(curve.name, CURVE_NAME)) for curve in lines) + 34
    plot = Area(44, 12, width - margin, height - 40)
    known = [pair for curve in lines for pair in _drawable(curve, log)]
    if not known:
        raise ValueError(f"nothing to draw for {words}")
    steps, values = zip(*known, strict=True)
    low, high = min(values), max(values)
    if low == high:
        low, high = (low / 2, high * 2) if log else (low - 0.5, high + 0.5)
    across = Scale(0, max(max(steps), 1), plot.left, plot.right)
    up = Scale(low, high, plot.bottom, plot.top, log)
    parts = [*_frame(plot, across, up, "training step", "", wanted=4)]
    ends = []
    for curve in lines:
        kept = _drawable(curve, log)
        if not kept:
            continue
        drawn = [(across(step), up(value)) for step, value in kept]
        path = "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in drawn)
        stroke = element("path", d=path, class_=f"curve s{curve.series % COLOURS}", stroke_dasharray=dash(curve.series))
        title = element("title", f"{curve.name}: {number(kept[-1][1], 3)} at the end")
        parts.append(element("g", title, stroke, data_entry=curve.name))
        ends.append((curve, drawn[-1]))
    heights = spread_out([y for _, (_, y) in ends], TEXT_HEIGHT, plot.top, plot.bottom)
    for (curve, (x, y)), label in zip(ends, heights, strict=True):
        parts.append(element("path", d=f"M{x + 1:.1f} {y:.1f}L{plot.right + 16:.1f} {label:.1f}", class_="leader"))
        parts.append(mark(curve.series, plot.right + 22, label, 3.4))
        parts.append(text(plot.right + 30, label + 4, shortened(curve.name, CURVE_NAME), "label"))
    return picture(width, height, words, *parts)


def spread_out(wanted: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Places at least `gap` apart, in the order of what is wanted and as near it as can be (least squares).

    Without the gaps this is isotonic regression, so neighbours that are too near are pooled about their mean. All lie
    within the limits if these suffice.
    """
    from scipy.optimize import isotonic_regression

    order, gaps = np.argsort(wanted, kind="stable"), gap * np.arange(len(wanted))
    bases = isotonic_regression(np.asarray(wanted)[order] - gaps).x
    places = np.empty(len(wanted))
    places[order] = bases.clip(low, max(low, high - gap * (len(wanted) - 1))) + gaps
    return places.tolist()


def _drawable(curve: Curve, log: bool) -> list[tuple[int, float]]:
    """The steps with a value that the scale can hold."""
    pairs = zip(curve.steps, curve.values, strict=True)
    return [(s, v) for s, v in pairs if v is not None and math.isfinite(v) and (v > 0 or not log)]


def _frame(plot: Area, across: Scale, up: Scale, x_words: str, y_words: str, wanted: int = 6) -> Iterable[Markup]:
    """Grid lines with their numbers, and what the axes are."""
    for tick in up.ticks(5):
        yield line(plot.left, up(tick), plot.right, up(tick), "grid")
        yield text(plot.left - 6, up(tick) + 4, number(tick), "tick", "end")
    for tick in across.ticks(wanted):
        yield line(across(tick), plot.bottom, across(tick), plot.bottom + 4, "grid")
        yield text(across(tick), plot.bottom + 16, number(tick), "tick", "middle")
    yield line(plot.left, plot.bottom, plot.right, plot.bottom, "axis")
    yield text((plot.left + plot.right) / 2, plot.bottom + 33, x_words, "title", "middle")
    if y_words:
        yield element(
            "text", y_words, class_="title", text_anchor="middle",
            transform=f"translate(13 {(plot.top + plot.bottom) / 2:.1f}) rotate(-90)",
        )  # fmt: skip


def _estimate_words(estimate: Estimate) -> str:
    if estimate.low is None or estimate.high is None:
        return number(estimate.mean, 1)
    return f"{number(estimate.mean, 1)} ({number(estimate.low, 1)} to {number(estimate.high, 1)})"
